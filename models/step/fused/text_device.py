"""The parts of a small Transformer, forward and backward, each in one kernel of Triton: few launches, no long program.

A program of attention takes one head of one text of T positions; a program of everything else R rows of a text, and
writes the gradients that its rows give: their sum over programs is taken afterwards, so `gradients` has a vector of all
parameters for each. `weights` is that vector, and where in it a parameter lies is a number. What is cheap is computed
anew on the way back. Addresses, masks and the interpreter as in `device`.

Letters: T positions, R rows, D width, K width of a head, C columns of the MLP at once, V tokens at once.
"""

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, exact: tl.constexpr):
    return tl.dot(a, b, input_precision=exact)


@triton.jit
def _load(x, i, j, rows, columns):
    """Rows i and columns j of a matrix without gaps; zeros outside."""
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    return tl.load(x + i[:, None] * columns + j[None, :], mask=inside, other=0.0)


@triton.jit
def _store(x, i, j, rows, columns, values):
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    tl.store(x + i[:, None] * columns + j[None, :], values, mask=inside)


@triton.jit
def _norm(x_RD, gain, d, width, eps: tl.constexpr):
    """Its RMSNorm, 1 / rms of every row, the gain."""
    scale_R = 1.0 / tl.sqrt(tl.sum(x_RD * x_RD, 1) / width + eps)
    gain_D = tl.load(gain + d, mask=d < width, other=0.0)
    return x_RD * scale_R[:, None] * gain_D[None, :], scale_R, gain_D


@triton.jit
def _norm_backward(dh_RD, x_RD, scale_R, gain_D, dgain, d, width):
    """The gradient of x from that of its norm; that of the gain is stored."""
    u_RD, w_RD = x_RD * scale_R[:, None], dh_RD * gain_D[None, :]
    tl.store(dgain + d, tl.sum(dh_RD * u_RD, 0), mask=d < width)
    return (w_RD - u_RD * (tl.sum(w_RD * u_RD, 1) / width)[:, None]) * scale_R[:, None]


@triton.jit
def _rows(length, R: tl.constexpr):
    """The text of this program, its rows, the number of the program among those that have gradients of their own."""
    text, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    return text, part * R + tl.arange(0, R), text * tl.num_programs(1) + part


@triton.jit
def _swap(k, half):
    """The matrix that swaps the halves of a head."""
    return tl.where((k[:, None] == (k[None, :] + half) % (2 * half)) & (k < 2 * half)[None, :], 1.0, 0.0)


@triton.jit
def _head(h_TD, qkv, head, k, d, head_width, width, cos_TK, sin_TK, swap_KK, exact: tl.constexpr):
    """Queries and keys of one head, rotated, and its values, (T, K) each."""
    rows, square = width, width * width
    at = head * head_width + k
    inside = tl.where(k < head_width, at, rows)  # a column that is not of this head is outside of the matrix
    q_TK = _dot(h_TD, tl.trans(_load(qkv, inside, d, rows, width)), exact)
    k_TK = _dot(h_TD, tl.trans(_load(qkv + square, inside, d, rows, width)), exact)
    v_TK = _dot(h_TD, tl.trans(_load(qkv + 2 * square, inside, d, rows, width)), exact)
    q_TK = q_TK * cos_TK + _dot(q_TK, swap_KK, exact) * sin_TK
    k_TK = k_TK * cos_TK + _dot(k_TK, swap_KK, exact) * sin_TK
    return q_TK, k_TK, v_TK, inside


@triton.jit
def _chances(q_TK, k_TK, t, length, scale, exact: tl.constexpr):
    """Softmax of the scores of one head, (T, T): of no key ahead of its query."""
    seen_TT = (t[:, None] >= t[None, :]) & (t < length)[None, :]
    s_TT = tl.where(seen_TT, _dot(q_TK, tl.trans(k_TK), exact) * (scale * 1.4426950408889634), -1e30)
    p_TT = tl.exp2(s_TT - tl.max(s_TT, 1)[:, None])
    return p_TT / tl.sum(p_TT, 1)[:, None]


@triton.jit
def _gate_up(h_RD, gate_up, f, d, hidden, width, exact: tl.constexpr):
    """Gate and up of some columns of the MLP, (R, C) each, and the matrices that gave them."""
    gate_CD = _load(gate_up, f, d, hidden, width)
    up_CD = _load(gate_up + hidden * width, f, d, hidden, width)
    return _dot(h_RD, tl.trans(gate_CD), exact), _dot(h_RD, tl.trans(up_CD), exact), gate_CD, up_CD


