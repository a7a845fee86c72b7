/* The pieces between the matrix products of a Transformer's step, each one pass over memory that stays in the cache.

   What models/step/torch_ops.py says with a dozen tensor operations is one function here, of the same name and meaning.
   Activations are feature-major: row d of (D, N) holds one feature of all N = batch x length tokens, so vectors run
   along tokens and no sum runs across a vector, but for the two that `lanes_to_rows` makes cheap. Sums have a fixed order,
   so the same build gives the same bits. */

#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { STRIP = 16, PARTS = STRIP / LANES }; /* queries that are attended for at once, and their vectors */
typedef int64_t size;

/* x_DN[d, n] = embedding_VD[tokens[n], d] */
void embed(const int64_t *tokens, const float *embedding, float *x, size d_model, size n) {
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) x[d * n + i] = embedding[tokens[i] * d_model + d];
}

/* d_embedding_VD[tokens[n], d] += dx_DN[d, n] */
void embed_backward(const int64_t *tokens, const float *dx, float *d_embedding, size d_model, size n) {
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) d_embedding[tokens[i] * d_model + d] += dx[d * n + i];
}

/* From the gradient of weight_ED gain_D, in place that of the weight; and that of the gain. */
void fold_backward(float *gradient, const float *weight, const float *gain, float *d_gain, size rows, size d_model) {
    memset(d_gain, 0, d_model * sizeof(float));
    for (size e = 0; e < rows; e++)
        for (size d = 0; d < d_model; d++) {
            const float g = gradient[e * d_model + d];
            d_gain[d] += g * weight[e * d_model + d];
            gradient[e * d_model + d] = g * gain[d];
        }
}

/* 1 / rms of every column of x_DN */
void norm_scale(const float *x, float *scale, size d_model, size n, float eps) {
    memset(scale, 0, n * sizeof(float));
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) scale[i] += x[d * n + i] * x[d * n + i];
    for (size i = 0; i < n; i++) scale[i] = 1.0f / sqrtf(scale[i] / d_model + eps);
}

/* g + residual - x scale^2 mean(g x), over g. `room` holds n floats. */
void norm_backward(float *g, const float *x, const float *scale, const float *residual, float *room, size d_model,
                   size n) {
    memset(room, 0, n * sizeof(float));
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) room[i] += g[d * n + i] * x[d * n + i];
    for (size i = 0; i < n; i++) room[i] *= scale[i] * scale[i] / d_model;
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) {
            const float along = g[d * n + i] - x[d * n + i] * room[i];
            g[d * n + i] = residual ? along + residual[d * n + i] : along;
        }
}

/* hidden = silu(gate scale) up scale; gate and up become what the gradient of hidden is to be multiplied by. */
static inline void swiglu_at(float *gate, float *up, const float *scale, float *hidden, int keep) {
    const vec s = AT(scale), g = AT(gate) * s, u = AT(up) * s;
    const vec sigmoid = 1.0f / (1.0f + vexp(-larger(all(-88), g))), silu = g * sigmoid;
    AT(hidden) = silu * u;
    if (!keep) return;
    AT(gate) = u * s * (sigmoid + silu - silu * sigmoid);
    AT(up) = silu * s;
}

void swiglu(float *gate_up, const float *scale, float *hidden, size d_ff, size n, int keep) {
    for (size f = 0; f < d_ff; f++) {
        float *gate = gate_up + f * n, *up = gate + d_ff * n, *out = hidden + f * n;
        size i = 0;
        for (; i + LANES <= n; i += LANES) swiglu_at(gate + i, up + i, scale + i, out + i, keep);
        if (i == n) continue;
        float rest[4][LANES] = {{0}}; /* gate, up, scale, hidden of the last few */
        const size bytes = (n - i) * sizeof(float);
        memcpy(rest[0], gate + i, bytes), memcpy(rest[1], up + i, bytes), memcpy(rest[2], scale + i, bytes);
        swiglu_at(rest[0], rest[1], rest[2], rest[3], keep);
        memcpy(gate + i, rest[0], bytes), memcpy(up + i, rest[1], bytes), memcpy(out + i, rest[3], bytes);
    }
}

