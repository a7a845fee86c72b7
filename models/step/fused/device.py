"""The kernels of a fused step, in the language of Triton, which compiles them for the GPU that is there.

Without a GPU they run in its interpreter (TRITON_INTERPRET=1), which tests do. Arguments are addresses of the first
number of a tensor, named by its shape as in `kernels`, then numbers; tiles have sizes that are powers of two, and what
lies outside of a tensor is masked.
"""

import triton
import triton.language as tl


@triton.jit
def norm(
    x_ND, delta_ND, gain_D, sum_ND, h_ND, scale_N, rows, width,
    eps: tl.constexpr, add: tl.constexpr, R: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    n, d = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, D)
    inside = (n < rows)[:, None] & (d < width)[None, :]
    at = n.to(tl.int64)[:, None] * width + d[None, :]
    x = tl.load(x_ND + at, mask=inside, other=0.0)
    if add:
        x += tl.load(delta_ND + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(sum_ND + at, x, mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 1) / width + eps)
    gain = tl.load(gain_D + d, mask=d < width, other=0.0)
    h = x * scale[:, None] * gain[None, :]
    tl.store(h_ND + at, h.to(h_ND.dtype.element_ty), mask=inside)
    tl.store(scale_N + n, scale, mask=n < rows)


@triton.jit
def norm_backward(
    dh_ND, x_ND, scale_N, gain_D, dx_ND, low_ND, dgain_PD, rows, width,
    add: tl.constexpr, R: tl.constexpr, D: tl.constexpr, times: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    program, d = tl.program_id(0), tl.arange(0, D)
    gain = tl.load(gain_D + d, mask=d < width, other=0.0)
    dgain = tl.zeros([D], dtype=tl.float32)
    for i in range(times):
        n = (i * P + program) * R + tl.arange(0, R)
        inside = (n < rows)[:, None] & (d < width)[None, :]
        at = n.to(tl.int64)[:, None] * width + d[None, :]
        dh = tl.load(dh_ND + at, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scale_N + n, mask=n < rows, other=0.0)
        u = tl.load(x_ND + at, mask=inside, other=0.0) * scale[:, None]
        w = dh * gain[None, :]
        along = tl.sum(w * u, 1) / width
        dx = (w - u * along[:, None]) * scale[:, None]
        if add:
            dx += tl.load(dx_ND + at, mask=inside, other=0.0)
        tl.store(dx_ND + at, dx, mask=inside)
        tl.store(low_ND + at, dx.to(low_ND.dtype.element_ty), mask=inside)
        dgain += tl.sum(dh * u, 0)
    tl.store(dgain_PD + program * width + d, dgain, mask=d < width)


@triton.jit
def swiglu(gate_up_NE, y_NF, rows, parts, R: tl.constexpr, C: tl.constexpr, by: tl.constexpr):
    hidden = parts * by
    n, f = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * C + tl.arange(0, C)
    inside = (n < rows)[:, None] & (f < hidden)[None, :]
    at = n.to(tl.int64)[:, None] * (2 * hidden) + f[None, :]
    gate = tl.load(gate_up_NE + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_NE + at + hidden, mask=inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(y_NF + n.to(tl.int64)[:, None] * hidden + f[None, :], y.to(y_NF.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(dy_NF, gate_up_NE, rows, parts, R: tl.constexpr, C: tl.constexpr, by: tl.constexpr):
    hidden = parts * by
    n, f = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * C + tl.arange(0, C)
    inside = (n < rows)[:, None] & (f < hidden)[None, :]
    at = n.to(tl.int64)[:, None] * (2 * hidden) + f[None, :]
    dy = tl.load(dy_NF + n.to(tl.int64)[:, None] * hidden + f[None, :], mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_up_NE + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_NE + at + hidden, mask=inside, other=0.0).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(-gate))
    dgate = dy * up * share * (1.0 + gate * (1.0 - share))
    tl.store(gate_up_NE + at, dgate.to(gate_up_NE.dtype.element_ty), mask=inside)
    tl.store(gate_up_NE + at + hidden, (dy * gate * share).to(gate_up_NE.dtype.element_ty), mask=inside)


@triton.jit
def _rotated(x, cos_TK, sin_TK, t, h, columns, half, length):
    """Both halves (T, H) of the queries or keys of one text and head, rotated."""
    inside = (t < length)[:, None] & (h < half)[None, :]
    at = t[:, None] * columns + h[None, :]
    a = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + at + half, mask=inside, other=0.0).to(tl.float32)
    table = t[:, None] * 2 * half + half + h[None, :]  # the second half, where the sine has its own sign
    cos = tl.load(cos_TK + table, mask=inside, other=0.0)
    sin = tl.load(sin_TK + table, mask=inside, other=0.0)
    return (a * cos - b * sin).to(x.dtype.element_ty), (b * cos + a * sin).to(x.dtype.element_ty)


@triton.jit
def _store_rotated_back(x, a, b, cos_TK, sin_TK, t, h, columns, half, length):
    inside = (t < length)[:, None] & (h < half)[None, :]
    at = t[:, None] * columns + h[None, :]
    table = t[:, None] * 2 * half + half + h[None, :]
    cos = tl.load(cos_TK + table, mask=inside, other=0.0)
    sin = tl.load(sin_TK + table, mask=inside, other=0.0)
    tl.store(x + at, (a * cos + b * sin).to(x.dtype.element_ty), mask=inside)
    tl.store(x + at + half, (b * cos - a * sin).to(x.dtype.element_ty), mask=inside)


@triton.jit
def _scores(qa, qb, ka, kb, t, length, scale):
    """Scores in bits, for exp2; far below all others where a key is ahead of its query or outside."""
    s = tl.dot(qa, tl.trans(ka), input_precision="ieee") + tl.dot(qb, tl.trans(kb), input_precision="ieee")
    seen = (t[:, None] >= t[None, :]) & (t < length)[None, :]
    return tl.where(seen, s * (scale * 1.4426950408889634), -1e30)


@triton.jit
def attend(
    qkv_NE, y_ND, log_sum_ST, cos_TK, sin_TK, n_head, length, width, scale,
    T: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    text_head = tl.program_id(0)
    first, head = (text_head // n_head).to(tl.int64) * length, text_head % n_head
    columns, half, residual = 3 * n_head * width, width // 2, n_head * width
    x, y_at = qkv_NE + first * columns + head * width, y_ND + first * residual + head * width
    t, h, k = tl.arange(0, T), tl.arange(0, H), tl.arange(0, K)
    inside = (t < length)[:, None] & (k < width)[None, :]
    qa, qb = _rotated(x, cos_TK, sin_TK, t, h, columns, half, length)
    ka, kb = _rotated(x + residual, cos_TK, sin_TK, t, h, columns, half, length)
    v = tl.load(x + 2 * residual + t[:, None] * columns + k[None, :], mask=inside, other=0.0)
    s = _scores(qa, qb, ka, kb, t, length, scale)
    top = tl.max(s, 1)
    p = tl.exp2(s - top[:, None])
    total = tl.sum(p, 1)
    y = tl.dot(p.to(v.dtype), v, input_precision="ieee") / total[:, None]
    tl.store(y_at + t[:, None] * residual + k[None, :], y.to(y_ND.dtype.element_ty), mask=inside)
    tl.store(log_sum_ST + text_head * length + t, top + tl.log2(total), mask=t < length)


@triton.jit
def attend_backward(
    qkv_NE, y_ND, log_sum_ST, dy_ND, dqkv_NE, cos_TK, sin_TK, n_head, length, width, scale,
    T: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    text_head = tl.program_id(0)
    first, head = (text_head // n_head).to(tl.int64) * length, text_head % n_head
    columns, half, residual = 3 * n_head * width, width // 2, n_head * width
    x_at, y_at = first * columns + head * width, first * residual + head * width
    t, h, k = tl.arange(0, T), tl.arange(0, H), tl.arange(0, K)
    inside = (t < length)[:, None] & (k < width)[None, :]
    qa, qb = _rotated(qkv_NE + x_at, cos_TK, sin_TK, t, h, columns, half, length)
    ka, kb = _rotated(qkv_NE + x_at + residual, cos_TK, sin_TK, t, h, columns, half, length)
    v_at = x_at + 2 * residual + t[:, None] * columns + k[None, :]
    v = tl.load(qkv_NE + v_at, mask=inside, other=0.0)
    dy = tl.load(dy_ND + y_at + t[:, None] * residual + k[None, :], mask=inside, other=0.0)
    y = tl.load(y_ND + y_at + t[:, None] * residual + k[None, :], mask=inside, other=0.0)
    along = tl.sum(dy.to(tl.float32) * y.to(tl.float32), 1)
    log_sum = tl.load(log_sum_ST + text_head * length + t, mask=t < length, other=0.0)
    p = tl.exp2(_scores(qa, qb, ka, kb, t, length, scale) - log_sum[:, None])
    kind = qkv_NE.dtype.element_ty
    dv = tl.dot(tl.trans(p.to(kind)), dy, input_precision="ieee")
    tl.store(dqkv_NE + v_at, dv.to(kind), mask=inside)
    ds = (p * (tl.dot(dy, tl.trans(v), input_precision="ieee") - along[:, None]) * scale).to(kind)
    dqa, dqb = tl.dot(ds, ka, input_precision="ieee"), tl.dot(ds, kb, input_precision="ieee")
    _store_rotated_back(dqkv_NE + x_at, dqa, dqb, cos_TK, sin_TK, t, h, columns, half, length)
    ds = tl.trans(ds)
    dka, dkb = tl.dot(ds, qa, input_precision="ieee"), tl.dot(ds, qb, input_precision="ieee")
    _store_rotated_back(dqkv_NE + x_at + residual, dka, dkb, cos_TK, sin_TK, t, h, columns, half, length)


@triton.jit
def rotate(qkv_NE, cos_TK, sin_TK, count, columns, heads, half, length, B: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = i < count
    k, head, n = i % half, (i // half) % heads, i // (half * heads)
    at = n * columns + head * 2 * half + k
    table = (n % length) * 2 * half + half + k
    cos = tl.load(cos_TK + table, mask=inside, other=0.0)
    sin = tl.load(sin_TK + table, mask=inside, other=0.0)
    a = tl.load(qkv_NE + at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(qkv_NE + at + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(qkv_NE + at, (a * cos - b * sin).to(qkv_NE.dtype.element_ty), mask=inside)
    tl.store(qkv_NE + at + half, (b * cos + a * sin).to(qkv_NE.dtype.element_ty), mask=inside)


@triton.jit
def rotate_backward(
    dq, dk, dv, out_NE, cos_TK, sin_TK, count, n_head, half, length,
    qb, qh, qt, kb, kh, kt, vb, vh, vt, B: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = i < count
    k, head, n = i % half, (i // half) % n_head, i // (half * n_head)
    batch, t = n // length, n % length
    width = n_head * 2 * half
    at = n * 3 * width + head * 2 * half + k
    table = t * 2 * half + half + k
    cos = tl.load(cos_TK + table, mask=inside, other=0.0)
    sin = tl.load(sin_TK + table, mask=inside, other=0.0)
    kind = out_NE.dtype.element_ty

    from_q = dq + batch * qb + head * qh + t * qt + k
    a = tl.load(from_q, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(from_q + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_NE + at, (a * cos + b * sin).to(kind), mask=inside)
    tl.store(out_NE + at + half, (b * cos - a * sin).to(kind), mask=inside)

    from_k = dk + batch * kb + head * kh + t * kt + k
    a = tl.load(from_k, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(from_k + half, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_NE + at + width, (a * cos + b * sin).to(kind), mask=inside)
    tl.store(out_NE + at + width + half, (b * cos - a * sin).to(kind), mask=inside)

    from_v = dv + batch * vb + head * vh + t * vt + k
    tl.store(out_NE + at + 2 * width, tl.load(from_v, mask=inside, other=0.0), mask=inside)
    tl.store(out_NE + at + 2 * width + half, tl.load(from_v + half, mask=inside, other=0.0), mask=inside)


@triton.jit
def cross_entropy(logits_NV, targets_N, loss_N, rows, vocab, share, R: tl.constexpr, V: tl.constexpr):
    n, v = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, V)
    inside = (n < rows)[:, None] & (v < vocab)[None, :]
    at = n.to(tl.int64)[:, None] * vocab + v[None, :]
    z = tl.load(logits_NV + at, mask=inside, other=-1e30).to(tl.float32)
    target = tl.load(targets_N + n, mask=n < rows, other=0)
    top = tl.max(z, 1)
    e = tl.exp(z - top[:, None])
    total = tl.sum(e, 1)
    hit = v[None, :] == target[:, None]
    loss = tl.log(total) + top - tl.sum(tl.where(hit, z, 0.0), 1)
    tl.store(loss_N + n, loss, mask=n < rows)
    gradient = (e / total[:, None] - tl.where(hit, 1.0, 0.0)) * share
    tl.store(logits_NV + at, gradient.to(logits_NV.dtype.element_ty), mask=inside)


@triton.jit
def squares(gradients, sums, steps, count, rounds, N: tl.constexpr):
    program, programs = tl.program_id(0), tl.num_programs(0)
    total = tl.zeros([N], tl.float32)
    for i in range(rounds):
        at = (i * programs + program).to(tl.int64) * N + tl.arange(0, N)
        gradient = tl.load(gradients + at, mask=at < count, other=0.0)
        total += gradient * gradient
    tl.store(sums + program, tl.sum(total, 0))
    if program == 0:
        tl.store(steps, tl.load(steps) + 1.0)


@triton.jit
def adamw(
    weights, gradients, means, squares, sums, programs, steps, rate, ends, multipliers, decays, count, groups,
    clip, beta1, beta2, eps, N: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = at < count
    factor = 1.0
    if clip > 0:
        p = tl.arange(0, P)
        norm = tl.sqrt(tl.sum(tl.load(sums + p, mask=p < programs, other=0.0), 0))
        factor = tl.minimum(clip / (norm + 1e-6), 1.0)
    step, base = tl.load(steps), tl.load(rate)
    multiplier, decay, begin = tl.zeros([N], tl.float32), tl.zeros([N], tl.float32), tl.zeros([N], tl.int64)
    for group in range(groups):
        end = tl.zeros([N], tl.int64) + tl.load(ends + group)
        mine = (at >= begin) & (at < end)
        multiplier = tl.where(mine, tl.load(multipliers + group), multiplier)
        decay = tl.where(mine, tl.load(decays + group), decay)
        begin = end
    learning_rate = base * multiplier
    gradient = tl.load(gradients + at, mask=inside, other=0.0) * factor
    weight = tl.load(weights + at, mask=inside, other=0.0)
    mean = tl.load(means + at, mask=inside, other=0.0)
    square = tl.load(squares + at, mask=inside, other=0.0)
    weight -= learning_rate * decay * weight
    mean += (1.0 - beta1) * (gradient - mean)
    square = beta2 * square + (1.0 - beta2) * gradient * gradient
    correct1, correct2 = 1.0 - tl.exp(step * tl.log(beta1)), 1.0 - tl.exp(step * tl.log(beta2))
    weight -= learning_rate / correct1 * mean / (tl.sqrt(square) / tl.sqrt(correct2) + eps)
    tl.store(weights + at, weight, mask=inside)
    tl.store(means + at, mean, mask=inside)
    tl.store(squares + at, square, mask=inside)
