"""The functions of `models.step.torch_ops` in C: float32, contiguous, on one core.

`kernels.c` has what stands between the matrix products; `blas` multiplies.
"""

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache

import torch
from torch import Tensor

from isoflop.models.step import blas, native
from isoflop.models.step.blas import product as product
from isoflop.models.step.torch_ops import Backward, BiasedBackward, ParametricBackward, RouteBackward, Routes
from isoflop.models.transformer import NORM_EPS, rotary_tables

_STRIP = 16  # as in kernels.c
_P, _N = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "embed": [_P, _P, _P, _N, _N],
    "embed_backward": [_P, _P, _P, _N, _N],
    "fold_backward": [_P, _P, _P, _P, _N, _N],
    "norm_scale": [_P, _P, _N, _N, ctypes.c_float],
    "norm_backward": [_P, _P, _P, _P, _P, _N, _N],
    "norm": [_P, _P, _P, _P, _P, _P, _N, _N, ctypes.c_float],
    "normed_backward": [_P, _P, _P, _P, _P, _P, _P, _P, _P, _N, _N],
    "swiglu": [_P, _P, _P, _N, _N, ctypes.c_int],
    "swiglu_backward": [_P, _P, _N, _N],
    "gelu": [_P, _P, _P, _N, _N, ctypes.c_int],
    "gelu_backward": [_P, _P, _N, _N],
    "attend": [_P, _P, _P, _P, _P, _P, _N, _N, _N, _N, ctypes.c_int],
    "attend_backward": [_P, _P, _P, _P, _P, _P, _N, _N, _N, _N],
    "recur": [_P, _P, _P, _P, _P, _N, _N, _N],
    "recur_backward": [_P, _P, _P, _P, _P, _N, _N, _N],
    "route": [_P, _P, _P, _P, _P, _N, _N, _N],
    "route_backward": [_P, _P, _P, _P, _P, _P, _N, _N, _N],
    "spread": [_P, _P, _P, _P, _N, _N, _N],
    "collect": [_P, _P, _P, _P, _P, _N, _N, _N],
    "collect_weights": [_P, _P, _P, _P, _N, _N, _N],
    "cross_entropy": [_P, _P, _P, _N, _N],
    "score": [_P, _P, _P, _P, _P, _N, _N],
}


def build_id() -> str:
    """The build of the C, and the library of the products where it is not torch's."""
    return ", ".join(filter(None, (native.build_id(), blas.name())))


def embed(embedding_VD: Tensor, tokens_N: Tensor) -> Tensor:
    """The rows of the tokens as columns, (D, N)."""
    width = embedding_VD.shape[1]
    x_DN = embedding_VD.new_empty(width, len(tokens_N))
    _call("embed", tokens_N, embedding_VD, x_DN, width, len(tokens_N))
    return x_DN


def embed_backward(tokens_N: Tensor, dx_DN: Tensor, gradient_VD: Tensor) -> None:
    """Add to each row of `gradient_VD` the columns of `dx_DN` where its token stands."""
    _call("embed_backward", tokens_N, dx_DN, gradient_VD, *dx_DN.shape)


def fold_backward(gradient_ED: Tensor, weight_ED: Tensor, gain_D: Tensor, dgain_D: Tensor) -> None:
    """From the gradient of weight x gain, in place the gradient of the weight; that of the gain into `dgain_D`."""
    _call("fold_backward", gradient_ED, weight_ED, gain_D, dgain_D, *gradient_ED.shape)


def norm_scale(x_DN: Tensor) -> Tensor:
    """1 / rms of every column, (N)."""
    scale_N = x_DN.new_empty(x_DN.shape[1])
    _call("norm_scale", x_DN, scale_N, *x_DN.shape, NORM_EPS)
    return scale_N