void swiglu_backward(float *gate_up, const float *d_hidden, size d_ff, size n) {
    for (size half = 0; half < 2; half++)
        for (size i = 0; i < d_ff * n; i++) gate_up[half * d_ff * n + i] *= d_hidden[i];
}

/* A row's largest entry, and e to the difference from it: kept over the row or not, and summed. */
static inline float exponentials(float *row, float s, size vocab, float *top, int keep) {
    const size whole = vocab / LANES * LANES;
    vec most = all(-INFINITY), total = all(0);
    float highest = -INFINITY, rest = 0;
    for (size v = 0; v < whole; v += LANES) most = larger(AT(row + v) * s, most);
    for (int l = 0; l < LANES; l++) highest = most[l] > highest ? most[l] : highest;
    for (size v = whole; v < vocab; v++) highest = row[v] * s > highest ? row[v] * s : highest;
    for (size v = 0; v < whole; v += LANES) {
        const vec e = vexp(AT(row + v) * s - highest);
        total += e;
        if (keep) AT(row + v) = e;
    }
    for (size v = whole; v < vocab; v++) {
        const float e = vexp(all(row[v] * s - highest))[0];
        rest += e;
        if (keep) row[v] = e;
    }
    *top = highest;
    return sum(total) + rest;
}

/* Logits are logits_NV scaled by row; they become the gradient of the mean loss, which is returned. */
double cross_entropy(float *logits, const float *scale, const int64_t *targets, size n, size vocab) {
    double loss = 0;
    for (size i = 0; i < n; i++) {
        float *row = logits + i * vocab, s = scale[i], target = row[targets[i]] * s, top;
        const float z = exponentials(row, s, vocab, &top, 1), share = s / (z * n);
        for (size v = 0; v < vocab; v++) row[v] *= share;
        row[targets[i]] -= s / n;
        loss -= target - top - logf(z);
    }
    return loss / n;
}

/* Nats of every target, and whether it has the largest logit, the first of equals. */
void score(float *logits, const float *scale, const int64_t *targets, float *nats, uint8_t *hits, size n, size vocab) {
    for (size i = 0; i < n; i++) {
        float *row = logits + i * vocab, target = row[targets[i]] * scale[i], top;
        const float z = exponentials(row, scale[i], vocab, &top, 0);
        nats[i] = logf(z) - (target - top);
        hits[i] = target == top;
        for (size v = 0; hits[i] && v < (size)targets[i]; v++) hits[i] = row[v] * scale[i] < top;
    }
}

/* ---- Attention. One head of one sequence at a time, its length padded to whole strips. */

static inline size padded(size length) { return (length + STRIP - 1) / STRIP * STRIP; }
/* Where a strip's weights begin: (keys up to its end, STRIP), all strips in a row. */
static inline size strip_at(size t) { return t / STRIP * (t / STRIP + 1) / 2 * STRIP * STRIP; }

/* rows 0..width of `from` (stride n) to `to` (stride padded), rotated by the tables (width / 2, length) and scaled. */
static void load_head(const float *from, const float *scale, const float *cosine, const float *sine, float factor,
                      float *to, size width, size length, size n) {
    const size pad = padded(length), half = width / 2;
    for (size k = 0; k < width; k++) {
        memset(to + k * pad + length, 0, (pad - length) * sizeof(float));
        if (!cosine)
            for (size t = 0; t < length; t++) to[k * pad + t] = from[k * n + t] * scale[t];
        else if (k < half)
            for (size t = 0; t < length; t++) {
                const float a = from[k * n + t] * scale[t] * factor, b = from[(k + half) * n + t] * scale[t] * factor;
                const float c = cosine[k * length + t], s = sine[k * length + t];
                to[k * pad + t] = a * c - b * s;
                to[(k + half) * pad + t] = b * c + a * s;
            }
    }
}

