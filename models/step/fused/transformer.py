"""The training step of the Transformer of default parts on a GPU: gradients by hand over tokens by rows.

Between the products stands one kernel each (`kernels`), and no graph is recorded but for attention over long texts.
Products run in bfloat16 or float32, the residual stream, norms, losses and the gradients of weights in float32, as
autocast has it. Nothing is read back to the host: a step can be captured as a CUDA graph.

Shape suffixes: B batch, T position, N = B x T, D width, E any output width, F width of the MLP, H heads, K width of a
head, V vocabulary.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from isoflop.models.step.fused import kernels
from isoflop.models.step.parts.norm import gradient
from isoflop.models.transformer import Block, Transformer

Backward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of the residual stream, in float32 and lowered


class Fused:
    """One model's step, its products in `low` (torch.bfloat16 or torch.float32)."""

    def __init__(self, model: Transformer, low: torch.dtype) -> None:
        self.model, self.low = model, low
        self.weights = Lowered(model.parameters(), low)

    @torch.no_grad()
    def logits(self, inputs_BT: Tensor) -> Tensor:
        """Logits (B, T, V) in float32, without recording anything."""
        self.weights.refresh()
        logits_NV, _ = self._forward(inputs_BT, undo=None)
        return logits_NV.float().unflatten(0, inputs_BT.shape)

    @torch.no_grad()
    def score(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of every target, and whether it is the most likely token, both (B, T)."""
        logits_NV = self.logits(inputs_BT).flatten(0, 1)
        nats_N = F.cross_entropy(logits_NV, targets_BT.flatten(), reduction="none")
        return nats_N.view_as(targets_BT), logits_NV.argmax(1).view_as(targets_BT) == targets_BT

    @torch.no_grad()
    def loss_and_gradients(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter, which must be allocated."""
        undo: list[Backward] = []
        self.weights.refresh()
        logits_NV, head_backward = self._forward(inputs_BT, undo=undo)
        loss = kernels.cross_entropy(logits_NV, targets_BT.flatten().contiguous())
        dx_ND, low_ND = head_backward(logits_NV)
        for backward in reversed(undo):
            dx_ND, low_ND = backward(dx_ND, low_ND)
        gradient_VD = gradient(self.model.embedding)
        if not self.model.config.tied:  # else that of the head lies there
            gradient_VD.zero_()
        gradient_VD.index_add_(0, inputs_BT.flatten(), dx_ND)
        return loss

    def _forward(
        self, inputs_BT: Tensor, *, undo: list[Backward] | None
    ) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        """Logits (N, V), and from their gradient to that of the residual stream before the last norm.

        The backward of every sublayer is added to `undo`, first to last.
        """
        model = self.model
        x_ND, delta_ND = F.embedding(inputs_BT.flatten(), model.embedding), None
        for block in model.blocks:
            for sublayer in (self._attention, self._mlp):
                x_ND, delta_ND, backward = sublayer(block, x_ND, delta_ND, inputs_BT.shape)
                if undo is not None:
                    undo.append(backward)
        x_ND, h_ND, scale_N = kernels.norm(x_ND, delta_ND, model.norm.detach(), self.low)

        def head_backward(dlogits_NV: Tensor) -> tuple[Tensor, Tensor]:
            weight_gradient(dlogits_NV, h_ND, model.head)
            dh_ND = dlogits_NV @ self.weights[model.head]
            return kernels.norm_backward(dh_ND, x_ND, scale_N, model.norm.detach(), None, gradient(model.norm))

        return h_ND @ self.weights[model.head].t(), head_backward

    def _attention(
        self, block: Block, x_ND: Tensor, delta_ND: Tensor | None, shape: torch.Size
    ) -> tuple[Tensor, Tensor, Backward]:
        """x + delta, what attention adds to it, and the backward of that sum."""
        length, gain_D = shape[1], block.attention_norm.detach()
        tables = self.model.cos[:length], self.model.sin[:length]
        x_ND, h_ND, scale_N = kernels.norm(x_ND, delta_ND, gain_D, self.low)
        qkv_NE = h_ND @ self.weights[block.qkv].t()
        y_ND, attend_backward = attend(qkv_NE, *tables, block.n_head, shape)

        def backward(dx_ND: Tensor, low_ND: Tensor) -> tuple[Tensor, Tensor]:
            weight_gradient(low_ND, y_ND, block.output)
            dqkv_NE = attend_backward(low_ND @ self.weights[block.output])
            weight_gradient(dqkv_NE, h_ND, block.qkv)
            dh_ND = dqkv_NE @ self.weights[block.qkv]
            return kernels.norm_backward(dh_ND, x_ND, scale_N, gain_D, dx_ND, gradient(block.attention_norm))

        return x_ND, y_ND @ self.weights[block.output].t(), backward

    def _mlp(
        self, block: Block, x_ND: Tensor, delta_ND: Tensor | None, shape: torch.Size
    ) -> tuple[Tensor, Tensor, Backward]:
        """x + delta, what the MLP adds to it, and the backward of that sum."""
        del shape
        gain_D = block.mlp_norm.detach()
        x_ND, h_ND, scale_N = kernels.norm(x_ND, delta_ND, gain_D, self.low)
        gate_up_NE = h_ND @ self.weights[block.gate_up].t()
        hidden_NF = kernels.swiglu(gate_up_NE)

        def backward(dx_ND: Tensor, low_ND: Tensor) -> tuple[Tensor, Tensor]:
            weight_gradient(low_ND, hidden_NF, block.down)
            dgate_up_NE = kernels.swiglu_backward(low_ND @ self.weights[block.down], gate_up_NE)
            weight_gradient(dgate_up_NE, h_ND, block.gate_up)
            dh_ND = dgate_up_NE @ self.weights[block.gate_up]
            return kernels.norm_backward(dh_ND, x_ND, scale_N, gain_D, dx_ND, gradient(block.mlp_norm))

        return x_ND, hidden_NF @ self.weights[block.down].t(), backward


def attend(
    qkv_NE: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, n_head: int, shape: torch.Size
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Causal attention (N, D) of q, k, v (N, 3 D), which may be overwritten, and from its gradient to theirs.

    Short texts in one kernel each; longer ones by torch's fused attention, differentiated by itself.
    """
    width = qkv_NE.shape[1] // (3 * n_head)
    if shape[1] <= kernels.SHORT and width <= kernels.NARROW:
        return kernels.attend_at_once(qkv_NE, cos_T1K, sin_T1K, n_head, shape)
    kernels.rotate(qkv_NE, cos_T1K, sin_T1K, n_head, shape[1])
    with torch.enable_grad():
        parts = qkv_NE.detach().view(*shape, 3, n_head, width).unbind(2)
        q_BHTK, k_BHTK, v_BHTK = (part.transpose(1, 2).requires_grad_() for part in parts)
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)

    def backward(dy_ND: Tensor) -> Tensor:
        dy_BHTK = dy_ND.view(*shape, n_head, width).transpose(1, 2)
        return kernels.rotate_backward(torch.autograd.grad(y_BHTK, (q_BHTK, k_BHTK, v_BHTK), dy_BHTK), cos_T1K, sin_T1K)

    return y_BHTK.detach().transpose(1, 2).reshape(-1, n_head * width), backward


class Lowered:
    """Parameters as the products read them: themselves in float32, copies in bfloat16.

    An optimizer holds all parameters in one vector: then a refresh is one kernel.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], low: torch.dtype) -> None:
        self._copies: list[tuple[Tensor, Tensor]] = []  # (all of one storage, lowered)
        self._lowered: dict[int, Tensor] = {}
        by_storage: dict[int, tuple[Tensor, Tensor]] = {}
        for parameter in parameters:
            if low == parameter.dtype:
                self._lowered[id(parameter)] = parameter.detach()
                continue
            storage = parameter.untyped_storage()
            if storage.data_ptr() not in by_storage:
                whole = torch.empty(0, dtype=parameter.dtype, device=parameter.device).set_(storage)
                by_storage[storage.data_ptr()] = whole, torch.empty_like(whole, dtype=low)
            _, copy = by_storage[storage.data_ptr()]
            place = parameter.shape, parameter.stride(), parameter.storage_offset()
            self._lowered[id(parameter)] = copy.as_strided(*place)
        self._copies = list(by_storage.values())

    def refresh(self) -> None:
        """Copy what an optimizer has changed."""
        for whole, copy in self._copies:
            copy.copy_(whole)

    def __getitem__(self, parameter: nn.Parameter) -> Tensor:
        """The matrix as products read it."""
        return self._lowered[id(parameter)]


def weight_gradient(dy_NE: Tensor, x_ND: Tensor, weight_ED: nn.Parameter) -> None:
    """Write dy' x, the gradient of a matrix by which rows of x were multiplied, in float32."""
    out_ED = gradient(weight_ED)
    if dy_NE.dtype == out_ED.dtype:
        torch.mm(dy_NE.t(), x_ND, out=out_ED)
    elif dy_NE.is_cuda:
        torch.mm(dy_NE.t(), x_ND, out_dtype=out_ED.dtype, out=out_ED)
    else:
        out_ED.copy_(dy_NE.t() @ x_ND)