@triton.jit(do_not_specialize=["stride", "embedding", "length", "width"])
def embed(tokens_BT, stride, weights, embedding, x_BTD, length, width, R: tl.constexpr, D: tl.constexpr):
    """The rows of the embedding that a text reads."""
    text, t, _ = _rows(length, R)
    d = tl.arange(0, D)
    tokens_R = tl.load(tokens_BT + text * stride + t, mask=t < length, other=0)
    inside = (t < length)[:, None] & (d < width)[None, :]
    x_RD = tl.load(weights + embedding + tokens_R[:, None] * width + d[None, :], mask=inside, other=0.0)
    _store(x_BTD + text * length * width, t, d, length, width, x_RD)


@triton.jit(do_not_specialize=["stride", "embedding", "length", "width", "vocab", "count", "parts"])
def embed_backward(
    tokens_BT, stride, dx_BTD, gradients, embedding, length, width, vocab, count, parts,
    exact: tl.constexpr, T: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """The gradient of the embedding, of some tokens of the vocabulary: what was read by each."""
    text, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, T), tl.arange(0, D)
    tokens_T = tl.load(tokens_BT + text * stride + t, mask=t < length, other=-1)
    dx_TD = _load(dx_BTD + text * length * width, t, d, length, width)
    v = tl.program_id(1) * V + tl.arange(0, V)
    read_VT = tl.where(v[:, None] == tokens_T[None, :], 1.0, 0.0)
    _store(gradients + text * parts * count + embedding, v, d, vocab, width, _dot(read_VT, dx_TD, exact))


