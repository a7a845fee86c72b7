"""The halves of a block of a small Transformer, and its ends, forward and backward, each in one kernel of Triton.

A program holds one text of T positions, and writes the gradients that its text gives: their sum over texts is taken
afterwards. A backward half computes anew what its forward half left. Products of float32 are as exact as float32 is.
Addresses, masks and the interpreter as in `device`. `weights` is the vector of all parameters, `gradients` has one such
vector for every text, and where in them a parameter lies is a number.

Letters: T positions, D width, H columns of a head among D, C columns of the MLP at once, V tokens at once.
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
def _norm(x_TD, gain, d, width, eps: tl.constexpr):
    """Its RMSNorm, 1 / rms of every row, the gain."""
    scale_T = 1.0 / tl.sqrt(tl.sum(x_TD * x_TD, 1) / width + eps)
    gain_D = tl.load(gain + d, mask=d < width, other=0.0)
    return x_TD * scale_T[:, None] * gain_D[None, :], scale_T, gain_D


@triton.jit
def _norm_backward(dh_TD, x_TD, scale_T, gain_D, dgain, d, width):
    """The gradient of x from that of its norm; that of the gain is stored."""
    u_TD, w_TD = x_TD * scale_T[:, None], dh_TD * gain_D[None, :]
    tl.store(dgain + d, tl.sum(dh_TD * u_TD, 0), mask=d < width)
    return (w_TD - u_TD * (tl.sum(w_TD * u_TD, 1) / width)[:, None]) * scale_T[:, None]


@triton.jit
def _heads(h_TD, qkv, d, width, cos_TD, sin_TD, swap_DD, exact: tl.constexpr):
    """Queries and keys, rotated, and values, (T, D) each."""
    square = width * width
    q_TD = _dot(h_TD, tl.trans(_load(qkv, d, d, width, width)), exact)
    k_TD = _dot(h_TD, tl.trans(_load(qkv + square, d, d, width, width)), exact)
    v_TD = _dot(h_TD, tl.trans(_load(qkv + 2 * square, d, d, width, width)), exact)
    q_TD = q_TD * cos_TD + _dot(q_TD, swap_DD, exact) * sin_TD
    k_TD = k_TD * cos_TD + _dot(k_TD, swap_DD, exact) * sin_TD
    return q_TD, k_TD, v_TD


@triton.jit
def _chances(q_TD, k_TD, seen_TT, scale, exact: tl.constexpr):
    """Softmax of the scores of one head, (T, T)."""
    s_TT = tl.where(seen_TT, _dot(q_TD, tl.trans(k_TD), exact) * (scale * 1.4426950408889634), -1e30)
    p_TT = tl.exp2(s_TT - tl.max(s_TT, 1)[:, None])
    return p_TT / tl.sum(p_TT, 1)[:, None]


@triton.jit
def _mix(q_TD, k_TD, v_TD, seen_TT, head_D, n_head, scale, exact: tl.constexpr):
    """What every position reads of the values before it, (T, D)."""
    y_TD = tl.zeros_like(q_TD)
    for head in range(n_head):
        mine = (head_D == head)[None, :]
        p_TT = _chances(tl.where(mine, q_TD, 0.0), k_TD, seen_TT, scale, exact)
        y_TD += _dot(p_TT, tl.where(mine, v_TD, 0.0), exact)
    return y_TD


@triton.jit
def _mix_backward(q_TD, k_TD, v_TD, dy_TD, seen_TT, head_D, n_head, scale, exact: tl.constexpr):
    """What was read, and the gradients of queries, keys and values, (T, D) each."""
    y_TD, dq_TD, dk_TD, dv_TD = tl.zeros_like(q_TD), tl.zeros_like(q_TD), tl.zeros_like(q_TD), tl.zeros_like(q_TD)
    for head in range(n_head):
        mine = (head_D == head)[None, :]
        one_q, one_k, one_dy = tl.where(mine, q_TD, 0.0), tl.where(mine, k_TD, 0.0), tl.where(mine, dy_TD, 0.0)
        p_TT = _chances(one_q, k_TD, seen_TT, scale, exact)
        y_TD += _dot(p_TT, tl.where(mine, v_TD, 0.0), exact)
        dv_TD += _dot(tl.trans(p_TT), one_dy, exact)
        dp_TT = _dot(one_dy, tl.trans(v_TD), exact)
        ds_TT = p_TT * (dp_TT - tl.sum(p_TT * dp_TT, 1)[:, None]) * scale
        dq_TD += _dot(ds_TT, one_k, exact)
        dk_TD += _dot(tl.trans(ds_TT), one_q, exact)
    return y_TD, dq_TD, dk_TD, dv_TD


@triton.jit
def _gate_up(h_TD, gate_up, f, d, hidden, width, exact: tl.constexpr):
    """Gate and up of some columns of the MLP, (T, C) each, and the matrices that gave them."""
    gate_CD = _load(gate_up, f, d, hidden, width)
    up_CD = _load(gate_up + hidden * width, f, d, hidden, width)
    return _dot(h_TD, tl.trans(gate_CD), exact), _dot(h_TD, tl.trans(up_CD), exact), gate_CD, up_CD


@triton.jit(do_not_specialize=["stride", "embedding", "length", "width", "vocab"])
def embed(tokens_BT, stride, weights, embedding, x_BTD, length, width, T: tl.constexpr, D: tl.constexpr):
    text, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, T), tl.arange(0, D)
    tokens_T = tl.load(tokens_BT + text * stride + t, mask=t < length, other=0)
    inside = (t < length)[:, None] & (d < width)[None, :]
    x_TD = tl.load(weights + embedding + tokens_T[:, None] * width + d[None, :], mask=inside, other=0.0)
    _store(x_BTD + text * length * width, t, d, length, width, x_TD)


@triton.jit(do_not_specialize=["stride", "embedding", "length", "width", "vocab", "count"])
def embed_backward(
    tokens_BT, stride, dx_BTD, gradients, embedding, length, width, vocab, count,
    exact: tl.constexpr, T: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    text, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, T), tl.arange(0, D)
    tokens_T = tl.load(tokens_BT + text * stride + t, mask=t < length, other=-1)
    dx_TD = _load(dx_BTD + text * length * width, t, d, length, width)
    v = tl.program_id(1) * V + tl.arange(0, V)
    read_VT = tl.where(v[:, None] == tokens_T[None, :], 1.0, 0.0)
    _store(gradients + text * count + embedding, v, d, vocab, width, _dot(read_VT, dx_TD, exact))


@triton.jit
def _rotation(cos_TK, sin_TK, t, d, length, width, n_head):
    """cos and sin (T, D), the matrix that swaps the halves of every head, which keys are seen, the head of a column."""
    head_width = width // n_head
    head_D, at_D = d // head_width, d % head_width
    swap_DD = tl.where(d[:, None] == (head_D * head_width + (at_D + head_width // 2) % head_width)[None, :], 1.0, 0.0)
    inside = (t < length)[:, None] & (d < width)[None, :]
    at = t[:, None] * head_width + at_D[None, :]
    cos_TD, sin_TD = tl.load(cos_TK + at, mask=inside, other=0.0), tl.load(sin_TK + at, mask=inside, other=0.0)
    return cos_TD, sin_TD, swap_DD, (t[:, None] >= t[None, :]) & (t < length)[None, :], head_D


@triton.jit(do_not_specialize=["norm", "qkv", "output", "n_head", "length", "width"])
def attend(
    x_BTD, sum_BTD, weights, norm, qkv, output, cos_TK, sin_TK, n_head, length, width, scale,
    eps: tl.constexpr, exact: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    text, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, T), tl.arange(0, D)
    cos_TD, sin_TD, swap_DD, seen_TT, head_D = _rotation(cos_TK, sin_TK, t, d, length, width, n_head)
    x_TD = _load(x_BTD + text * length * width, t, d, length, width)
    h_TD, scale_T, gain_D = _norm(x_TD, weights + norm, d, width, eps)
    q_TD, k_TD, v_TD = _heads(h_TD, weights + qkv, d, width, cos_TD, sin_TD, swap_DD, exact)
    y_TD = _mix(q_TD, k_TD, v_TD, seen_TT, head_D, n_head, scale, exact)
    x_TD += _dot(y_TD, tl.trans(_load(weights + output, d, d, width, width)), exact)
    _store(sum_BTD + text * length * width, t, d, length, width, x_TD)


@triton.jit(do_not_specialize=["norm", "qkv", "output", "n_head", "length", "width", "count"])
def attend_backward(
    x_BTD, dx_BTD, weights, gradients, norm, qkv, output, cos_TK, sin_TK, n_head, length, width, count, scale,
    eps: tl.constexpr, exact: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    text, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, T), tl.arange(0, D)
    x_BTD, dx_BTD, gradients = x_BTD + text * length * width, dx_BTD + text * length * width, gradients + text * count
    cos_TD, sin_TD, swap_DD, seen_TT, head_D = _rotation(cos_TK, sin_TK, t, d, length, width, n_head)
    x_TD, dx_TD = _load(x_BTD, t, d, length, width), _load(dx_BTD, t, d, length, width)
    h_TD, scale_T, gain_D = _norm(x_TD, weights + norm, d, width, eps)
    q_TD, k_TD, v_TD = _heads(h_TD, weights + qkv, d, width, cos_TD, sin_TD, swap_DD, exact)
    dy_TD = _dot(dx_TD, _load(weights + output, d, d, width, width), exact)
    y_TD, dq_TD, dk_TD, dv_TD = _mix_backward(q_TD, k_TD, v_TD, dy_TD, seen_TT, head_D, n_head, scale, exact)
    _store(gradients + output, d, d, width, width, _dot(tl.trans(dx_TD), y_TD, exact))
    dq_TD = dq_TD * cos_TD + _dot(dq_TD * sin_TD, swap_DD, exact)
    dk_TD = dk_TD * cos_TD + _dot(dk_TD * sin_TD, swap_DD, exact)
    square = width * width
    _store(gradients + qkv, d, d, width, width, _dot(tl.trans(dq_TD), h_TD, exact))
    _store(gradients + qkv + square, d, d, width, width, _dot(tl.trans(dk_TD), h_TD, exact))
    _store(gradients + qkv + 2 * square, d, d, width, width, _dot(tl.trans(dv_TD), h_TD, exact))
    dh_TD = _dot(dq_TD, _load(weights + qkv, d, d, width, width), exact)
    dh_TD += _dot(dk_TD, _load(weights + qkv + square, d, d, width, width), exact)
    dh_TD += _dot(dv_TD, _load(weights + qkv + 2 * square, d, d, width, width), exact)
    dx_TD += _norm_backward(dh_TD, x_TD, scale_T, gain_D, gradients + norm, d, width)
    _store(dx_BTD, t, d, length, width, dx_TD)


@triton.jit(do_not_specialize=["norm", "gate_up", "down", "length", "width", "hidden"])
def gated(
    x_BTD, sum_BTD, weights, norm, gate_up, down, length, width, hidden,
    eps: tl.constexpr, exact: tl.constexpr, T: tl.constexpr, D: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    text, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, T), tl.arange(0, D)
    x_TD = _load(x_BTD + text * length * width, t, d, length, width)
    h_TD, scale_T, gain_D = _norm(x_TD, weights + norm, d, width, eps)
    for first in range(0, hidden, C):
        f = first + tl.arange(0, C)
        gate_TC, up_TC, gate_CD, up_CD = _gate_up(h_TD, weights + gate_up, f, d, hidden, width, exact)
        y_TC = gate_TC / (1.0 + tl.exp(-gate_TC)) * up_TC
        x_TD += _dot(y_TC, tl.trans(_load(weights + down, d, f, width, hidden)), exact)
    _store(sum_BTD + text * length * width, t, d, length, width, x_TD)


@triton.jit(do_not_specialize=["norm", "gate_up", "down", "length", "width", "hidden", "count"])
def gated_backward(
    x_BTD, dx_BTD, weights, gradients, norm, gate_up, down, length, width, hidden, count,
    eps: tl.constexpr, exact: tl.constexpr, T: tl.constexpr, D: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    text, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, T), tl.arange(0, D)
    x_BTD, dx_BTD, gradients = x_BTD + text * length * width, dx_BTD + text * length * width, gradients + text * count
    x_TD, dx_TD = _load(x_BTD, t, d, length, width), _load(dx_BTD, t, d, length, width)
    h_TD, scale_T, gain_D = _norm(x_TD, weights + norm, d, width, eps)
    dh_TD = tl.zeros_like(x_TD)
    for first in range(0, hidden, C):
        f = first + tl.arange(0, C)
        gate_TC, up_TC, gate_CD, up_CD = _gate_up(h_TD, weights + gate_up, f, d, hidden, width, exact)
        part_TC = 1.0 / (1.0 + tl.exp(-gate_TC))
        _store(gradients + down, d, f, width, hidden, _dot(tl.trans(dx_TD), gate_TC * part_TC * up_TC, exact))
        dy_TC = _dot(dx_TD, _load(weights + down, d, f, width, hidden), exact)
        dgate_TC = dy_TC * up_TC * part_TC * (1.0 + gate_TC * (1.0 - part_TC))
        dup_TC = dy_TC * gate_TC * part_TC
        _store(gradients + gate_up, f, d, hidden, width, _dot(tl.trans(dgate_TC), h_TD, exact))
        _store(gradients + gate_up + hidden * width, f, d, hidden, width, _dot(tl.trans(dup_TC), h_TD, exact))
        dh_TD += _dot(dgate_TC, gate_CD, exact) + _dot(dup_TC, up_CD, exact)
    dx_TD += _norm_backward(dh_TD, x_TD, scale_T, gain_D, gradients + norm, d, width)
    _store(dx_BTD, t, d, length, width, dx_TD)


@triton.jit(do_not_specialize=["stride", "norm", "head", "length", "width", "vocab", "count"])
def head(
    x_BTD, targets_BT, stride, weights, norm, head, loss_B, nats_BT, hit_BT, dx_BTD, gradients, length, width, vocab,
    count, share, eps: tl.constexpr, train: tl.constexpr, exact: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    text, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, T), tl.arange(0, D)
    targets_T = tl.load(targets_BT + text * stride + t, mask=t < length, other=0)
    x_TD = _load(x_BTD + text * length * width, t, d, length, width)
    h_TD, scale_T, gain_D = _norm(x_TD, weights + norm, d, width, eps)
    top_T, total_T = tl.full([T], -1e30, tl.float32), tl.zeros([T], tl.float32)
    hit_T, right_T = tl.zeros([T], tl.int32), tl.zeros([T], tl.float32)
    for first in range(0, vocab, V):
        v = first + tl.arange(0, V)
        z_TV = _dot(h_TD, tl.trans(_load(weights + head, v, d, vocab, width)), exact)
        z_TV = tl.where((v < vocab)[None, :], z_TV, -1e30)
        right_T += tl.sum(tl.where(v[None, :] == targets_T[:, None], z_TV, 0.0), 1)
        high_T = tl.max(z_TV, 1)
        if not train:
            hit_T = tl.where(high_T > top_T, first + tl.argmax(z_TV, 1), hit_T)
        higher_T = tl.maximum(top_T, high_T)
        total_T = total_T * tl.exp(top_T - higher_T) + tl.sum(tl.exp(z_TV - higher_T[:, None]), 1)
        top_T = higher_T
    loss_T = tl.where(t < length, tl.log(total_T) + top_T - right_T, 0.0)
    if not train:
        tl.store(nats_BT + text * length + t, loss_T, mask=t < length)
        tl.store(hit_BT + text * length + t, hit_T == targets_T, mask=t < length)
        return
    tl.store(loss_B + text, tl.sum(loss_T, 0) * share)
    gradients += text * count
    dh_TD = tl.zeros_like(x_TD)
    for first in range(0, vocab, V):
        v = first + tl.arange(0, V)
        head_VD = _load(weights + head, v, d, vocab, width)
        z_TV = tl.where((v < vocab)[None, :], _dot(h_TD, tl.trans(head_VD), exact), -1e30)
        p_TV = tl.exp(z_TV - top_T[:, None]) / total_T[:, None]
        p_TV = (p_TV - tl.where(v[None, :] == targets_T[:, None], 1.0, 0.0)) * share
        p_TV = tl.where((t < length)[:, None], p_TV, 0.0)
        _store(gradients + head, v, d, vocab, width, _dot(tl.trans(p_TV), h_TD, exact))
        dh_TD += _dot(p_TV, head_VD, exact)
    dx_TD = _norm_backward(dh_TD, x_TD, scale_T, gain_D, gradients + norm, d, width)
    _store(dx_BTD + text * length * width, t, d, length, width, dx_TD)
