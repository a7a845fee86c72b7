/* What stands between the matrix products of a step, each one pass over memory that stays in the cache.

   A dozen tensor operations of models/step/torch_ops.py are one function here, of the same name and meaning.
   Activations are feature-major: row d of (D, N) holds one feature of all N = batch x length tokens, so vectors run
   along tokens and no sum runs across a vector, but for the two that `lanes_to_rows` makes cheap. Sums have a fixed
   order, so the same build gives the same bits.

   Shapes stand at the pointers, row-major: D d_model, N = B x T tokens, V vocab, E rows of a weight matrix, F d_ff,
   B batch, H n_head, K width of a head (D = H x K), T length, P the length padded to whole strips; of experts, E their
   number and k those that a token goes to. A backward quotes
   the line of its forward that it inverts. */

#include <stdlib.h>

#include "vectors.h"

enum { STRIP = 16, PARTS = STRIP / LANES }; /* queries that are attended for at once, and their vectors */
typedef int64_t size;

/* x[d, n] = embedding[tokens[n], d] */
void embed(const int64_t *tokens,  /* (N) */
           const float *embedding, /* (V, D) */
           float *x,               /* (D, N), written */
           size d_model, size n) {
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) x[d * n + i] = embedding[tokens[i] * d_model + d];
}

/* embed: x[d, n] = embedding[tokens[n], d]. So d_embedding[tokens[n], d] += dx[d, n]. */
void embed_backward(const int64_t *tokens, /* (N) */
                    const float *dx,       /* (D, N) */
                    float *d_embedding,    /* (V, D), added to */
                    size d_model, size n) {
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) d_embedding[tokens[i] * d_model + d] += dx[d * n + i];
}

/* parts/norm.py: folded[e, d] = weight[e, d] * gain[d]. So d_weight = d_folded * gain, d_gain = sum over e of
   d_folded * weight. */
void fold_backward(float *gradient,     /* (E, D), of folded; becomes that of the weight */
                   const float *weight, /* (E, D) */
                   const float *gain,   /* (D) */
                   float *d_gain,       /* (D), written */
                   size rows, size d_model) {
    memset(d_gain, 0, d_model * sizeof(float));
    for (size e = 0; e < rows; e++)
        for (size d = 0; d < d_model; d++) {
            const float g = gradient[e * d_model + d];
            d_gain[d] += g * weight[e * d_model + d];
            gradient[e * d_model + d] = g * gain[d];
        }
}

/* scale[n] = 1 / sqrt(mean over d of x[d, n]^2 + eps) */
void norm_scale(const float *x, /* (D, N) */
                float *scale,   /* (N), written */
                size d_model, size n, float eps) {
    memset(scale, 0, n * sizeof(float));
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) scale[i] += x[d * n + i] * x[d * n + i];
    for (size i = 0; i < n; i++) scale[i] = 1.0f / sqrtf(scale[i] / d_model + eps);
}

/* norm_scale: scale[n] = 1 / sqrt(mean over d of x[d, n]^2 + eps), by which the product behind x is scaled. So
   dx = g - x scale^2 mean over d of (g x), where g is the gradient of x as if scale were a constant; plus residual. */
void norm_backward(float *g,              /* (D, N), becomes dx */
                   const float *x,        /* (D, N) */
                   const float *scale,    /* (N) */
                   const float *residual, /* (D, N), or NULL */
                   float *room,           /* (N), scratch */
                   size d_model, size n) {
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

/* h[d, n] = (x[d, n] - mean[n]) scale[n] gain[d] + bias[d], where mean[n] is that of x[d, n] over d and scale[n] =
   1 / sqrt(mean over d of (x[d, n] - mean[n])^2 + eps). Without bias mean is 0: RMSNorm. */
void norm(const float *x,    /* (D, N) */
          const float *gain, /* (D) */
          const float *bias, /* (D), or NULL */
          float *mean,       /* (N), written */
          float *scale,      /* (N), written */
          float *h,          /* (D, N), written */
          size d_model, size n, float eps) {
    memset(mean, 0, n * sizeof(float));
    memset(scale, 0, n * sizeof(float));
    for (size d = 0; bias && d < d_model; d++)
        for (size i = 0; i < n; i++) mean[i] += x[d * n + i];
    for (size i = 0; i < n; i++) mean[i] /= d_model;
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) scale[i] += (x[d * n + i] - mean[i]) * (x[d * n + i] - mean[i]);
    for (size i = 0; i < n; i++) scale[i] = 1.0f / sqrtf(scale[i] / d_model + eps);
    for (size d = 0; d < d_model; d++) {
        const float g = gain[d], b = bias ? bias[d] : 0;
        for (size i = 0; i < n; i++) h[d * n + i] = (x[d * n + i] - mean[i]) * scale[i] * g + b;
    }
}

