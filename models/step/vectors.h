/* Vectors of floats, eight or sixteen lanes by the processor: GCC's and Clang's own, so the same text serves them all. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define LANES 16 /* floats of a vector */
#define EACH(x) {x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}
#else
#define LANES 8
#define EACH(x) {x, x, x, x, x, x, x, x}
#endif
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
#define AT(p) (*(vec *)(p))

static inline vec all(float x) { return (vec)EACH(x); }
static inline vec choose(ivec where, vec yes, vec no) { return (vec)(((ivec)yes & where) | ((ivec)no & ~where)); }
/* Elementwise maximum; b where the two cannot be compared. */
static inline vec larger(vec a, vec b) {
#if defined __AVX512F__
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined __AVX__
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

/* e^x to 2 ulp for x in [-87, 88]; 0 below, nan for nan. Cephes' polynomial. */
static inline vec vexp(vec x) {
    const vec shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f; /* to the nearest whole number */
    const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vec)((ivec)(p * (vec)(((ivec)shifted + 127) << 23)) & ~(ivec)(x < -87.0f));
}

static inline vec vsigmoid(vec x) { return 1.0f / (1.0f + vexp(-larger(all(-88), x))); }

/* tanh x to 3 ulp: Cephes' polynomial up to .625, 1 - 2 / (e^2x + 1) beyond. */
static inline vec vtanh(vec x) {
    const vec size = larger(x, -x), square = x * x, e = vexp(2.0f * choose(size > 40.0f, all(40), size));
    const vec far = 1.0f - 2.0f / (e + 1.0f);
    vec p = square * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f, p = p * square + 1.33314422036e-1f, p = p * square - 3.33332819422e-1f;
    return choose(size < 0.625f, p * square * x + x, choose(x < 0.0f, -far, far));
}

/* The first `count` of LANES floats, or all; the other lanes are 0, or left alone. */
static inline vec load_some(const float *from, int64_t count) {
    if (count >= LANES) return AT(from);
#ifdef __AVX512F__
    return (vec)_mm512_maskz_loadu_ps((1u << count) - 1, from);
#else
    vec x = all(0);
    memcpy(&x, from, count * sizeof(float));
    return x;
#endif
}
static inline void store_some(float *to, vec x, int64_t count) {
    if (count >= LANES)
        AT(to) = x;
    else
#ifdef __AVX512F__
        _mm512_mask_storeu_ps(to, (1u << count) - 1, (__m512)x);
#else
        memcpy(to, &x, count * sizeof(float));
#endif
}

/* The sums of neighbouring lanes of each four: two of a's, then two of b's. */
static inline vec sum_pairs(vec a, vec b) {
#if LANES == 16
    return SHUFFLE(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
           SHUFFLE(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
#else
    return SHUFFLE(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + SHUFFLE(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
#endif
}

/* The sums of neighbouring fours, lane by lane: those of a, then those of b. */
static inline vec sum_fours(vec a, vec b) {
#if LANES == 16
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
           SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
#else
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
#endif
}

/* Lane i of the result is the sum over the lanes of a[i]. Overwrites a. Each pass halves the number of vectors, and
   doubles the lanes that an element sums. */
static inline vec lanes_to_rows(vec *a) {
    for (int i = 0; i < LANES / 2; i++) a[i] = sum_pairs(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < LANES / 4; i++) a[i] = sum_pairs(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < LANES / 8; i++) a[i] = sum_fours(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < LANES / 16; i++) a[i] = sum_fours(a[2 * i], a[2 * i + 1]);
    return a[0];
}

static inline float sum(vec x) {
    float total = 0;
    for (int i = 0; i < LANES / 4; i++) total += (x[i] + x[i + LANES / 2]) + (x[i + LANES / 4] + x[i + 3 * LANES / 4]);
    return total;
}
