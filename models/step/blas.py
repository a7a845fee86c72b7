"""Matrix products by the OpenBLAS that numpy's wheels bring, where it is faster than torch's own library.

Torch multiplies by MKL, which leaves AMD's processors without AVX-512: on a Zen 5 core OpenBLAS takes half the time for
the products of these models, on a Zen 3 core as long. On other makers' processors, and where numpy came with another
library, torch multiplies.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy
from torch import Tensor

from isoflop.models.step import torch_ops

_ROW_MAJOR, _AS_IS, _TRANSPOSED = 101, 111, 112  # of the C interface of BLAS
_I, _N, _F, _P = ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


@dataclass(frozen=True)
class _Library:
    sgemm: Callable[..., None]
    name: str  # with the version and the processor that it is for


def product(a_IK: Tensor, b_KJ: Tensor, *, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """a b, in `out` if given; or `plus` + a b. Of float32, each dense along one of its dimensions."""
    library = _library()
    if library is None:
        return torch_ops.product(a_IK, b_KJ, plus=plus, out=out)
    if out is None:
        out = a_IK.new_empty(len(a_IK), b_KJ.shape[1]) if plus is None else plus.contiguous().clone()
    if out.stride(1) == 1:
        left, right, target = a_IK, b_KJ, out
    else:
        left, right, target = b_KJ.t(), a_IK.t(), out.t()
    (rows, inner), columns = left.shape, right.shape[1]
    (down, along), (right_down, right_along) = left.stride(), right.stride()
    as_is, right_as_is = along == 1 or inner == 1, right_along == 1 or columns == 1
    library.sgemm(
        _ROW_MAJOR, _AS_IS if as_is else _TRANSPOSED, _AS_IS if right_as_is else _TRANSPOSED, rows, columns, inner,
        1.0, left.data_ptr(), max(down, inner) if as_is else max(along, rows),
        right.data_ptr(), max(right_down, columns) if right_as_is else max(right_along, inner),
        0.0 if plus is None else 1.0, target.data_ptr(), max(target.stride(0), columns),
    )  # fmt: skip
    return out


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