/* norm: h = u gain + bias, u = (x - mean) scale. So d_bias[d] = sum over n of dh, d_gain[d] = sum over n of dh u, and
   dx = scale (du - mean over d of du - u mean over d of (du u)), du = dh gain; without bias the mean of du is left out.
   Plus residual. */
void normed_backward(float *dh,             /* (D, N), becomes dx */
                     const float *x,        /* (D, N) */
                     const float *mean,     /* (N) */
                     const float *scale,    /* (N) */
                     const float *gain,     /* (D) */
                     const float *residual, /* (D, N), or NULL */
                     float *d_gain,         /* (D), written */
                     float *d_bias,         /* (D), written, or NULL */
                     float *room,           /* (2, N), scratch */
                     size d_model, size n) {
    float *level = room, *along = room + n;
    memset(room, 0, 2 * n * sizeof(float));
    for (size d = 0; d < d_model; d++) {
        const float *dh_d = dh + d * n, *x_d = x + d * n;
        vec gains = all(0), biases = all(0);
        float rest = 0, rest_bias = 0;
        size i = 0;
        for (; i + LANES <= n; i += LANES) {
            const vec g = AT(dh_d + i), u = (AT(x_d + i) - AT(mean + i)) * AT(scale + i);
            gains += g * u, biases += g;
            AT(level + i) += g * gain[d];
            AT(along + i) += g * gain[d] * u;
        }
        for (; i < n; i++) {
            const float g = dh_d[i], u = (x_d[i] - mean[i]) * scale[i];
            rest += g * u, rest_bias += g;
            level[i] += g * gain[d];
            along[i] += g * gain[d] * u;
        }
        d_gain[d] = sum(gains) + rest;
        if (d_bias) d_bias[d] = sum(biases) + rest_bias;
    }
    for (size i = 0; i < n; i++) level[i] = d_bias ? level[i] / d_model : 0, along[i] /= d_model;
    for (size d = 0; d < d_model; d++)
        for (size i = 0; i < n; i++) {
            const float u = (x[d * n + i] - mean[i]) * scale[i];
            const float dx = scale[i] * (dh[d * n + i] * gain[d] - level[i] - u * along[i]);
            dh[d * n + i] = residual ? dx + residual[d * n + i] : dx;
        }
}

/* hidden = silu(gate scale) up scale, for LANES tokens; with keep, gate and up become the factors that turn the
   gradient of hidden into those of gate and up. */
static inline void swiglu_at(float *gate, float *up, const float *scale, float *hidden, int keep) { /* (LANES) each */
    const vec s = AT(scale), g = AT(gate) * s, u = AT(up) * s;
    const vec sigmoid = 1.0f / (1.0f + vexp(-larger(all(-88), g))), silu = g * sigmoid;
    AT(hidden) = silu * u;
    if (!keep) return;
    AT(gate) = u * s * (sigmoid + silu - silu * sigmoid);
    AT(up) = silu * s;
}