def norm_backward(g_DN: Tensor, x_DN: Tensor, scale_N: Tensor, residual_DN: Tensor | None) -> Tensor:
    """Gradient of x, plus `residual_DN`, from `g_DN`, the gradient of x as if the scale were a constant."""
    _call("norm_backward", g_DN, x_DN, scale_N, residual_DN, torch.empty_like(scale_N), *x_DN.shape)
    return g_DN


def norm(x_DN: Tensor, gain_D: Tensor, bias_D: Tensor | None) -> tuple[Tensor, ParametricBackward]:
    """LayerNorm of every column, (D, N); RMSNorm without a bias."""
    h_DN, mean_N, scale_N = torch.empty_like(x_DN), x_DN.new_empty(x_DN.shape[1]), x_DN.new_empty(x_DN.shape[1])
    _call("norm", x_DN, gain_D, bias_D, mean_N, scale_N, h_DN, *x_DN.shape, NORM_EPS)

    def backward(dh_DN: Tensor, residual_DN: Tensor | None, dgain_D: Tensor, dbias_D: Tensor | None) -> Tensor:
        room, gradients = x_DN.new_empty(2, x_DN.shape[1]), (dgain_D, dbias_D)
        _call("normed_backward", dh_DN, x_DN, mean_N, scale_N, gain_D, residual_DN, *gradients, room, *x_DN.shape)
        return dh_DN

    return h_DN, backward


def swiglu(gate_up_EN: Tensor, scale_N: Tensor, *, keep: bool) -> tuple[Tensor, Backward]:
    """Hidden activations, (F, N)."""
    shape = len(gate_up_EN) // 2, gate_up_EN.shape[1]
    hidden_FN = gate_up_EN.new_empty(shape)
    _call("swiglu", gate_up_EN, scale_N, hidden_FN, *shape, int(keep))

    def backward(dhidden_FN: Tensor) -> Tensor:
        _call("swiglu_backward", gate_up_EN, dhidden_FN, *shape)
        return gate_up_EN

    return hidden_FN, backward


def gelu(x_FN: Tensor, scale_N: Tensor, *, keep: bool) -> tuple[Tensor, Backward]:
    """Hidden activations, (F, N)."""
    hidden_FN = torch.empty_like(x_FN)
    _call("gelu", x_FN, scale_N, hidden_FN, *x_FN.shape, int(keep))

    def backward(dhidden_FN: Tensor) -> Tensor:
        _call("gelu_backward", x_FN, dhidden_FN, *x_FN.shape)
        return x_FN

    return hidden_FN, backward


