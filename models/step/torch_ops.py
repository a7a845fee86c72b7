"""What the parts of the hand-written step are made of, in torch: any device, any number of threads.

`c_ops` has the same functions in C for one core; `Ops` is what both have. The scale of a norm, 1 / rms of a column, is
not applied to the column but to the product of the matrix behind it: W (x s) = (W x) s. So a function that reads a
product scales it, and the gradient it returns is that of the unscaled product.

Shape suffixes: B batch, T position, N = B x T, D width, H heads, K width of a head, F width of the MLP, V vocabulary,
E any output width or the experts, k experts per token, M = k N pairs, G = 4 D gates of an LSTM; S = B x H.
"""

from collections.abc import Callable
from functools import cache
from itertools import accumulate
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

from isoflop.models.transformer import NORM_EPS, rotary_tables

Backward = Callable[[Tensor], Tensor]  # from the gradient of a function's output to that of its input

# From the gradient of an output, one to add to it or None, and room for the gradients of gain and bias (None without
# bias), to the gradient of the input.
ParametricBackward = Callable[[Tensor, Tensor | None, Tensor, Tensor | None], Tensor]

# From the gradient of an output, and room for that of a bias, to the gradient of the input.
BiasedBackward = Callable[[Tensor, Tensor], Tensor]
# From the gradient of the weights (k, N), and that of the experts' probabilities by whatever else depends on them (E),
# to that of the router's logits (E, N).
RouteBackward = Callable[[Tensor, Tensor], Tensor]


class Routes(NamedTuple):
    """The experts of every token. Pairs of token and expert are sorted by expert."""

    weight_kN: Tensor  # k experts of N tokens
    slot_kN: Tensor  # where each pair stands
    first: list[int]  # where the pairs of each expert begin, and where the last ones end


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

    def norm(self, x_DN: Tensor, gain_D: Tensor, bias_D: Tensor | None) -> tuple[Tensor, ParametricBackward]:
        """LayerNorm of every column (D, N), RMSNorm without a bias, and its backward."""

    def swiglu(self, gate_up_EN: Tensor, scale_N: Tensor, *, keep: bool) -> tuple[Tensor, Backward]:
        """Hidden activations (F, N) of scaled gate and up (2 F, N), and the gradient of these."""

    def gelu(self, x_FN: Tensor, scale_N: Tensor, *, keep: bool) -> tuple[Tensor, Backward]:
        """Hidden activations (F, N) of scaled x (F, N), the tanh form, and the gradient of x."""

    def attend(
        self, qkv_EN: Tensor, scale_N: Tensor, n_head: int, shape: torch.Size, *, rotary: bool, keep: bool
    ) -> tuple[Tensor, Backward]:
        """Causal attention of scaled q, k, v (3 D, N), `shape` (B, T): (D, N), and the gradient of q, k, v.

        `rotary` rotates queries and keys by their positions.
        """

    def recur(self, gates_NG: Tensor, weight_GD: Tensor, bias_G: Tensor, batch: int) -> tuple[Tensor, BiasedBackward]:
        """States (N, D) of an LSTM layer from what its gates (N, 4 D) get from the input; N by position, then by text.

        The backward takes the gradient of the states to that of the gates.
        """

    def route(self, logits_EN: Tensor, chosen: int) -> tuple[Routes, RouteBackward]:
        """The `chosen` most probable experts of every token, weighed by their probabilities, made to sum to one where
        there are several."""

    def spread(self, x_DN: Tensor, routes: Routes, *, weighed: bool) -> Tensor:
        """The columns of x (D, N) where their pairs stand, (D, k N), times the weights if `weighed`."""

    def collect(self, x_DM: Tensor, routes: Routes, plus_DN: Tensor, *, weighed: bool) -> Tensor:
        """Plus (D, N) and, of every token, the sum of the columns of its pairs (D, k N), weighed if so."""

    def collect_weights(self, dy_DN: Tensor, x_DM: Tensor, routes: Routes) -> Tensor:
        """The gradient (k, N) of the weights by which `collect` weighs x, from that of its output (D, N)."""

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