@triton.jit(do_not_specialize=["norm", "qkv", "length", "width"])
def attend(
    x_BTD, y_BTD, weights, norm, qkv, cos, sin, length, width, scale,
    eps: tl.constexpr, exact: tl.constexpr, T: tl.constexpr, D: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """What one head reads of the values before every position."""
    text, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    t, d, k = tl.arange(0, T), tl.arange(0, D), tl.arange(0, K)
    head_width = width // tl.num_programs(1)
    swap_KK = _swap(k, head_width // 2)
    cos_TK, sin_TK = _load(cos, t, k, length, head_width), _load(sin, t, k, length, head_width)
    x_TD = _load(x_BTD + text * length * width, t, d, length, width)
    h_TD = _norm(x_TD, weights + norm, d, width, eps)[0]
    q_TK, k_TK, v_TK, at = _head(h_TD, weights + qkv, head, k, d, head_width, width, cos_TK, sin_TK, swap_KK, exact)
    y_TK = _dot(_chances(q_TK, k_TK, t, length, scale, exact), v_TK, exact)
    _store(y_BTD + text * length * width, t, at, length, width, y_TK)


@triton.jit(do_not_specialize=["norm", "qkv", "length", "width"])
def attend_backward(
    x_BTD, dy_BTD, dqkv_BSTD, weights, norm, qkv, cos, sin, length, width, scale,
    eps: tl.constexpr, exact: tl.constexpr, T: tl.constexpr, D: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The gradients of its queries, keys and values, before they were rotated."""
    text, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    t, d, k = tl.arange(0, T), tl.arange(0, D), tl.arange(0, K)
    head_width = width // tl.num_programs(1)
    swap_KK = _swap(k, head_width // 2)
    cos_TK, sin_TK = _load(cos, t, k, length, head_width), _load(sin, t, k, length, head_width)
    x_TD = _load(x_BTD + text * length * width, t, d, length, width)
    h_TD = _norm(x_TD, weights + norm, d, width, eps)[0]
    q_TK, k_TK, v_TK, at = _head(h_TD, weights + qkv, head, k, d, head_width, width, cos_TK, sin_TK, swap_KK, exact)
    dy_TK = _load(dy_BTD + text * length * width, t, at, length, width)
    p_TT = _chances(q_TK, k_TK, t, length, scale, exact)
    out = dqkv_BSTD + text * 3 * length * width
    _store(out + 2 * length * width, t, at, length, width, _dot(tl.trans(p_TT), dy_TK, exact))
    dp_TT = _dot(dy_TK, tl.trans(v_TK), exact)
    ds_TT = p_TT * (dp_TT - tl.sum(p_TT * dp_TT, 1)[:, None]) * scale
    dq_TK, dk_TK = _dot(ds_TT, k_TK, exact), _dot(tl.trans(ds_TT), q_TK, exact)
    dq_TK = dq_TK * cos_TK + _dot(dq_TK * sin_TK, swap_KK, exact)
    dk_TK = dk_TK * cos_TK + _dot(dk_TK * sin_TK, swap_KK, exact)
    _store(out, t, at, length, width, dq_TK)
    _store(out + length * width, t, at, length, width, dk_TK)


@triton.jit(do_not_specialize=["norm", "qkv", "length", "width", "count"])
def project_backward(
    x_BTD, dqkv_BSTD, dx_BTD, weights, gradients, norm, qkv, length, width, count,
    eps: tl.constexpr, exact: tl.constexpr, R: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """From those of all heads to the gradients of qkv, the norm before it and the residual stream."""
    text, t, part = _rows(length, R)
    d, square, gradients = tl.arange(0, D), width * width, gradients + part * count
    dx_BTD += text * length * width
    x_RD = _load(x_BTD + text * length * width, t, d, length, width)
    h_RD, scale_R, gain_D = _norm(x_RD, weights + norm, d, width, eps)
    dh_RD = tl.zeros_like(x_RD)
    for side in range(3):
        dy_RD = _load(dqkv_BSTD + (text * 3 + side) * length * width, t, d, length, width)
        _store(gradients + qkv + side * square, d, d, width, width, _dot(tl.trans(dy_RD), h_RD, exact))
        dh_RD += _dot(dy_RD, _load(weights + qkv + side * square, d, d, width, width), exact)
    dx_RD = _load(dx_BTD, t, d, length, width)
    dx_RD += _norm_backward(dh_RD, x_RD, scale_R, gain_D, gradients + norm, d, width)
    _store(dx_BTD, t, d, length, width, dx_RD)


@triton.jit(do_not_specialize=["output", "norm", "gate_up", "down", "length", "width", "hidden"])
def gated(
    x_BTD, y_BTD, middle_BTD, sum_BTD, weights, output, norm, gate_up, down, length, width, hidden,
    eps: tl.constexpr, exact: tl.constexpr, R: tl.constexpr, D: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The output of attention, then the MLP, each added to the residual stream."""
    text, t, _ = _rows(length, R)
    d, at = tl.arange(0, D), text * length * width
    x_RD, y_RD = _load(x_BTD + at, t, d, length, width), _load(y_BTD + at, t, d, length, width)
    x_RD += _dot(y_RD, tl.trans(_load(weights + output, d, d, width, width)), exact)
    _store(middle_BTD + at, t, d, length, width, x_RD)
    h_RD = _norm(x_RD, weights + norm, d, width, eps)[0]
    for first in range(0, hidden, C):
        f = first + tl.arange(0, C)
        both = _gate_up(h_RD, weights + gate_up, f, d, hidden, width, exact)
        y_RC = both[0] / (1.0 + tl.exp(-both[0])) * both[1]
        x_RD += _dot(y_RC, tl.trans(_load(weights + down, d, f, width, hidden)), exact)
    _store(sum_BTD + at, t, d, length, width, x_RD)


@triton.jit(do_not_specialize=["output", "norm", "gate_up", "down", "length", "width", "hidden", "count"])
def gated_backward(
    middle_BTD, y_BTD, dx_BTD, dy_BTD, weights, gradients, output, norm, gate_up, down, length, width, hidden, count,
    eps: tl.constexpr, exact: tl.constexpr, R: tl.constexpr, D: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The gradients of both and their norm, of the residual stream before the MLP, and of what attention gives."""
    text, t, part = _rows(length, R)
    d, at, gradients = tl.arange(0, D), text * length * width, gradients + part * count
    x_RD, dx_RD = _load(middle_BTD + at, t, d, length, width), _load(dx_BTD + at, t, d, length, width)
    h_RD, scale_R, gain_D = _norm(x_RD, weights + norm, d, width, eps)
    dh_RD = tl.zeros_like(x_RD)
    for first in range(0, hidden, C):
        f = first + tl.arange(0, C)
        gate_RC, up_RC, gate_CD, up_CD = _gate_up(h_RD, weights + gate_up, f, d, hidden, width, exact)
        part_RC = 1.0 / (1.0 + tl.exp(-gate_RC))
        _store(gradients + down, d, f, width, hidden, _dot(tl.trans(dx_RD), gate_RC * part_RC * up_RC, exact))
        dy_RC = _dot(dx_RD, _load(weights + down, d, f, width, hidden), exact)
        dgate_RC = dy_RC * up_RC * part_RC * (1.0 + gate_RC * (1.0 - part_RC))
        dup_RC = dy_RC * gate_RC * part_RC
        _store(gradients + gate_up, f, d, hidden, width, _dot(tl.trans(dgate_RC), h_RD, exact))
        _store(gradients + gate_up + hidden * width, f, d, hidden, width, _dot(tl.trans(dup_RC), h_RD, exact))
        dh_RD += _dot(dgate_RC, gate_CD, exact) + _dot(dup_RC, up_CD, exact)
    dx_RD += _norm_backward(dh_RD, x_RD, scale_R, gain_D, gradients + norm, d, width)
    _store(dx_BTD + at, t, d, length, width, dx_RD)
    y_RD = _load(y_BTD + at, t, d, length, width)
    _store(gradients + output, d, d, width, width, _dot(tl.trans(dx_RD), y_RD, exact))
    dy_RD = _dot(dx_RD, _load(weights + output, d, d, width, width), exact)
    _store(dy_BTD + at, t, d, length, width, dy_RD)


@triton.jit(do_not_specialize=["stride", "norm", "head", "length", "width", "vocab", "count"])
def head(
    x_BTD, targets_BT, stride, weights, norm, head, loss_B, nats_BT, hit_BT, dx_BTD, gradients, length, width, vocab,
    count, share, eps: tl.constexpr, train: tl.constexpr, exact: tl.constexpr,
    R: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Norm, logits and loss; in training the gradients of head, norm and residual stream, else nats and hits."""
    text, t, part = _rows(length, R)
    d = tl.arange(0, D)
    targets_R = tl.load(targets_BT + text * stride + t, mask=t < length, other=0)
    x_RD = _load(x_BTD + text * length * width, t, d, length, width)
    h_RD, scale_R, gain_D = _norm(x_RD, weights + norm, d, width, eps)
    top_R, total_R = tl.full([R], -1e30, tl.float32), tl.zeros([R], tl.float32)
    hit_R, right_R = tl.zeros([R], tl.int32), tl.zeros([R], tl.float32)
    for first in range(0, vocab, V):
        v = first + tl.arange(0, V)
        z_RV = _dot(h_RD, tl.trans(_load(weights + head, v, d, vocab, width)), exact)
        z_RV = tl.where((v < vocab)[None, :], z_RV, -1e30)
        right_R += tl.sum(tl.where(v[None, :] == targets_R[:, None], z_RV, 0.0), 1)
        high_R = tl.max(z_RV, 1)
        if not train:
            hit_R = tl.where(high_R > top_R, first + tl.argmax(z_RV, 1), hit_R)
        higher_R = tl.maximum(top_R, high_R)
        total_R = total_R * tl.exp(top_R - higher_R) + tl.sum(tl.exp(z_RV - higher_R[:, None]), 1)
        top_R = higher_R
    loss_R = tl.where(t < length, tl.log(total_R) + top_R - right_R, 0.0)
    if not train:
        tl.store(nats_BT + text * length + t, loss_R, mask=t < length)
        tl.store(hit_BT + text * length + t, hit_R == targets_R, mask=t < length)
        return
    tl.store(loss_B + part, tl.sum(loss_R, 0) * share)
    gradients += part * count
    dh_RD = tl.zeros_like(x_RD)
    for first in range(0, vocab, V):
        v = first + tl.arange(0, V)
        head_VD = _load(weights + head, v, d, vocab, width)
        z_RV = tl.where((v < vocab)[None, :], _dot(h_RD, tl.trans(head_VD), exact), -1e30)
        p_RV = tl.exp(z_RV - top_R[:, None]) / total_R[:, None]
        p_RV = (p_RV - tl.where(v[None, :] == targets_R[:, None], 1.0, 0.0)) * share
        p_RV = tl.where((t < length)[:, None], p_RV, 0.0)
        _store(gradients + head, v, d, vocab, width, _dot(tl.trans(p_RV), h_RD, exact))
        dh_RD += _dot(p_RV, head_VD, exact)
    dx_RD = _norm_backward(dh_RD, x_RD, scale_R, gain_D, gradients + norm, d, width)
    _store(dx_BTD + text * length * width, t, d, length, width, dx_RD)
