/* kernels/cpu/simd.h — sixteen floats at a time, in the compiler's vector extensions.
 *
 * A file that includes it is compiled once for each instruction-set level, so the same lines become
 * one AVX-512 register, two AVX2 ones or plain code; sixteen lanes on each keep the order of every sum
 * the same within a level whatever the shape. Products and sums may be fused (-ffp-contract=fast),
 * which is the same choice at every call, for these functions are inlined into one loop each.
 *
 * Thread: any. Memory: none. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SIMD_LANES 16u
#define SIMD_INLINE static inline __attribute__((always_inline, unused))

typedef float vec __attribute__((vector_size(64)));
typedef int32_t veci __attribute__((vector_size(64)));
typedef uint32_t vecu __attribute__((vector_size(64)));
typedef uint16_t vech __attribute__((vector_size(32)));

SIMD_INLINE vec vec_load(const float *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

SIMD_INLINE void vec_store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

SIMD_INLINE vecu vecu_load(const void *p)
{
    vecu v;
    memcpy(&v, p, sizeof v);
    return v;
}

SIMD_INLINE vec vec_set(float x)
{
    return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

/* mask: lanes of all bits or none. */
SIMD_INLINE vec vec_pick(veci mask, vec yes, vec no)
{
    return (vec)((mask & (veci)yes) | (~mask & (veci)no));
}

SIMD_INLINE vec vec_max(vec a, vec b)
{
    return vec_pick(a > b, a, b);
}

/* The first count lanes of p, the rest fill. */
SIMD_INLINE vec vec_load_part(const float *p, uint32_t count, float fill)
{
    if (count == SIMD_LANES)
        return vec_load(p);
    vec v = vec_set(fill);
    memcpy(&v, p, count * sizeof *p);
    return v;
}

SIMD_INLINE void vec_store_part(float *p, vec v, uint32_t count)
{
    if (count == SIMD_LANES)
        vec_store(p, v);
    else
        memcpy(p, &v, count * sizeof *p);
}

/* To each lane the one that lies step above it, around the end. */
#define SIMD_LANES_ABOVE(v, step)                                                                  \
    __builtin_shufflevector(                                                                       \
        (v), (v), (0 + (step)) % 16, (1 + (step)) % 16, (2 + (step)) % 16, (3 + (step)) % 16,      \
        (4 + (step)) % 16, (5 + (step)) % 16, (6 + (step)) % 16, (7 + (step)) % 16,                \
        (8 + (step)) % 16, (9 + (step)) % 16, (10 + (step)) % 16, (11 + (step)) % 16,              \
        (12 + (step)) % 16, (13 + (step)) % 16, (14 + (step)) % 16, (15 + (step)) % 16)

/* Lanes in a fixed tree: 8, 4, 2, 1 apart. */
SIMD_INLINE float vec_sum(vec v)
{
    v += SIMD_LANES_ABOVE(v, 8);
    v += SIMD_LANES_ABOVE(v, 4);
    v += SIMD_LANES_ABOVE(v, 2);
    v += SIMD_LANES_ABOVE(v, 1);
    return v[0];
}

SIMD_INLINE float vec_greatest(vec v)
{
    v = vec_max(v, SIMD_LANES_ABOVE(v, 8));
    v = vec_max(v, SIMD_LANES_ABOVE(v, 4));
    v = vec_max(v, SIMD_LANES_ABOVE(v, 2));
    v = vec_max(v, SIMD_LANES_ABOVE(v, 1));
    return v[0];
}

/* e^x, within 2 ulp for -87.3 .. 88.3, 0 below and at -infinity, clamped above (Cephes' expf: x = n
 * ln 2 + r, a polynomial of degree 6 on r, |r| <= ln 2 / 2). */
SIMD_INLINE vec vec_exp(vec x)
{
    const vec high = vec_set(88.3f), low = vec_set(-87.3f);
    veci tiny = x < low;
    x = vec_pick(x > high, high, x);
    x = vec_pick(tiny, low, x);
    vec scaled = x * 1.44269504088896341f;
    veci n =
        __builtin_convertvector(scaled + vec_pick(scaled < 0, vec_set(-0.5f), vec_set(0.5f)), veci);
    vec whole = __builtin_convertvector(n, vec);
    vec r = x - whole * 0.693359375f;
    r = r - whole * -2.12194440e-4f;
    vec p = vec_set(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vec y = p * (vec)((n + 127) << 23);
    return vec_pick(tiny, vec_set(0), y);
}

SIMD_INLINE vec vec_tanh(vec x)
{
    vec e = vec_exp(vec_pick(x < 0, x, -x) * 2.0f); /* of -2|x| */
    vec y = (1.0f - e) / (1.0f + e);
    /* Near 0 the difference loses digits: there the series does. */
    vec x2 = x * x;
    vec near = x * (1.0f + x2 * (-1.0f / 3 + x2 * (2.0f / 15 + x2 * (-17.0f / 315))));
    y = vec_pick(x < 0, -y, y);
    return vec_pick(x2 < 0.04f, near, y);
}

/* Round to nearest even; NaN stays NaN. */
SIMD_INLINE vech vec_to_bf16(vec v)
{
    vecu bits = (vecu)v;
    vecu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    vecu nan = (bits >> 16) | 0x40u;
    vecu is_nan = (vecu)((bits & 0x7fffffffu) > 0x7f800000u);
    return __builtin_convertvector((is_nan & nan) | (~is_nan & rounded), vech);
}

SIMD_INLINE vec vec_from_bf16(const uint16_t *p)
{
    vech h;
    memcpy(&h, p, sizeof h);
    return (vec)(__builtin_convertvector(h, vecu) << 16);
}

/* Pairs of bf16 in 32-bit lanes: the even and the odd one as floats. */
SIMD_INLINE vec vec_even(vecu pairs)
{
    return (vec)(pairs << 16);
}

SIMD_INLINE vec vec_odd(vecu pairs)
{
    return (vec)(pairs & 0xffff0000u);
}
