"""What stands between the products of a fused step: one pass each over memory, by the kernels in `device`.

Every function takes tensors without gaps but for what it says. Arithmetic is float32; what is read and written may be
bfloat16.

Shape suffixes: N tokens of S texts of T, D width, E any output width, F width of the MLP, H heads, K width of a head,
V vocabulary, P programs.
"""

from collections.abc import Callable, Sequence

import torch
import triton
from torch import Tensor

from isoflop.models.step.fused import device
from isoflop.models.transformer import NORM_EPS

TILE = 4096  # numbers that a program holds at once
FLAT = 1024  # of a kernel that goes number by number
SHORT, NARROW = 64, 64  # length of a text, width of a head: what attention holds at once
PROGRAMS = 264  # of a reduction over tokens: two for each multiprocessor of a large card


def norm(x_ND: Tensor, delta_ND: Tensor | None, gain_D: Tensor, low: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x + delta, float32 (x itself without a delta); its RMSNorm in `low`; 1 / rms of every row, (N)."""
    rows, width = x_ND.shape
    sum_ND = x_ND if delta_ND is None else torch.empty_like(x_ND)
    h_ND, scale_N = torch.empty_like(x_ND, dtype=low), x_ND.new_empty(rows)
    at_once, padded = _tile(width)
    device.norm[(triton.cdiv(rows, at_once),)](
        x_ND, x_ND if delta_ND is None else delta_ND, gain_D, sum_ND, h_ND, scale_N, rows, width,
        eps=NORM_EPS, add=delta_ND is not None, R=at_once, D=padded,
    )  # fmt: skip
    return sum_ND, h_ND, scale_N


def norm_backward(
    dh_ND: Tensor, x_ND: Tensor, scale_N: Tensor, gain_D: Tensor, dx_ND: Tensor | None, dgain_D: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of x, that of the residual added to it in place if given; once in float32, once as `dh_ND` is.

    The gradient of the gain goes into `dgain_D`.
    """
    rows, width = x_ND.shape
    added = dx_ND is not None
    out_ND = dx_ND if dx_ND is not None else torch.empty_like(x_ND)
    low_ND = torch.empty_like(dh_ND) if dh_ND.dtype != torch.float32 else out_ND
    at_once, padded = _tile(width)
    programs = min(PROGRAMS, triton.cdiv(rows, at_once))
    dgain_PD = x_ND.new_empty(programs, width)
    device.norm_backward[(programs,)](
        dh_ND, x_ND, scale_N, gain_D, out_ND, low_ND, dgain_PD, rows, width,
        add=added, R=at_once, D=padded, times=triton.cdiv(rows, programs * at_once), P=programs,
    )  # fmt: skip
    torch.sum(dgain_PD, 0, out=dgain_D)
    return out_ND, low_ND


def swiglu(gate_up_NE: Tensor) -> Tensor:
    """silu(gate) * up, (N, F), of gate and up side by side, (N, 2 F)."""
    rows, hidden = len(gate_up_NE), gate_up_NE.shape[1] // 2
    y_NF = gate_up_NE.new_empty(rows, hidden)
    grid, tile = _grid(rows, hidden)
    device.swiglu[grid](gate_up_NE, y_NF, rows, hidden // tile["by"], **tile)
    return y_NF


def swiglu_backward(dy_NF: Tensor, gate_up_NE: Tensor) -> Tensor:
    """The gradient of gate and up, in their place."""
    rows, hidden = dy_NF.shape
    grid, tile = _grid(rows, hidden)
    device.swiglu_backward[grid](dy_NF, gate_up_NE, rows, hidden // tile["by"], **tile)
    return gate_up_NE


def _grid(rows: int, width: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Tiles of rows and columns that cover a matrix: so many, and the size of each.

    A width is passed as a multiple of 8 where it is one: then eight numbers are read at once.
    """
    columns = min(256, triton.next_power_of_2(width))
    at_once = 2048 // columns
    tile = {"R": at_once, "C": columns, "by": 8 if width % 8 == 0 else 1}
    return (triton.cdiv(rows, at_once), triton.cdiv(width, columns)), tile


def attend_at_once(
    qkv_NE: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, n_head: int, shape: torch.Size
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Causal attention (N, D) of queries and keys rotated by their positions, a text and head at once; `shape` (B, T).

    For short texts: T of at most SHORT. The backward takes its gradient to that of q, k, v, (N, 3 D).
    """
    batch, length = shape
    columns = qkv_NE.shape[1]
    width = columns // (3 * n_head)
    y_ND = qkv_NE.new_empty(len(qkv_NE), columns // 3)
    log_sum_ST = torch.empty(batch * n_head, length, device=qkv_NE.device)
    shapes = {"T": max(16, triton.next_power_of_2(length)), "H": max(16, triton.next_power_of_2(width // 2))}
    shapes["K"] = max(16, triton.next_power_of_2(width))
    where = cos_T1K, sin_T1K, n_head, length, width, width**-0.5
    device.attend[(batch * n_head,)](qkv_NE, y_ND, log_sum_ST, *where, **shapes)

    def backward(dy_ND: Tensor) -> Tensor:
        dqkv_NE = torch.empty_like(qkv_NE)
        device.attend_backward[(batch * n_head,)](qkv_NE, y_ND, log_sum_ST, dy_ND, dqkv_NE, *where, **shapes)
        return dqkv_NE

    return y_ND, backward


def rotate(qkv_NE: Tensor, cos_T1K: Tensor, sin_T1K: Tensor, n_head: int, length: int) -> None:
    """Rotate queries and keys, of (N, 3 D) the first 2 D columns, by their positions, in place."""
    rows, columns = qkv_NE.shape
    half = columns // (6 * n_head)
    count = rows * 2 * n_head * half
    device.rotate[(triton.cdiv(count, FLAT),)](
        qkv_NE, cos_T1K, sin_T1K, count, columns, 2 * n_head, half, length, B=FLAT
    )


def rotate_backward(dqkv: Sequence[Tensor], cos_T1K: Tensor, sin_T1K: Tensor) -> Tensor:
    """(N, 3 D): the gradient of queries, keys and values before they were rotated.

    Given are those after, (B, H, T, K) each, with any strides but the last, which is 1.
    """
    dq, dk, dv = (part if part.stride(-1) == 1 else part.contiguous() for part in dqkv)
    batch, n_head, length, width = dq.shape
    out_NE = dq.new_empty(batch * length, 3 * n_head * width)
    count = batch * length * n_head * (width // 2)
    strides = [stride for part in (dq, dk, dv) for stride in part.stride()[:3]]
    device.rotate_backward[(triton.cdiv(count, FLAT),)](
        dq, dk, dv, out_NE, cos_T1K, sin_T1K, count, n_head, width // 2, length, *strides, B=FLAT
    )
    return out_NE


def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Mean loss in nats/token; its gradient by the logits takes their place."""
    rows, vocab = logits_NV.shape
    loss_N = torch.empty(rows, device=logits_NV.device)
    at_once, padded = _tile(vocab)
    device.cross_entropy[(triton.cdiv(rows, at_once),)](
        logits_NV, targets_N, loss_N, rows, vocab, 1 / rows, R=at_once, V=padded, num_warps=4 if padded <= TILE else 16
    )
    return loss_N.mean()


def _tile(width: int) -> tuple[int, int]:
    """Rows at once, and the power of two that holds a row."""
    padded = max(16, triton.next_power_of_2(width))
    return max(1, TILE // padded), padded