/* The way back: what `load_head` read from gets the gradient. */
static void store_head(const float *from, const float *scale, const float *cosine, const float *sine, float factor,
                       float *to, size width, size length, size n) {
    const size pad = padded(length), half = width / 2;
    for (size k = 0; k < (cosine ? half : width); k++)
        for (size t = 0; t < length; t++) {
            const float a = from[k * pad + t] * scale[t] * factor;
            to[k * n + t] = a;
            if (!cosine) continue;
            const float b = from[(k + half) * pad + t] * scale[t] * factor;
            const float c = cosine[k * length + t], s = sine[k * length + t];
            to[k * n + t] = a * c + b * s;
            to[(k + half) * n + t] = b * c - a * s;
        }
}

/* out[u, STRIP] = sum over k of x[k, u] y[k, STRIP] for u < keys: scores of a strip of queries */
static inline void products(const float *x, const float *y, float *out, size keys, size width, size pad) {
    enum { KEYS = 8 / PARTS }; /* eight sums at once: each waits for its last addition */
    for (size u = 0; u < keys; u += KEYS) {
        vec sums[KEYS][PARTS];
        for (int i = 0; i < KEYS * PARTS; i++) sums[i / PARTS][i % PARTS] = all(0);
        for (size k = 0; k < width; k++)
            for (int p = 0; p < PARTS; p++) {
                const vec a = AT(y + k * pad + p * LANES);
                for (int i = 0; i < KEYS; i++) sums[i][p] += a * x[k * pad + u + i];
            }
        for (int i = 0; i < KEYS; i++)
            for (int p = 0; p < PARTS; p++) AT(out + (u + i) * STRIP + p * LANES) = sums[i][p];
    }
}

/* out[k, STRIP] = sum over u < keys of weights[u, STRIP] x[k, u] */
static inline void mixture(const float *weights, const float *x, float *out, size keys, size width, size pad) {
    enum { APART = 4 / PARTS }; /* keys that are summed apart, and two features: eight sums at once */
    for (size k = 0; k < width; k += 2) {
        const float *first = x + k * pad, *second = first + pad;
        vec sums[2][PARTS][APART];
        for (int p = 0; p < PARTS; p++)
            for (int i = 0; i < APART; i++) sums[0][p][i] = sums[1][p][i] = all(0);
        for (size u = 0; u < keys; u += APART)
            for (int i = 0; i < APART; i++)
                for (int p = 0; p < PARTS; p++) {
                    const vec a = AT(weights + (u + i) * STRIP + p * LANES);
                    sums[0][p][i] += a * first[u + i], sums[1][p][i] += a * second[u + i];
                }
        for (int j = 0; j < 2; j++)
            for (int p = 0; p < PARTS; p++) {
                for (int i = 1; i < APART; i++) sums[j][p][0] += sums[j][p][i];
                AT(out + (k + j) * pad + p * LANES) = sums[j][p][0];
            }
    }
}

/* out[k, u] = sum over t >= u's strip of weights[u, t] x[k, t] */
static void over_queries(const float *weights, const float *x, float *out, size width, size pad) {
    for (size u = 0; u < pad; u += LANES)
        for (size k = 0; k < width; k++) {
            vec sums[LANES];
            for (int i = 0; i < LANES; i++) sums[i] = all(0);
            for (size t = u / STRIP * STRIP; t < pad; t += STRIP)
                for (int p = 0; p < PARTS; p++) {
                    const float *rows = weights + strip_at(t) + u * STRIP + p * LANES;
                    const vec a = AT(x + k * pad + t + p * LANES);
                    for (int i = 0; i < LANES; i++) sums[i] += a * AT(rows + i * STRIP);
                }
            AT(out + k * pad + u) = lanes_to_rows(sums);
        }
}

/* Scores (keys, STRIP) of the queries from t on become weights; a query sees the keys up to itself. */
static inline void softmax(float *scores, size t) {
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int first = 0; first < STRIP; first += LANES) {
        float *at = scores + first;
        vec most = all(-INFINITY), total = all(0);
        for (int32_t u = 0; u < STRIP; u++) { /* the keys of the strip itself: later ones are hidden */
            vec *score = &AT(at + (t + u) * STRIP);
            *score = choose(lane + first < u, all(-INFINITY), *score);
            most = larger(*score, most);
        }
        for (size u = 0; u < t; u++) most = larger(AT(at + u * STRIP), most);
        for (size u = 0; u < t + STRIP; u++) total += AT(at + u * STRIP) = vexp(AT(at + u * STRIP) - most);
        total = 1.0f / total;
        for (size u = 0; u < t + STRIP; u++) AT(at + u * STRIP) *= total;
    }
}