/* hidden[f, n] = silu(gate[f, n] scale[n]) up[f, n] scale[n] */
void swiglu(float *gate_up,     /* (2, F, N): gate, then up; with keep, becomes the factors of swiglu_backward */
            const float *scale, /* (N) */
            float *hidden,      /* (F, N), written */
            size d_ff, size n, int keep) {
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

/* swiglu_at: hidden = silu(gate scale) up scale. So d_gate = d_hidden up scale silu'(gate scale) scale and
   d_up = d_hidden silu(gate scale) scale; all but d_hidden is what swiglu kept. */
void swiglu_backward(float *gate_up,        /* (2, F, N), the kept factors; becomes the gradient of gate, then of up */
                     const float *d_hidden, /* (F, N) */
                     size d_ff, size n) {
    float *gate = gate_up, *up = gate_up + d_ff * n;
    for (size i = 0; i < d_ff * n; i++) gate[i] *= d_hidden[i], up[i] *= d_hidden[i];
}

/* hidden = gelu(u), u = x scale, for LANES tokens; with keep, x becomes the factor that turns the gradient of hidden into
   that of x. The tanh form, u (1 + tanh z) / 2, is u sigmoid(2 z), z = sqrt(2 / pi) (u + .044715 u^3); beyond 10 the
   sigmoid is 0 or 1. */
static inline void gelu_at(float *x, const float *scale, float *hidden, int keep) { /* (LANES) each */
    const vec s = AT(scale), u = AT(x) * s, low = larger(all(-10), u), v = choose(low > 10.0f, all(10), low);
    const vec square = v * v, twice = 1.5957691216f * v * (1.0f + 0.044715f * square);
    const vec sigmoid = 1.0f / (1.0f + vexp(-twice));
    AT(hidden) = low * sigmoid;
    if (keep) AT(x) = s * sigmoid * (1.0f + (1.0f - sigmoid) * 1.5957691216f * v * (1.0f + 0.134145f * square));
}

/* hidden[f, n] = gelu(x[f, n] scale[n]) */
void gelu(float *x,           /* (F, N); with keep, becomes the factor of gelu_backward */
          const float *scale, /* (N) */
          float *hidden,      /* (F, N), written */
          size d_ff, size n, int keep) {
    for (size f = 0; f < d_ff; f++) {
        float *in = x + f * n, *out = hidden + f * n;
        size i = 0;
        for (; i + LANES <= n; i += LANES) gelu_at(in + i, scale + i, out + i, keep);
        if (i == n) continue;
        float rest[3][LANES] = {{0}}; /* x, scale, hidden of the last few */
        const size bytes = (n - i) * sizeof(float);
        memcpy(rest[0], in + i, bytes), memcpy(rest[1], scale + i, bytes);
        gelu_at(rest[0], rest[1], rest[2], keep);
        memcpy(in + i, rest[0], bytes), memcpy(out + i, rest[2], bytes);
    }
}

/* gelu_at: hidden = gelu(x scale). So dx = d_hidden gelu'(x scale) scale; all but d_hidden is what gelu kept. */
void gelu_backward(float *x,              /* (F, N), the kept factor; becomes dx */
                   const float *d_hidden, /* (F, N) */
                   size d_ff, size n) {
    for (size i = 0; i < d_ff * n; i++) x[i] *= d_hidden[i];
}

/* Sum over v of e^(row[v] s - top), where top is the largest row[v] s. With keep the terms overwrite the row. */
static inline float exponentials(float *row, /* (V) */
                                 float s, size vocab,
                                 float *top, /* (1), written */
                                 int keep) {
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

/* Returns loss = mean over n of log(sum over v of e^(logits[n, v] scale[n])) - logits[n, targets[n]] scale[n]; and its
   gradient d_logits[n, v] = (softmax(logits scale)[n, v] - (v == targets[n])) scale[n] / N. */
double cross_entropy(float *logits,          /* (N, V), becomes d_logits */
                     const float *scale,     /* (N) */
                     const int64_t *targets, /* (N) */
                     size n, size vocab) {
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
void score(float *logits,          /* (N, V) */
           const float *scale,     /* (N) */
           const int64_t *targets, /* (N) */
           float *nats,            /* (N), written */
           uint8_t *hits,          /* (N), written */
           size n, size vocab) {
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
/* Where the weights of the strip of queries from t on begin: (keys up to its end, STRIP), all strips in a row. */
static inline size strip_at(size t) { return t / STRIP * (t / STRIP + 1) / 2 * STRIP * STRIP; }

/* One head of one sequence, scaled and rotated: to[k, t] = a cos - b sin and to[k + K/2, t] = b cos + a sin, where
   a, b = from[k, t], from[k + K/2, t] times scale[t] factor. Without tables (values) to[k, t] = from[k, t] scale[t]. */
static void load_head(const float *from,   /* (K, T) of rows n floats apart */
                      const float *scale,  /* (T) */
                      const float *cosine, /* (K / 2, T), or NULL */
                      const float *sine,   /* (K / 2, T), or NULL */
                      float factor,
                      float *restrict to, /* (K, P), written; zeros beyond T */
                      size width, size length, size n) {
    const size pad = padded(length), half = width / 2;
    for (size k = 0; k < width; k++) {
        memset(to + k * pad + length, 0, (pad - length) * sizeof(float));
        if (!cosine)
            for (size t = 0; t < length; t++) to[k * pad + t] = from[k * n + t] * scale[t] * factor;
        else if (k < half)
            for (size t = 0; t < length; t++) {
                const float a = from[k * n + t] * scale[t] * factor, b = from[(k + half) * n + t] * scale[t] * factor;
                const float c = cosine[k * length + t], s = sine[k * length + t];
                to[k * pad + t] = a * c - b * s;
                to[(k + half) * pad + t] = b * c + a * s;
            }
    }
}

/* load_head: to[k] = a cos - b sin, to[k + K/2] = b cos + a sin, with a, b = from[k], from[k + K/2] times scale factor.
   So d_from[k] = (d_to[k] cos + d_to[k + K/2] sin) scale factor, d_from[k + K/2] = (d_to[k + K/2] cos - d_to[k] sin)
   scale factor. */
static void store_head(const float *from,   /* (K, P): d_to, the gradient of what load_head wrote */
                       const float *scale,  /* (T) */
                       const float *cosine, /* (K / 2, T), or NULL */
                       const float *sine,   /* (K / 2, T), or NULL */
                       float factor,
                       float *to, /* (K, T) of rows n floats apart: d_from, written */
                       size width, size length, size n) {
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

/* out[u, t] = sum over k of x[k, u] y[k, t], for u < keys and the STRIP columns t of y: scores of a strip of queries */
static inline void products(const float *x, /* (K, P) */
                            const float *y, /* (K, STRIP) of rows P apart */
                            float *out,     /* (keys, STRIP), written */
                            size keys, size width, size pad) {
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

enum { AT_ONCE = LANES / 4 }; /* features that are mixed while the weights are at hand */

/* out[k, t] = sum over u < keys of weights[u, t] x[k, u], for a strip of queries t and a few features k */
static inline __attribute__((always_inline)) void mixture_of(const float *weights, /* (keys, STRIP) */
                                                             const float *x,       /* (features, P) */
                                                             float *out, /* (features, STRIP), as x */
                                                             size keys, size pad, const int features) {
    enum { APART = 4 / PARTS }; /* keys that are summed apart: each sum waits for its last addition */
    vec sums[AT_ONCE][PARTS][APART];
    for (int j = 0; j < features; j++)
        for (int p = 0; p < PARTS; p++)
            for (int i = 0; i < APART; i++) sums[j][p][i] = all(0);
    for (size u = 0; u < keys; u += APART)
        for (int i = 0; i < APART; i++)
            for (int p = 0; p < PARTS; p++) {
                const vec a = AT(weights + (u + i) * STRIP + p * LANES);
                for (int j = 0; j < features; j++) sums[j][p][i] += a * x[j * pad + u + i];
            }
    for (int j = 0; j < features; j++)
        for (int p = 0; p < PARTS; p++) {
            for (int i = 1; i < APART; i++) sums[j][p][0] += sums[j][p][i];
            AT(out + j * pad + p * LANES) = sums[j][p][0];
        }
}

/* mixture_of every feature */
static inline void mixture(const float *weights, /* (keys, STRIP) */
                           const float *x,       /* (K, P) */
                           float *out,           /* (K, STRIP) of rows P apart, written */
                           size keys, size width, size pad) {
    size k = 0;
    for (; k + AT_ONCE <= width; k += AT_ONCE) mixture_of(weights, x + k * pad, out + k * pad, keys, pad, AT_ONCE);
    for (; k < width; k++) mixture_of(weights, x + k * pad, out + k * pad, keys, pad, 1);
}

/* mixture: out[k, t] = sum over u of weights[u, t] x[k, u]. So d_x[k, u] = sum over t of weights[u, t] d_out[k, t],
   from u's own strip on: earlier queries do not see the key u. */
static void over_queries(const float *weights, /* all strips, as strip_at places them */
                         const float *x,       /* (K, P): d_out */
                         float *out,           /* (K, P): d_x, written */
                         size width, size pad) {
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

/* Scores of the strip of queries from t on become weights; a query sees the keys up to itself. */
static inline void softmax(float *scores /* (t + STRIP, STRIP), overwritten */, size t) {
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

/* softmax: weight[u] = e^score[u] / sum over v of e^score[v], for each query.
   So d_score[u] = weight[u] (d_weight[u] - sum over v of d_weight[v] weight[v]). */
static inline void softmax_backward(float *d,            /* (t + STRIP, STRIP): d_weight, becomes d_score */
                                    const float *weight, /* (t + STRIP, STRIP) */
                                    size t) {
    for (int p = 0; p < STRIP; p += LANES) {
        vec along = all(0);
        for (size u = p; u < (t + STRIP) * STRIP; u += STRIP) along += AT(d + u) * AT(weight + u);
        for (size u = p; u < (t + STRIP) * STRIP; u += STRIP) AT(d + u) = AT(weight + u) * (AT(d + u) - along);
    }
}

/* load_head of the queries, the keys and the values of one head */
static inline void load_heads(const float *qkv,    /* (3, K, T) of rows n floats apart, in parts `part` apart */
                              const float *scale,  /* (T) */
                              const float *cosine, /* (K / 2, T), or NULL */
                              const float *sine,   /* (K / 2, T), or NULL */
                              float *to,           /* (3, K, P), written */
                              size width, size length, size n, size part) {
    const size room = width * padded(length);
    load_head(qkv, scale, cosine, sine, 1.0f / sqrtf(width), to, width, length, n);
    load_head(qkv + part, scale, cosine, sine, 1.0f, to + room, width, length, n);
    load_head(qkv + 2 * part, scale, NULL, NULL, 1.0f, to + 2 * room, width, length, n);
}

/* Causal attention over queries and keys, rotated unless cosine is NULL. With keep, qkv and weights are kept for
   attend_backward; without, the weights have room for one head alone. */
void attend(const float *qkv,    /* (3, H, K, N): q, k, v */
            const float *scale,  /* (N), that qkv is to be multiplied by */
            const float *cosine, /* (K / 2, T), or NULL */
            const float *sine,   /* (K / 2, T), or NULL */
            float *y,            /* (H, K, N), written */
            float *weights,      /* (H, B, strip_at(P)), written: every strip's */
            size batch, size n_head, size width, size length, int keep) {
    const size n = batch * length, pad = padded(length), part = n_head * width * n, room = width * pad;
    float *q = malloc(4 * room * sizeof(float)), *k = q + room, *v = k + room, *out = v + room;
    for (size h = 0; h < n_head; h++)
        for (size b = 0; b < batch; b++) {
            const size at = h * width * n + b * length;
            load_heads(qkv + at, scale + b * length, cosine, sine, q, width, length, n, part);
            for (size t = 0; t < pad; t += STRIP) {
                float *strip = weights + strip_at(t);
                products(k, q + t, strip, t + STRIP, width, pad);
                softmax(strip, t);
                mixture(strip, v, out + t, t + STRIP, width, pad);
            }
            for (size i = 0; i < width; i++) memcpy(y + at + i * n, out + i * pad, length * sizeof(float));
            if (keep) weights += strip_at(pad);
        }
    free(q);
}

/* attend, its heads loaded again, then line by line from its last: the gradient of qkv, before it was multiplied by the
   scale. */
void attend_backward(const float *dy,      /* (H, K, N) */
                     const float *scale,   /* (N) */
                     const float *cosine,  /* (K / 2, T), or NULL */
                     const float *sine,    /* (K / 2, T), or NULL */
                     const float *weights, /* (H, B, strip_at(P)), kept by attend */
                     float *qkv,           /* (3, H, K, N), kept by attend; becomes its gradient */
                     size batch, size n_head, size width, size length) {
    const size n = batch * length, pad = padded(length), part = n_head * width * n, room = width * pad;
    float *d_scores = malloc((strip_at(pad) + 7 * room) * sizeof(float));
    float *q = d_scores + strip_at(pad), *k = q + room, *v = k + room;
    float *dout = v + room, *dq = dout + room, *dk = dq + room, *dv = dk + room;
    for (size h = 0; h < n_head; h++)
        for (size b = 0; b < batch; b++) {
            const size at = h * width * n + b * length;
            const float *s = scale + b * length;
            load_heads(qkv + at, s, cosine, sine, q, width, length, n, part);
            for (size i = 0; i < width; i++) {
                memcpy(dout + i * pad, dy + at + i * n, length * sizeof(float));
                memset(dout + i * pad + length, 0, (pad - length) * sizeof(float));
            }
            for (size t = 0; t < pad; t += STRIP) {
                const float *weight = weights + strip_at(t);
                float *d = d_scores + strip_at(t);
                products(v, dout + t, d, t + STRIP, width, pad); /* mixture(strip, v, out + t): of its weights */
                softmax_backward(d, weight, t);                  /* softmax(strip, t) */
                mixture(d, k, dq + t, t + STRIP, width, pad);    /* products(k, q + t, strip): of q */
            }
            over_queries(d_scores, q, dk, width, pad);   /* products(k, q + t, strip): of k */
            over_queries(weights, dout, dv, width, pad); /* mixture(strip, v, out + t): of v */
            store_head(dq, s, cosine, sine, 1.0f / sqrtf(width), qkv + at, width, length, n);
            store_head(dk, s, cosine, sine, 1.0f, qkv + at + part, width, length, n);
            store_head(dv, s, NULL, NULL, 1.0f, qkv + at + 2 * part, width, length, n);
            weights += strip_at(pad);
        }
    free(d_scores);
}

enum { GATES = 4 }; /* in torch's order: input, forget, cell, output */

/* out[r, l] += sum over k of x[r, k] w[k, l], for `rows` rows and the LANES columns of a panel. */
static inline __attribute__((always_inline)) void add_tile(const float *x,  /* (rows, inner) */
                                                           size x_row,      /* floats from row to row */
                                                           const float *w,  /* (inner, LANES) */
                                                           float *out,      /* (rows, LANES) */
                                                           size out_row, size inner, const int rows) {
    vec sums[8];
    for (int r = 0; r < rows; r++) sums[r] = AT(out + r * out_row);
    for (size k = 0; k < inner; k++) {
        const vec a = AT(w + k * LANES);
        for (int r = 0; r < rows; r++) sums[r] += a * x[r * x_row + k];
    }
    for (int r = 0; r < rows; r++) AT(out + r * out_row) = sums[r];
}

/* out[r, m] += sum over k of x[r, k] w[k, m] */
static void add_product(const float *x, /* (rows, inner) */
                        const float *w, /* (panels, inner, LANES) */
                        float *out,     /* (rows, panels, LANES) */
                        size rows, size inner, size panels) {
    const size row = panels * LANES;
    for (size p = 0; p < panels; p++, w += inner * LANES, out += LANES) {
        size r = 0;
        for (; r + 8 <= rows; r += 8) add_tile(x + r * inner, inner, w, out + r * row, row, inner, 8);
        for (; r + 4 <= rows; r += 4) add_tile(x + r * inner, inner, w, out + r * row, row, inner, 4);
        for (; r < rows; r++) add_tile(x + r * inner, inner, w, out + r * row, row, inner, 1);
    }
}

/* An LSTM layer over its sequences, from zero state: a = gates[t] + bias + weight h[t - 1], i f o = sigmoid(a), g = tanh(a),
   c[t] = f c[t - 1] + i g, h[t] = o tanh(c[t]). */
void recur(float *gates,        /* (T, B, GATES, D): what comes from the input; becomes i, f, g, o */
           const float *weight, /* (GATES, D, D) */
           const float *bias,   /* (GATES, D) */
           float *cells,        /* (T, B, D), written: c */
           float *h,            /* (T, B, D), written */
           size length, size batch, size width) {
    const size panels = (width + LANES - 1) / LANES, row = GATES * panels * LANES;
    float *packed = calloc(width * row + batch * row, sizeof(float)), *sums = packed + width * row;
    for (size e = 0; e < GATES * width; e++) {
        const size j = e % width, panel = e / width * panels + j / LANES;
        for (size k = 0; k < width; k++) packed[(panel * width + k) * LANES + j % LANES] = weight[e * width + k];
    }
    for (size t = 0; t < length; t++) {
        float *at = gates + t * batch * GATES * width;
        for (size b = 0; b < batch; b++)
            for (size g = 0; g < GATES; g++)
                for (size j = 0; j < width; j += LANES)
                    AT(sums + b * row + g * panels * LANES + j) = load_some(at + (b * GATES + g) * width + j, width - j) +
                                                                  load_some(bias + g * width + j, width - j);
        if (t) add_product(h + (t - 1) * batch * width, packed, sums, batch, width, GATES * panels);
        for (size b = 0; b < batch; b++)
            for (size j = 0; j < width; j += LANES) {
                const float *sum_b = sums + b * row + j;
                const size place = (t * batch + b) * width + j, left = width - j, gate = panels * LANES;
                const vec in = vsigmoid(AT(sum_b)), forget = vsigmoid(AT(sum_b + gate));
                const vec new = vtanh(AT(sum_b + 2 * gate)), out = vsigmoid(AT(sum_b + 3 * gate));
                vec cell = in * new;
                if (t) cell += forget * load_some(cells + place - batch * width, left);
                const vec kept[GATES] = {in, forget, new, out};
                for (size g = 0; g < GATES; g++) store_some(at + (b * GATES + g) * width + j, kept[g], left);
                store_some(cells + place, cell, left);
                store_some(h + place, out * vtanh(cell), left);
            }
    }
    free(packed);
}

/* recur, from its last position: with dh the gradient of h[t], d_out = dh tanh(c), dc = dh o (1 - tanh(c)^2) + what
   comes from c[t + 1] = f c[t] + ..; then that of a by the slopes of sigmoid and tanh, whose sum is that of the bias, and
   h[t - 1]'s by the weight. */
void recur_backward(const float *dh,     /* (T, B, D): from what reads h */
                    const float *weight, /* (GATES, D, D) */
                    const float *cells,  /* (T, B, D) */
                    float *gates,        /* (T, B, GATES, D): i, f, g, o; becomes the gradient of what recur read */
                    float *d_bias,       /* (GATES, D), written */
                    size length, size batch, size width) {
    const size panels = (width + LANES - 1) / LANES, row = panels * LANES, inner = GATES * width;
    float *packed = calloc((inner + 2 * batch + GATES) * row, sizeof(float));
    float *back = packed + inner * row, *d_cells = back + batch * row; /* (B, D) each: of h[t] and c[t] by t + 1 */
    float *totals = d_cells + batch * row;                             /* (GATES, D) */
    for (size e = 0; e < inner; e++)
        for (size j = 0; j < width; j++)
            packed[(j / LANES * inner + e) * LANES + j % LANES] = weight[e * width + j];
    for (size t = length; t-- > 0;) {
        float *at = gates + t * batch * inner;
        for (size b = 0; b < batch; b++)
            for (size j = 0; j < width; j += LANES) {
                const size place = (t * batch + b) * width + j, left = width - j;
                float *a = at + b * inner + j, *dc = d_cells + b * row + j;
                const vec in = load_some(a, left), forget = load_some(a + width, left);
                const vec new = load_some(a + 2 * width, left), out = load_some(a + 3 * width, left);
                const vec curved = vtanh(load_some(cells + place, left));
                const vec d = load_some(dh + place, left) + AT(back + b * row + j);
                const vec d_cell = AT(dc) + d * out * (1.0f - curved * curved);
                const vec before = t ? load_some(cells + place - batch * width, left) : all(0);
                const vec slopes[GATES] = {d_cell * new * in * (1.0f - in), d_cell * before * forget * (1.0f - forget),
                                           d_cell * in * (1.0f - new * new), d * curved * out * (1.0f - out)};
                for (size g = 0; g < GATES; g++) {
                    store_some(a + g * width, slopes[g], left);
                    AT(totals + g * row + j) += slopes[g];
                }
                AT(dc) = d_cell * forget;
            }
        memset(back, 0, batch * row * sizeof(float));
        if (t) add_product(at, packed, back, batch, inner, panels);
    }
    for (size g = 0; g < GATES; g++) memcpy(d_bias + g * width, totals + g * row, width * sizeof(float));
    free(packed);
}

/* Of each token the `chosen` most probable experts, the first of equals: p = softmax(logits), their shares weight = p /
   sum of the chosen p, p itself of a single one, and where each pair stands in the list that is sorted by expert. */
void route(float *logits,   /* (E, N), becomes p */
           float *weight,   /* (k, N), written */
           int32_t *expert, /* (k, N), written */
           int32_t *slot,   /* (k, N), written */
           int64_t *first,  /* (E + 1), written: where each expert's part of the list begins */
           size experts, size chosen, size n) {
    memset(first, 0, (experts + 1) * sizeof(int64_t));
    for (size i = 0; i < n; i++) {
        float most = logits[i], total = 0, sum_chosen = 0;
        for (size e = 1; e < experts; e++) most = logits[e * n + i] > most ? logits[e * n + i] : most;
        for (size e = 0; e < experts; e++) total += logits[e * n + i] = expf(logits[e * n + i] - most);
        for (size e = 0; e < experts; e++) logits[e * n + i] /= total;
        for (size j = 0; j < chosen; j++) {
            int32_t best = -1;
            for (int32_t e = 0; e < experts; e++) {
                int taken = best >= 0 && !(logits[e * n + i] > logits[best * n + i]);
                for (size before = 0; before < j; before++) taken |= expert[before * n + i] == e;
                if (!taken) best = e;
            }
            expert[j * n + i] = best;
            sum_chosen += weight[j * n + i] = logits[best * n + i];
            first[best + 1]++;
        }
        if (chosen > 1)
            for (size j = 0; j < chosen; j++) weight[j * n + i] /= sum_chosen;
    }
    for (size e = 0; e < experts; e++) first[e + 1] += first[e];
    int64_t next[experts];
    memcpy(next, first, experts * sizeof(int64_t));
    for (size i = 0; i < chosen * n; i++) slot[i] = next[expert[i]]++;
}

/* route: weight = p / sum of the chosen p, p = softmax(logits). So dp[expert[j]] = (d_weight[j] - sum over i of
   d_weight[i] weight[i]) / sum of the chosen p, d_weight itself of a single one, plus pull[e] of every expert; d_logit =
   p (dp - sum over e of dp p). */
void route_backward(const float *p,        /* (E, N) */
                    const float *weight,   /* (k, N) */
                    const int32_t *expert, /* (k, N) */
                    const float *d_weight, /* (k, N) */
                    const float *pull,     /* (E): the gradient of p by whatever else depends on it */
                    float *d_logits,       /* (E, N), written */
                    size experts, size chosen, size n) {
    for (size i = 0; i < n; i++) {
        float sum_chosen = 0, along = 0, mean = 0;
        for (size e = 0; e < experts; e++) d_logits[e * n + i] = pull[e];
        for (size j = 0; j < chosen && chosen > 1; j++) {
            sum_chosen += p[expert[j * n + i] * n + i];
            along += d_weight[j * n + i] * weight[j * n + i];
        }
        if (chosen == 1) sum_chosen = 1;
        for (size j = 0; j < chosen; j++)
            d_logits[expert[j * n + i] * n + i] += (d_weight[j * n + i] - along) / sum_chosen;
        for (size e = 0; e < experts; e++) mean += d_logits[e * n + i] * p[e * n + i];
        for (size e = 0; e < experts; e++) d_logits[e * n + i] = p[e * n + i] * (d_logits[e * n + i] - mean);
    }
}

/* to[d, slot[j, n]] = from[d, n] weight[j, n], or without a weight from[d, n] */
void spread(const float *from,   /* (D, N) */
            const int32_t *slot, /* (k, N) */
            const float *weight, /* (k, N), or NULL */
            float *to,           /* (D, k N), written */
            size chosen, size d_model, size n) {
    for (size d = 0; d < d_model; d++)
        for (size j = 0; j < chosen; j++) {
            const float *x = from + d * n, *w = weight + j * n;
            float *y = to + d * chosen * n;
            if (weight)
                for (size i = 0; i < n; i++) y[slot[j * n + i]] = x[i] * w[i];
            else
                for (size i = 0; i < n; i++) y[slot[j * n + i]] = x[i];
        }
}

/* to[d, n] = plus[d, n] + sum over j of from[d, slot[j, n]] weight[j, n], or without a weight from[d, slot[j, n]] */
void collect(const float *from,   /* (D, k N) */
             const int32_t *slot, /* (k, N) */
             const float *weight, /* (k, N), or NULL */
             const float *plus,   /* (D, N) */
             float *to,           /* (D, N), written */
             size chosen, size d_model, size n) {
    for (size d = 0; d < d_model; d++) {
        const float *x = from + d * chosen * n;
        float *y = to + d * n;
        memcpy(y, plus + d * n, n * sizeof(float));
        for (size j = 0; j < chosen; j++) {
            const float *w = weight + j * n;
            if (weight)
                for (size i = 0; i < n; i++) y[i] += x[slot[j * n + i]] * w[i];
            else
                for (size i = 0; i < n; i++) y[i] += x[slot[j * n + i]];
        }
    }
}

/* collect: to[d, n] = .. + from[d, slot[j, n]] weight[j, n]. So d_weight[j, n] = sum over d of d_to[d, n]
   from[d, slot[j, n]]. */
void collect_weights(const float *d_to,   /* (D, N) */
                     const float *from,   /* (D, k N) */
                     const int32_t *slot, /* (k, N) */
                     float *d_weight,     /* (k, N), written */
                     size chosen, size d_model, size n) {
    memset(d_weight, 0, chosen * n * sizeof(float));
    for (size d = 0; d < d_model; d++)
        for (size j = 0; j < chosen; j++)
            for (size i = 0; i < n; i++)
                d_weight[j * n + i] += d_to[d * n + i] * from[d * chosen * n + slot[j * n + i]];
}
