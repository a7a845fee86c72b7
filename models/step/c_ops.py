"""The functions of `models.step.torch_ops`, by the C of `kernels.c` and a library: float32, contiguous, on one core."""

import ctypes
import warnings
from functools import cache, lru_cache

import torch
from torch import Tensor

from isoflop.models.step import blas, native
from isoflop.models.step import torch_ops as pieces
from isoflop.models.step.blas import product as product
from isoflop.models.step.torch_ops import Backward
from isoflop.models.transformer import NORM_EPS, rotary_tables

_STRIP = 16  # as in kernels.c
_P, _N = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "embed": [_P, _P, _P, _N, _N],
    "embed_backward": [_P, _P, _P, _N, _N],
    "fold_backward": [_P, _P, _P, _P, _N, _N],
    "norm_scale": [_P, _P, _N, _N, ctypes.c_float],
    "norm_backward": [_P, _P, _P, _P, _P, _N, _N],
    "swiglu": [_P, _P, _P, _N, _N, ctypes.c_int],
    "swiglu_backward": [_P, _P, _N, _N],
    "attend": [_P, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N, ctypes.c_int],
    "attend_backward": [_P, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N],
    "cross_entropy": [_P, _P, _P, _N, _N],
    "score": [_P, _P, _P, _P, _P, _N, _N],
}


def usable(weights: Tensor) -> bool:
    """Whether there are kernels for a model of these weights in this process."""
    return weights.device.type == "cpu" and weights.dtype == torch.float32 and torch.get_num_threads() == 1 and _sound()


@cache
def _sound() -> bool:
    """Whether the kernels are there and agree with torch on something small: compilers have faults too."""
    if native.library() is None:
        return False
    shape, heads, generator = torch.Size((2, 19)), 2, torch.Generator().manual_seed(0)
    qkv, dy, scale = (torch.randn(*s, generator=generator) for s in ((24, 38), (8, 38), (38,)))
    targets = torch.arange(38) % 24

    def results(way: object) -> list[Tensor]:
        y, attend_backward = way.attend(qkv.clone(), scale, heads, shape, keep=True)
        hidden, swiglu_backward = way.swiglu(qkv.clone(), scale, keep=True)
        loss, dlogits = way.cross_entropy(qkv.t().contiguous(), scale, targets)
        products = [way.product(dy, y.t()), way.product(dy.t(), y), way.product(dy, dy.t(), plus=dy[:, :8])]
        return [*products, y, attend_backward(dy), hidden, swiglu_backward(torch.cat([dy, dy[:4]])), loss, dlogits]

    import sys

    ours = results(sys.modules[__name__])
    if all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(ours, results(pieces), strict=True)):
        return True
    warnings.warn(f"kernels {build_id()} disagree with torch and are left alone", stacklevel=2)
    return False


def build_id() -> str:
    """The build of the C, and the library of the products where it is not torch's."""
    return ", ".join(filter(None, (native.build_id(), blas.name())))


def embed(embedding_VD: Tensor, tokens_N: Tensor) -> Tensor:
    width = embedding_VD.shape[1]
    x_DN = embedding_VD.new_empty(width, len(tokens_N))
    _call("embed", tokens_N, embedding_VD, x_DN, width, len(tokens_N))
    return x_DN


def embed_backward(tokens_N: Tensor, dx_DN: Tensor, gradient_VD: Tensor) -> None:
    _call("embed_backward", tokens_N, dx_DN, gradient_VD, *dx_DN.shape)


def fold_backward(gradient_ED: Tensor, weight_ED: Tensor, gain_D: Tensor, dgain_D: Tensor) -> None:
    _call("fold_backward", gradient_ED, weight_ED, gain_D, dgain_D, *gradient_ED.shape)


def norm_scale(x_DN: Tensor) -> Tensor:
    scale_N = x_DN.new_empty(x_DN.shape[1])
    _call("norm_scale", x_DN, scale_N, *x_DN.shape, NORM_EPS)
    return scale_N


def norm_backward(g_DN: Tensor, x_DN: Tensor, scale_N: Tensor, residual_DN: Tensor | None) -> Tensor:
    _call("norm_backward", g_DN, x_DN, scale_N, residual_DN, torch.empty_like(scale_N), *x_DN.shape)
    return g_DN


def swiglu(gate_up_EN: Tensor, scale_N: Tensor, *, keep: bool) -> tuple[Tensor, Backward]:
    shape = len(gate_up_EN) // 2, gate_up_EN.shape[1]
    hidden_FN = gate_up_EN.new_empty(shape)
    _call("swiglu", gate_up_EN, scale_N, hidden_FN, *shape, int(keep))

    def backward(dhidden_FN: Tensor) -> Tensor:
        _call("swiglu_backward", gate_up_EN, dhidden_FN, *shape)
        return gate_up_EN

    return hidden_FN, backward


def attend(qkv_EN: Tensor, scale_N: Tensor, n_head: int, shape: torch.Size, *, keep: bool) -> tuple[Tensor, Backward]:
    batch, length = shape
    width, strips = len(qkv_EN) // (3 * n_head), -(-length // _STRIP)
    sizes = batch, n_head, width, length
    cos, sin = _tables(length, width)
    kept = batch * n_head if keep else 1
    y_DN = qkv_EN.new_empty(n_head * width, batch * length)
    heads = qkv_EN.new_empty(kept * 3 * width * strips * _STRIP)
    weights = qkv_EN.new_empty(kept * strips * (strips + 1) // 2 * _STRIP**2)
    _call("attend", qkv_EN, scale_N, cos, sin, y_DN, heads, weights, *sizes, int(keep))

    def backward(dy_DN: Tensor) -> Tensor:
        _call("attend_backward", dy_DN, scale_N, cos, sin, heads, weights, qkv_EN, *sizes)
        return qkv_EN

    return y_DN, backward


def cross_entropy(logits_NV: Tensor, scale_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    loss = _call("cross_entropy", logits_NV, scale_N, targets_N, *logits_NV.shape)
    return torch.tensor(loss), logits_NV


def score(logits_NV: Tensor, scale_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    nats_N, hits_N = torch.empty_like(scale_N), torch.empty_like(targets_N, dtype=torch.bool)
    _call("score", logits_NV, scale_N, targets_N, nats_N, hits_N, *logits_NV.shape)
    return nats_N, hits_N


def _call(name: str, *arguments: Tensor | float | None) -> float:
    """Tensors go as pointers, numbers as they are."""
    return _function(name)(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


@cache
def _function(name: str) -> "ctypes._CFuncPtr":
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