def norm(x_DN: Tensor, gain_D: Tensor, bias_D: Tensor | None) -> tuple[Tensor, ParametricBackward]:
    """LayerNorm of every column, (D, N); RMSNorm without a bias."""
    centred_DN = x_DN if bias_D is None else x_DN - x_DN.mean(0)
    scale_N = norm_scale(centred_DN)
    u_DN, gain_D1 = centred_DN * scale_N, gain_D[:, None]

    def backward(dh_DN: Tensor, residual_DN: Tensor | None, dgain_D: Tensor, dbias_D: Tensor | None) -> Tensor:
        torch.sum(dh_DN * u_DN, 1, out=dgain_D)
        if dbias_D is not None:
            torch.sum(dh_DN, 1, out=dbias_D)
        dh_DN.mul_(gain_D1)
        along_N = (dh_DN * u_DN).mean(0)
        if dbias_D is not None:
            dh_DN.sub_(dh_DN.mean(0))
        dh_DN.addcmul_(u_DN, along_N, value=-1).mul_(scale_N)
        return dh_DN if residual_DN is None else dh_DN.add_(residual_DN)

    return u_DN * gain_D1 if bias_D is None else torch.addcmul(bias_D[:, None], u_DN, gain_D1), backward


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


def gelu(x_FN: Tensor, scale_N: Tensor, *, keep: bool) -> tuple[Tensor, Backward]:
    """Hidden activations, (F, N)."""
    del keep
    x_FN.mul_(scale_N)

    def backward(dhidden_FN: Tensor) -> Tensor:
        return torch.ops.aten.gelu_backward(dhidden_FN, x_FN, approximate="tanh").mul_(scale_N)

    return F.gelu(x_FN, approximate="tanh"), backward


