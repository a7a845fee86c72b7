"""The Transformer's loss and its gradients by hand: what `autograd` computes, several times faster on small models.

A step of a small model is hundreds of tiny kernels, so what counts is how few there are and how well each runs:

- no graph is recorded, and every gradient is written where the optimiser reads it, so nothing is zeroed or added;
- activations are feature-major, (D, N): a product then has N columns to vectorise over, however narrow the model;
- the gain of a norm is folded into the matrix behind it: W (g * x) = (W g) x;
- attention is four batched products and a softmax on (B H, T, T): at these lengths several times faster than the
  blocked kernel, whose head width of 8 leaves it little to do.

Each piece returns its output and a function from the gradient of the output to the gradient of the input. Tests hold
the sum of it to autograd through `models.transformer`.

Shape suffixes: B batch, T position, N = B x T, D width, H heads, K width of a head, F width of the MLP, V vocabulary,
E any output width; S = B x H.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from models.transformer import NORM_EPS, Block, Transformer, rotary_tables

Backward = Callable[[Tensor], Tensor]


@torch.no_grad()
def logits(model: Transformer, inputs_BT: Tensor) -> Tensor:
    """What the model itself returns, (B, T, V), without recording anything: for evaluation."""
    x_DN, _ = _blocks(model, inputs_BT)
    return _head(model, x_DN)[0].unflatten(0, inputs_BT.shape)


@torch.no_grad()
def loss_and_gradients(model: Transformer, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats/token; overwrites the `grad` of every parameter, which must be allocated."""
    x_DN, undo = _blocks(model, inputs_BT)
    logits_NV, backward = _head(model, x_DN)
    loss, dlogits_NV = _cross_entropy(logits_NV, targets_BT.reshape(-1, 1))
    dx_DN = backward(dlogits_NV.t())
    for backward in reversed(undo):
        dx_DN = backward(dx_DN)
    if not model.config.tied:  # a tied matrix already holds the gradient of the head
        model.embedding.grad.zero_()
    model.embedding.grad.index_add_(0, inputs_BT.flatten(), dx_DN.t())
    return loss


def _blocks(model: Transformer, inputs_BT: Tensor) -> tuple[Tensor, list[Backward]]:
    """The residual stream after the last block."""
    x_DN = model.embedding.index_select(0, inputs_BT.flatten()).t().contiguous()
    undo = []
    for block in model.blocks:
        for sublayer in (_attention_sublayer, _mlp_sublayer):
            x_DN, backward = sublayer(block, x_DN, inputs_BT.shape)
            undo.append(backward)
    return x_DN, undo


def _head(model: Transformer, x_DN: Tensor) -> tuple[Tensor, Backward]:
    """Logits with the vocabulary innermost: the softmax runs along it."""
    logits_NV = x_DN.new_empty(x_DN.shape[1], len(model.head))
    _, backward = _normed_linear(x_DN, model.norm, model.head, out=logits_NV.t())
    return logits_NV, backward


def _attention_sublayer(block: Block, x_DN: Tensor, shape: torch.Size) -> tuple[Tensor, Backward]:
    qkv_EN, norm_backward = _normed_linear(x_DN, block.attention_norm, block.qkv)
    y_DN, attend_backward = _attend(qkv_EN, block.n_head, shape)

    def backward(dy_DN: Tensor) -> Tensor:
        torch.mm(dy_DN, y_DN.t(), out=block.output.grad)
        return norm_backward(attend_backward(block.output.t() @ dy_DN)).add_(dy_DN)

    return torch.addmm(x_DN, block.output, y_DN), backward


def _mlp_sublayer(block: Block, x_DN: Tensor, _: torch.Size) -> tuple[Tensor, Backward]:
    gate_up_EN, norm_backward = _normed_linear(x_DN, block.mlp_norm, block.gate_up)
    gate_FN, up_FN = gate_up_EN.chunk(2)
    sigmoid_FN = gate_FN.sigmoid()
    silu_FN = gate_FN * sigmoid_FN
    hidden_FN = silu_FN * up_FN

    def backward(dy_DN: Tensor) -> Tensor:
        torch.mm(dy_DN, hidden_FN.t(), out=block.down.grad)
        dhidden_FN = block.down.t() @ dy_DN
        dgate_up_EN = torch.empty_like(gate_up_EN)
        dgate_FN, dup_FN = dgate_up_EN.chunk(2)
        torch.mul(dhidden_FN, silu_FN, out=dup_FN)
        torch.add(sigmoid_FN, silu_FN, out=dgate_FN).addcmul_(silu_FN, sigmoid_FN, value=-1)  # the derivative of silu
        dgate_FN.mul_(dhidden_FN.mul_(up_FN))
        return norm_backward(dgate_up_EN).add_(dy_DN)

    return torch.addmm(x_DN, block.down, hidden_FN), backward


