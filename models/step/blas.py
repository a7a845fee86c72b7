"""Matrix products by the OpenBLAS that numpy's wheels bring, where it is faster than torch's own library.

Torch multiplies by MKL, which leaves AMD's processors without AVX-512: on a Zen 5 core OpenBLAS takes half the time for
the products of these models, on a Zen 3 core as long. On other makers' processors, and where numpy came with another
library, torch multiplies.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy
from torch import Tensor

from isoflop.models.step import torch_ops

_ROW_MAJOR, _AS_IS, _TRANSPOSED = 101, 111, 112  # of the C interface of BLAS
_Pair = tuple[int, ...]  # a shape or strides, of two dimensions
_I, _N, _F, _P = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


@dataclass(frozen=True)
class _Library:
    sgemm: Callable[..., None]
    name: str  # with the version and the processor that it is for


class _Layout(NamedTuple):
    """How a product is put to the library, whose output has rows without gaps."""

    turned: bool  # as that of the transposes, b' a', into the output's
    order: tuple[int, int, int, int, int]  # whether each factor is read transposed; rows, columns, inner size
    left_row: int  # floats from row to row, of each factor as it lies
    right_row: int
    out_row: int


def product(a_IK: Tensor, b_KJ: Tensor, *, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """a b, in `out` if given; or `plus` + a b. Of float32, each dense along one of its dimensions."""
    library = _library()
    if library is None:
        return torch_ops.product(a_IK, b_KJ, plus=plus, out=out)
    if out is None:
        out = a_IK.new_empty(a_IK.shape[0], b_KJ.shape[1]) if plus is None else plus.contiguous().clone()
    layout = _layout(a_IK.shape, b_KJ.shape, a_IK.stride(), b_KJ.stride(), out.stride())
    left, right = (b_KJ, a_IK) if layout.turned else (a_IK, b_KJ)
    library.sgemm(
        _ROW_MAJOR, *layout.order, 1.0, left.data_ptr(), layout.left_row, right.data_ptr(), layout.right_row,
        0.0 if plus is None else 1.0, out.data_ptr(), layout.out_row,
    )  # fmt: skip
    return out


@lru_cache(maxsize=1024)  # a step asks for the same few each time, and each takes as long as a tiny product
def _layout(a_shape: _Pair, b_shape: _Pair, a_stride: _Pair, b_stride: _Pair, out_stride: _Pair) -> _Layout:
    if turned := out_stride[1] != 1:
        a_shape, b_shape, a_stride, b_stride = b_shape[::-1], a_shape[::-1], b_stride[::-1], a_stride[::-1]
        out_stride = out_stride[::-1]
    (rows, inner), columns = a_shape, b_shape[1]
    (down, along), (right_down, right_along) = a_stride, b_stride
    as_is, right_as_is = along == 1 or inner == 1, right_along == 1 or columns == 1
    return _Layout(
        turned,
        (_AS_IS if as_is else _TRANSPOSED, _AS_IS if right_as_is else _TRANSPOSED, rows, columns, inner),
        max(down, inner) if as_is else max(along, rows),
        max(right_down, columns) if right_as_is else max(right_along, inner),
        max(out_stride[0], columns),
    )


def name() -> str:
    """The library that `product` uses, "" for torch's own."""
    library = _library()
    return library.name if library else ""


@cache
def _library() -> _Library | None:
    """Numpy's OpenBLAS, set to one thread: only steps on one thread use it. None where torch multiplies."""
    if not _amd():
        return None
    for path in (Path(numpy.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas64_*"):
        try:
            library = ctypes.CDLL(str(path))
            sgemm, config = library.scipy_cblas_sgemm64_, library.scipy_openblas_get_config64_
            core, set_threads = library.scipy_openblas_get_corename64_, library.scipy_openblas_set_num_threads64_
        except (OSError, AttributeError):  # another build, with other names
            continue
        sgemm.argtypes = [_I, _I, _I, _N, _N, _N, _F, _P, _N, _P, _N, _F, _P, _N]
        sgemm.restype, config.restype, core.restype = None, ctypes.c_char_p, ctypes.c_char_p
        set_threads(1)
        version = " ".join(config().decode().split()[:2])
        return _Library(sgemm, f"{version} {core().decode()}")
    return None


def _amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
