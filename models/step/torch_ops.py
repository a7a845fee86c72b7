"""What the hand-written step of a Transformer is made of, in torch: any device, any number of threads.

`c_ops` has the same functions in C for one core; `Ops` is what both have. The scale of a norm, 1 / rms of a column, is
not applied to the column but to the product of the matrix behind it: W (x s) = (W x) s. So a function that reads a
product scales it, and the gradient it returns is that of the unscaled product.

Shape suffixes: B batch, T position, N = B x T, D width, H heads, K width of a head, F width of the MLP, V vocabulary,
E any output width; S = B x H.
"""

from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

from isoflop.models.transformer import NORM_EPS, rotary_tables

Backward = Callable[[Tensor], Tensor]  # from the gradient of a function's output to that of its input


class Ops(Protocol):
    """The functions of this module and of `c_ops`. Their first input may be overwritten, its room holding the output.

    `keep` says whether what `Backward` needs is to be kept; without it the function returned must not be called.
    """

    def product(self, a_IK: Tensor, b_KJ: Tensor, *, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """a (I, K) times b (K, J), or `plus` added to it, in `out` if given."""

    def embed(self, embedding_VD: Tensor, tokens_N: Tensor) -> Tensor:
        """The rows of the tokens as columns, (D, N)."""

    def embed_backward(self, tokens_N: Tensor, dx_DN: Tensor, gradient_VD: Tensor) -> None:
        """Add the columns of dx (D, N) to the rows of their tokens in the gradient (V, D)."""

    def fold_backward(self, gradient_ED: Tensor, weight_ED: Tensor, gain_D: Tensor, dgain_D: Tensor) -> None:
        """From the gradient of weight x gain (E, D): that of the weight in place, that of the gain (D) in `dgain_D`."""

    def norm_scale(self, x_DN: Tensor) -> Tensor:
        """1 / rms of every column, (N)."""

    def norm_backward(self, g_DN: Tensor, x_DN: Tensor, scale_N: Tensor, residual_DN: Tensor | None) -> Tensor:
        """Gradient of x (D, N) plus the residual's, from the gradient with the norm's scale held constant."""

    def swiglu(self, gate_up_EN: Tensor, scale_N: Tensor, *, keep: bool) -> tuple[Tensor, Backward]:
        """Hidden activations (F, N) of scaled gate and up (2 F, N), and the gradient of these."""

    def attend(
        self, qkv_EN: Tensor, scale_N: Tensor, n_head: int, shape: torch.Size, *, keep: bool
    ) -> tuple[Tensor, Backward]:
        """Causal attention of scaled q, k, v (3 D, N), `shape` (B, T): (D, N), and the gradient of q, k, v."""

    def cross_entropy(self, logits_NV: Tensor, scale_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss in nats/token of scaled logits (N, V), and its gradient by them."""

    def score(self, logits_NV: Tensor, scale_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of every target, and whether it is the most likely token, both (N)."""


def product(a_IK: Tensor, b_KJ: Tensor, *, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """a b, or `plus` + a b, in `out` if given."""
    return torch.mm(a_IK, b_KJ, out=out) if plus is None else torch.addmm(plus, a_IK, b_KJ, out=out)


def embed(embedding_VD: Tensor, tokens_N: Tensor) -> Tensor:
    """The rows of the tokens as columns, (D, N)."""
    return embedding_VD.index_select(0, tokens_N).t().contiguous()


def embed_backward(tokens_N: Tensor, dx_DN: Tensor, gradient_VD: Tensor) -> None:
    """Add to each row of `gradient_VD` the columns of `dx_DN` where its token stands."""
    gradient_VD.index_add_(0, tokens_N, dx_DN.t())


def fold_backward(gradient_ED: Tensor, weight_ED: Tensor, gain_D: Tensor, dgain_D: Tensor) -> None:
    """From the gradient of weight x gain, in place the gradient of the weight; that of the gain into `dgain_D`."""
    torch.sum(gradient_ED * weight_ED, 0, out=dgain_D)
    gradient_ED.mul_(gain_D)


def norm_scale(x_DN: Tensor) -> Tensor:
    """1 / rms of every column, (N)."""
    return x_DN.square().mean(0).add_(NORM_EPS).rsqrt_()


def norm_backward(g_DN: Tensor, x_DN: Tensor, scale_N: Tensor, residual_DN: Tensor | None) -> Tensor:
    """Gradient of x, plus `residual_DN`, from `g_DN`, the gradient of x as if the scale were a constant."""
    along_N = (g_DN * x_DN).mean(0).mul_(scale_N.square())
    g_DN.addcmul_(x_DN, along_N, value=-1)
    return g_DN if residual_DN is None else g_DN.add_(residual_DN)


def swiglu(gate_up_EN: Tensor, scale_N: Tensor, *, keep: bool) -> tuple[Tensor, Backward]:
    """Hidden activations, (F, N)."""
    gate_FN, up_FN = gate_up_EN.mul_(scale_N).chunk(2)
    sigmoid_FN = gate_FN.sigmoid()
    silu_FN = gate_FN * sigmoid_FN
    hidden_FN = silu_FN * up_FN
    if keep:  # the two factors that turn the gradient of hidden into those of gate and up
        gate_FN.copy_(silu_FN).addcmul_(silu_FN, sigmoid_FN, value=-1).add_(sigmoid_FN).mul_(up_FN).mul_(scale_N)
        torch.mul(silu_FN, scale_N, out=up_FN)
    return hidden_FN, lambda dhidden_FN: gate_up_EN.view(2, *dhidden_FN.shape).mul_(dhidden_FN).view_as(gate_up_EN)


def attend(qkv_EN: Tensor, scale_N: Tensor, n_head: int, shape: torch.Size, *, keep: bool) -> tuple[Tensor, Backward]:
    """Causal attention over rotated queries and keys, (D, N)."""
    del keep
    batch, length = shape
    width = len(qkv_EN) // (3 * n_head)
    cos, sin, mask_TT = _tables(length, width, qkv_EN.device)
    qkv = qkv_EN.mul_(scale_N).view(3, n_head, 2, width // 2, batch, length)

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
        return dqkv.addcmul_(drotated.flip(2), sin, value=-1).view_as(qkv_EN).mul_(scale_N)

    return y_SKT.view(batch, n_head, width, length).permute(1, 2, 0, 3).reshape(n_head * width, -1), backward


def cross_entropy(logits_NV: Tensor, scale_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss in nats, and the gradient of the logits before the scale."""
    log_p_NV = logits_NV.mul_(scale_N[:, None]).log_softmax(1)
    targets_N1 = targets_N[:, None]
    loss = log_p_NV.gather(1, targets_N1).mean().neg_()
    gradient_NV = log_p_NV.exp_()
    gradient_NV.scatter_add_(1, targets_N1, -torch.ones_like(targets_N1, dtype=gradient_NV.dtype))
    return loss, gradient_NV.mul_((scale_N / len(scale_N))[:, None])


def score(logits_NV: Tensor, scale_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every target, and whether it is the most likely token."""
    logits_NV.mul_(scale_N[:, None])
    return F.cross_entropy(logits_NV, targets_N, reduction="none"), logits_NV.argmax(1) == targets_N


@cache  # kept for good: a CUDA graph reads them at their addresses
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