def attend(
    qkv_EN: Tensor, scale_N: Tensor, n_head: int, shape: torch.Size, *, rotary: bool, keep: bool
) -> tuple[Tensor, Backward]:
    """Causal attention, (D, N)."""
    batch, length = shape
    width, strips = len(qkv_EN) // (3 * n_head), -(-length // _STRIP)
    sizes = batch, n_head, width, length
    cos, sin = _tables(length, width) if rotary else (None, None)
    kept = batch * n_head if keep else 1
    y_DN = qkv_EN.new_empty(n_head * width, batch * length)
    weights = qkv_EN.new_empty(kept * strips * (strips + 1) // 2 * _STRIP**2)
    _call("attend", qkv_EN, scale_N, cos, sin, y_DN, weights, *sizes, int(keep))

    def backward(dy_DN: Tensor) -> Tensor:
        _call("attend_backward", dy_DN, scale_N, cos, sin, weights, qkv_EN, *sizes)
        return qkv_EN

    return y_DN, backward


def recur(gates_NG: Tensor, weight_GD: Tensor, bias_G: Tensor, batch: int) -> tuple[Tensor, BiasedBackward]:
    """The states of an LSTM layer, (N, D)."""
    width = weight_GD.shape[1]
    sizes = len(gates_NG) // batch, batch, width
    cells_ND, h_ND = (gates_NG.new_empty(len(gates_NG), width) for _ in range(2))
    _call("recur", gates_NG, weight_GD, bias_G, cells_ND, h_ND, *sizes)

    def backward(dh_ND: Tensor, dbias_G: Tensor) -> Tensor:
        _call("recur_backward", dh_ND, weight_GD, cells_ND, gates_NG, dbias_G, *sizes)
        return gates_NG

    return h_ND, backward


def route(logits_EN: Tensor, chosen: int) -> tuple[Routes, RouteBackward]:
    """The experts of every token, and the gradient of the logits."""
    sizes = len(logits_EN), chosen, logits_EN.shape[1]
    weight_kN = logits_EN.new_empty(sizes[1:])
    expert_kN, slot_kN = (torch.empty_like(weight_kN, dtype=torch.int32) for _ in range(2))
    first = torch.empty(len(logits_EN) + 1, dtype=torch.int64)
    _call("route", logits_EN, weight_kN, expert_kN, slot_kN, first, *sizes)

    def backward(dweight_kN: Tensor, pull_E: Tensor) -> Tensor:
        dlogits_EN = torch.empty_like(logits_EN)
        _call("route_backward", logits_EN, weight_kN, expert_kN, dweight_kN, pull_E, dlogits_EN, *sizes)
        return dlogits_EN

    return Routes(weight_kN, slot_kN, first.tolist()), backward


def spread(x_DN: Tensor, routes: Routes, *, weighed: bool) -> Tensor:
    """The columns of every pair of token and expert, (D, M)."""
    width, (chosen, n) = len(x_DN), routes.slot_kN.shape
    y_DM = x_DN.new_empty(width, chosen * n)
    _call("spread", x_DN, routes.slot_kN, routes.weight_kN if weighed else None, y_DM, chosen, width, n)
    return y_DM


def collect(x_DM: Tensor, routes: Routes, plus_DN: Tensor, *, weighed: bool) -> Tensor:
    """`plus_DN` and of every token the columns of its pairs, (D, N)."""
    y_DN = torch.empty_like(plus_DN)
    sizes = len(routes.slot_kN), *y_DN.shape
    _call("collect", x_DM, routes.slot_kN, routes.weight_kN if weighed else None, plus_DN, y_DN, *sizes)
    return y_DN


def collect_weights(dy_DN: Tensor, x_DM: Tensor, routes: Routes) -> Tensor:
    """The gradient of the weights by which `collect` weighs x, (k, N)."""
    dweight_kN = torch.empty_like(routes.weight_kN)
    _call("collect_weights", dy_DN, x_DM, routes.slot_kN, dweight_kN, len(dweight_kN), *dy_DN.shape)
    return dweight_kN


def cross_entropy(logits_NV: Tensor, scale_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss in nats, and the gradient of the logits before the scale."""
    loss = _call("cross_entropy", logits_NV, scale_N, targets_N, *logits_NV.shape)
    return torch.tensor(loss), logits_NV


def score(logits_NV: Tensor, scale_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every target, and whether it is the most likely token."""
    nats_N, hits_N = torch.empty_like(scale_N), torch.empty_like(targets_N, dtype=torch.bool)
    _call("score", logits_NV, scale_N, targets_N, nats_N, hits_N, *logits_NV.shape)
    return nats_N, hits_N


def _call(name: str, *arguments: Tensor | float | None) -> float:
    """Call a function of `kernels.c`: tensors are passed as pointers, numbers as they are."""
    return _function(name)(*[a.data_ptr() if isinstance(a, Tensor) else a for a in arguments])


@cache
def _function(name: str) -> Callable[..., float]:
    function = getattr(native.library(), name)
    function.argtypes = _ARGUMENTS[name]
    function.restype = ctypes.c_double if name == "cross_entropy" else None
    return function


@lru_cache(maxsize=8)
def _tables(length: int, width: int) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles, (K / 2, T)."""
    cos_T1K, sin_T1K = rotary_tables(length, width)
    cos, sin = (table[:, 0, width // 2 :].t().contiguous() for table in (cos_T1K, sin_T1K))
    return cos, sin