def attend(
    qkv_EN: Tensor, scale_N: Tensor, n_head: int, shape: torch.Size, *, rotary: bool, keep: bool
) -> tuple[Tensor, Backward]:
    """Causal attention, (D, N)."""
    del keep
    batch, length = shape
    width = len(qkv_EN) // (3 * n_head)
    cos, sin, mask_TT = _tables(length, width, rotary, qkv_EN.device)
    halves = cos.shape[2]
    qkv = qkv_EN.mul_(scale_N).view(3, n_head, halves, width // halves, batch, length)

    def by_head() -> tuple[Tensor, Tensor]:
        """Room for q, k, v as (3, S, K, T), and the same room in the order of `qkv`."""
        room = qkv.new_empty(3, batch, n_head, halves, width // halves, length)
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


def recur(gates_NG: Tensor, weight_GD: Tensor, bias_G: Tensor, batch: int) -> tuple[Tensor, BiasedBackward]:
    """The states of an LSTM layer, (N, D)."""
    gates_NG += bias_G
    gates_TBG, width = gates_NG.view(-1, batch, len(weight_GD)), weight_GD.shape[1]
    h_TBD, cells_TBD = (gates_NG.new_zeros(len(gates_TBG) + 1, batch, width) for _ in range(2))  # the first are zero
    for t, gates_BG in enumerate(gates_TBG):
        i, f, g, o = gates_BG.addmm_(h_TBD[t], weight_GD.t()).chunk(4, -1)
        for gate in (i, f, o):
            gate.sigmoid_()
        torch.addcmul(f * cells_TBD[t], i, g.tanh_(), out=cells_TBD[t + 1])
        torch.mul(o, cells_TBD[t + 1].tanh(), out=h_TBD[t + 1])

    def backward(dh_ND: Tensor, dbias_G: Tensor) -> Tensor:
        dh_TBD, dgates_TBG = dh_ND.view(-1, batch, width), torch.empty_like(gates_TBG)
        from_next, dcell = torch.zeros_like(dh_TBD[0]), torch.zeros_like(dh_TBD[0])
        for t in reversed(range(len(gates_TBG))):
            (i, f, g, o), curved = gates_TBG[t].chunk(4, -1), cells_TBD[t + 1].tanh()
            dh = dh_TBD[t] + from_next
            dcell = dcell + dh * o * (1 - curved.square())
            slopes = i * (1 - i), f * (1 - f), 1 - g.square(), o * (1 - o)
            inputs = dcell * g, dcell * cells_TBD[t], dcell * i, dh * curved
            torch.cat([slope * given for slope, given in zip(slopes, inputs, strict=True)], -1, out=dgates_TBG[t])
            from_next, dcell = dgates_TBG[t] @ weight_GD, dcell * f
        torch.sum(dgates_TBG, (0, 1), out=dbias_G)
        return dgates_TBG.view_as(gates_NG)

    return h_TBD[1:].view(-1, width), backward


def route(logits_EN: Tensor, chosen: int) -> tuple[Routes, RouteBackward]:
    """The experts of every token, and the gradient of the logits."""
    p_EN = logits_EN.softmax(0)
    p_kN, expert_kN = p_EN.topk(chosen, 0)
    sum_N = p_kN.sum(0) if chosen > 1 else torch.ones_like(p_kN[0])
    weight_kN, counts = p_kN / sum_N, torch.bincount(expert_kN.flatten(), minlength=len(p_EN)).tolist()
    slot_M = torch.empty_like(expert_kN.flatten())
    slot_M[expert_kN.flatten().argsort(stable=True)] = torch.arange(len(slot_M), device=slot_M.device)

    def backward(dweight_kN: Tensor, pull_E: Tensor) -> Tensor:
        along_N = (dweight_kN * weight_kN).sum(0) if chosen > 1 else torch.zeros_like(sum_N)
        dp_EN = pull_E[:, None].expand_as(p_EN).contiguous()
        dp_EN.scatter_add_(0, expert_kN, (dweight_kN - along_N) / sum_N)
        return p_EN * (dp_EN - (dp_EN * p_EN).sum(0))

    return Routes(weight_kN, slot_M.view_as(expert_kN), [*accumulate(counts, initial=0)]), backward


def spread(x_DN: Tensor, routes: Routes, *, weighed: bool) -> Tensor:
    """The columns of every pair of token and expert, (D, M)."""
    y_DkN = x_DN[:, None] * routes.weight_kN if weighed else x_DN[:, None].expand(-1, len(routes.slot_kN), -1)
    y_DM = x_DN.new_empty(len(x_DN), routes.slot_kN.numel())
    y_DM[:, routes.slot_kN.flatten()] = y_DkN.flatten(1)
    return y_DM


def collect(x_DM: Tensor, routes: Routes, plus_DN: Tensor, *, weighed: bool) -> Tensor:
    """`plus_DN` and of every token the columns of its pairs, (D, N)."""
    x_DkN = x_DM[:, routes.slot_kN]
    return plus_DN + (x_DkN * routes.weight_kN if weighed else x_DkN).sum(1)


def collect_weights(dy_DN: Tensor, x_DM: Tensor, routes: Routes) -> Tensor:
    """The gradient of the weights by which `collect` weighs x, (k, N)."""
    return (dy_DN[:, None] * x_DM[:, routes.slot_kN]).sum(0)


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
def _tables(length: int, width: int, rotary: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """cos and sin over (q k v, H, halves, K / 2, B, T), or of no rotation over (q k v, H, 1, K, B, T); the causal mask.

    Queries carry the scale of the scores, values are not rotated.
    """
    if rotary:
        tables = (table.view(length, 2, width // 2).permute(1, 2, 0) for table in rotary_tables(length, width))
    else:
        tables = (torch.full((1, width, length), value) for value in (1.0, 0.0))
    cos, sin = tables
    cos = torch.stack([cos * width**-0.5, cos, torch.ones_like(cos)])[:, None, :, :, None]
    sin = torch.stack([sin * width**-0.5, sin, torch.zeros_like(sin)])[:, None, :, :, None]
    mask_TT = torch.full((length, length), -torch.inf).triu_(1)
    return cos.to(device), sin.to(device), mask_TT.to(device)