/* The gradient of the scores before the softmax, over that of its weights, for a strip of queries from t on. */
static inline void softmax_backward(float *d, const float *weight, size t) {
    for (int p = 0; p < STRIP; p += LANES) {
        vec along = all(0);
        for (size u = p; u < (t + STRIP) * STRIP; u += STRIP) along += AT(d + u) * AT(weight + u);
        for (size u = p; u < (t + STRIP) * STRIP; u += STRIP) AT(d + u) = AT(weight + u) * (AT(d + u) - along);
    }
}

/* y_DN of qkv_3DN. `heads` (B, H, 3, K, padded) and `weights` (B, H, strips) are kept for the way back. */
void attend(const float *qkv, const float *scale, const float *cosine, const float *sine, float *y, float *heads,
            float *weights, size batch, size n_head, size width, size length, int keep) {
    const size n = batch * length, pad = padded(length), part = n_head * width * n, room = width * pad;
    float *out = malloc(room * sizeof(float));
    for (size b = 0; b < batch; b++)
        for (size h = 0; h < n_head; h++) {
            const float *from = qkv + h * width * n + b * length, *s = scale + b * length;
            float *q = heads, *k = q + room, *v = k + room;
            load_head(from, s, cosine, sine, 1.0f / sqrtf(width), q, width, length, n);
            load_head(from + part, s, cosine, sine, 1.0f, k, width, length, n);
            load_head(from + 2 * part, s, NULL, NULL, 1.0f, v, width, length, n);
            for (size t = 0; t < pad; t += STRIP) {
                float *strip = weights + strip_at(t);
                products(k, q + t, strip, t + STRIP, width, pad);
                softmax(strip, t);
                mixture(strip, v, out + t, t + STRIP, width, pad);
            }
            for (size i = 0; i < width; i++)
                memcpy(y + (h * width + i) * n + b * length, out + i * pad, length * sizeof(float));
            if (keep) heads += 3 * room, weights += strip_at(pad);
        }
    free(out);
}

/* d_qkv_3DN of dy_DN, times the scale that qkv was read with. */
void attend_backward(const float *dy, const float *scale, const float *cosine, const float *sine, const float *heads,
                     const float *weights, float *d_qkv, size batch, size n_head, size width, size length) {
    const size n = batch * length, pad = padded(length), part = n_head * width * n, room = width * pad;
    float *d_scores = malloc((strip_at(pad) + 4 * room) * sizeof(float));
    float *dout = d_scores + strip_at(pad), *dq = dout + room, *dk = dq + room, *dv = dk + room;
    for (size b = 0; b < batch; b++)
        for (size h = 0; h < n_head; h++) {
            const float *q = heads, *k = q + room, *v = k + room, *s = scale + b * length;
            for (size i = 0; i < width; i++) {
                memcpy(dout + i * pad, dy + (h * width + i) * n + b * length, length * sizeof(float));
                memset(dout + i * pad + length, 0, (pad - length) * sizeof(float));
            }
            for (size t = 0; t < pad; t += STRIP) {
                const float *weight = weights + strip_at(t);
                float *d = d_scores + strip_at(t);
                products(v, dout + t, d, t + STRIP, width, pad);
                softmax_backward(d, weight, t);
                mixture(d, k, dq + t, t + STRIP, width, pad);
            }
            over_queries(d_scores, q, dk, width, pad);
            over_queries(weights, dout, dv, width, pad);
            float *to = d_qkv + h * width * n + b * length;
            store_head(dq, s, cosine, sine, 1.0f / sqrtf(width), to, width, length, n);
            store_head(dk, s, cosine, sine, 1.0f, to + part, width, length, n);
            store_head(dv, s, NULL, NULL, 1.0f, to + 2 * part, width, length, n);
            heads += 3 * room, weights += strip_at(pad);
        }
    free(d_scores);
}