def _normed_linear(
    x_DN: Tensor, gain_D: nn.Parameter, weight_ED: nn.Parameter, out: Tensor | None = None
) -> tuple[Tensor, Backward]:
    """weight (gain * x / rms(x)), (E, N)."""
    mean_1D, eps_11 = _averaging(len(x_DN), x_DN.device)
    scale_1N = torch.addmm(eps_11, mean_1D, x_DN.square()).rsqrt_()
    unit_DN = x_DN * scale_1N
    folded_ED = weight_ED * gain_D

    def backward(dy_EN: Tensor) -> Tensor:
        dfolded_ED = torch.mm(unit_DN, dy_EN.t()).t()
        torch.mul(dfolded_ED, gain_D, out=weight_ED.grad)
        torch.sum(dfolded_ED.mul_(weight_ED), 0, out=gain_D.grad)
        dunit_DN = folded_ED.t() @ dy_EN
        along_1N = mean_1D @ (dunit_DN * unit_DN)
        return dunit_DN.addcmul_(unit_DN, along_1N, value=-1).mul_(scale_1N)

    return torch.mm(folded_ED, unit_DN, out=out), backward


def _attend(qkv_EN: Tensor, n_head: int, shape: torch.Size) -> tuple[Tensor, Backward]:
    """Causal attention over rotated queries and keys, (D, N)."""
    batch, length = shape
    width = len(qkv_EN) // (3 * n_head)
    cos, sin, mask_TT = _tables(length, width, qkv_EN.device)
    qkv = qkv_EN.view(3, n_head, 2, width // 2, batch, length)

    def by_head() -> tuple[Tensor, Tensor]:
        """Room for q, k, v as (3, S, K, T), and the same room in the order of `qkv`."""
        room = qkv.new_empty(3, batch, n_head, 2, width // 2, length)
        return room.view(3, -1, width, length), room.permute(0, 2, 3, 4, 1, 5)

    (q_SKT, k_SKT, v_SKT), rotated = by_head()
    torch.mul(qkv, cos, out=rotated).addcmul_(qkv.flip(2), sin)
    weight_STU = torch.baddbmm(mask_TT, q_SKT.transpose(1, 2), k_SKT).softmax(-1)
    y_SKT = torch.bmm(v_SKT, weight_STU.transpose(1, 2))

    def backward(dy_DN: Tensor) -> Tensor:
        dy_SKT = dy_DN.view(n_head, width, batch, length).permute(2, 0, 1, 3).reshape(q_SKT.shape)
        dweight_STU = torch.bmm(dy_SKT.transpose(1, 2), v_SKT)
        dscore_STU = torch._softmax_backward_data(dweight_STU, weight_STU, -1, weight_STU.dtype)
        (dq_SKT, dk_SKT, dv_SKT), drotated = by_head()
        torch.bmm(k_SKT, dscore_STU.transpose(1, 2), out=dq_SKT)
        torch.bmm(q_SKT, dscore_STU, out=dk_SKT)
        torch.bmm(dy_SKT, weight_STU, out=dv_SKT)
        dqkv = torch.mul(drotated, cos, out=torch.empty_like(qkv))
        return dqkv.addcmul_(drotated.flip(2), sin, value=-1).view_as(qkv_EN)

    return y_SKT.view(batch, n_head, width, length).permute(1, 2, 0, 3).reshape(n_head * width, -1), backward


def _cross_entropy(logits_NV: Tensor, targets_N1: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss, and the gradient of the logits."""
    p_NV = logits_NV.softmax(1)
    p_N1 = p_NV.gather(1, targets_N1)
    loss = p_N1.clamp_min(torch.finfo(p_N1.dtype).tiny).log_().mean().neg_()
    return loss, p_NV.scatter_(1, targets_N1, p_N1 - 1).div_(len(p_NV))


@lru_cache(maxsize=8)
def _averaging(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A row that averages over the width as a product, and the epsilon of the norms."""
    return torch.full((1, width), 1 / width, device=device), torch.full((1, 1), NORM_EPS, device=device)


@lru_cache(maxsize=8)
def _tables(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """cos and sin over (q k v, H, halves, K / 2, B, T), and the causal mask.

    Queries carry the scale of the scores, values are not rotated.
    """
    cos_T1K, sin_T1K = rotary_tables(length, width)
    cos, sin = (table.view(length, 2, width // 2).permute(1, 2, 0) for table in (cos_T1K, sin_T1K))
    cos = torch.stack([cos * width**-0.5, cos, torch.ones_like(cos)])[:, None, :, :, None]
    sin = torch.stack([sin * width**-0.5, sin, torch.zeros_like(sin)])[:, None, :, :, None]
    mask_TT = torch.full((length, length), -torch.inf).triu_(1)
    return cos.to(device), sin.to(device), mask_TT.to(device)
