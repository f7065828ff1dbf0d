/* Sums of products of int16 pairs: SMLAD where the core has it, the same in C elsewhere. */
#ifndef EP_DOT_H
#define EP_DOT_H

#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && !defined(EP_PLAIN_C)
#include <arm_acle.h>
#define EP_DSP 1
#endif

/* functions whose registers are all spoken for */
#if defined(__GNUC__)
#define EP_APART __attribute__((noinline))
#else
#define EP_APART
#endif

/* two int16 from a border of four bytes, as one load */
static inline uint32_t ep_load_pair(const int16_t *values)
{
    uint32_t pair;
#if defined(__GNUC__)
    memcpy(&pair, __builtin_assume_aligned(values, 4), sizeof pair);
#else
    memcpy(&pair, values, sizeof pair);
#endif
    return pair;
}

/* sum + a.low · b.low + a.high · b.high */
static inline int32_t ep_dot_pair(uint32_t a, uint32_t b, int32_t sum)
{
#ifdef EP_DSP
    return __smlad((int16x2_t)a, (int16x2_t)b, sum);
#else
    const int32_t low = (int16_t)(uint16_t)a * (int16_t)(uint16_t)b;
    const int32_t high = (int16_t)(uint16_t)(a >> 16) * (int16_t)(uint16_t)(b >> 16);
    return (int32_t)((uint32_t)sum + (uint32_t)low + (uint32_t)high);
#endif
}

/* sum + a.low · b.low, and the same of the high halves */
static inline int32_t ep_dot_low(uint32_t a, uint32_t b, int32_t sum)
{
#ifdef EP_DSP
    return __smlabb((int32_t)a, (int32_t)b, sum);
#else
    return (int32_t)((uint32_t)sum + (uint32_t)((int16_t)(uint16_t)a * (int16_t)(uint16_t)b));
#endif
}

static inline int32_t ep_dot_high(uint32_t a, uint32_t b, int32_t sum)
{
#ifdef EP_DSP
    return __smlatt((int32_t)a, (int32_t)b, sum);
#else
    return ep_dot_low(a >> 16, b >> 16, sum);
#endif
}

/* Two channels × two pixels over a kernel of `rows` × 4 · groups products.

   w: (rows, groups, 2 channels, 2) pairs. x0, x1: the pixels' (rows, 4 · groups) int16, rows `apart` int16 apart, on a border
   of 4 bytes. sums: channel 0 of both pixels, channel 1 of both. */
#if defined(EP_DSP) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)

/* four products of each sum: what the loop below says in C, with loads of several words */
#define EP_FOUR                              \
    "ldmia %[w]!, {r4, r5, r6, r8}\n"        \
    "ldrd %[a], %[b], [%[x0]], #8\n"         \
    "smlad %[s0], r4, %[a], %[s0]\n"         \
    "smlad %[s2], r6, %[a], %[s2]\n"         \
    "smlad %[s0], r5, %[b], %[s0]\n"         \
    "smlad %[s2], r8, %[b], %[s2]\n"         \
    "ldrd %[a], %[b], [%[x1]], #8\n"         \
    "smlad %[s1], r4, %[a], %[s1]\n"         \
    "smlad %[s3], r6, %[a], %[s3]\n"         \
    "smlad %[s1], r5, %[b], %[s1]\n"         \
    "smlad %[s3], r8, %[b], %[s3]\n"
#define EP_NEXT_ROW                          \
    "ldr r4, %[gap]\n"                       \
    "ldr r5, %[span]\n"                      \
    "ldr r6, %[last]\n"                      \
    "add %[x0], %[x0], r4\n"                 \
    "add %[x1], %[x1], r4\n"                 \
    "add %[end], %[end], r5\n"               \
    "cmp %[w], r6\n"                         \
    "bne 1b\n"
#define EP_OPERANDS                                                                                              \
    : [w] "+r"(w), [x0] "+r"(x0), [x1] "+r"(x1), [end] "+r"(end), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2),   \
      [s3] "+r"(s3), [a] "=&r"(a), [b] "=&r"(b)                                                                  \
    : [gap] "m"(gap), [span] "m"(span), [last] "m"(last)                                                         \
    : "r4", "r5", "r6", "r8", "cc", "memory"

static inline void ep_dot_block(const uint32_t *w, const int16_t *x0, const int16_t *x1, int32_t groups, int32_t rows,
                                int32_t apart, int32_t sums[4])
{
    const int32_t span = 16 * groups, gap = 2 * apart - 8 * groups;
    const uint32_t *end = w + 4 * groups, *const last = w + 4 * groups * rows;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    uint32_t a, b;
    if (groups & 1)
        __asm__ volatile("1:\n" EP_FOUR "cmp %[w], %[end]\n"
                         "bne 1b\n" EP_NEXT_ROW EP_OPERANDS);
    else
        __asm__ volatile("1:\n" EP_FOUR EP_FOUR "cmp %[w], %[end]\n"
                         "bne 1b\n" EP_NEXT_ROW EP_OPERANDS);
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

#elif defined(__ARM_ARCH_6M__) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)

/* two products of two sums: x holds a pair of inputs in [t0] and moves on, w a pair of each channel */
#define EP_TWO(first, second)        \
    "ldmia %[x]!, {%[t0]}\n"         \
    "ldr %[t1], [%[w], #" first "]\n" \
    "sxth %[t2], %[t0]\n"            \
    "asrs %[t0], %[t0], #16\n"       \
    "sxth %[t3], %[t1]\n"            \
    "asrs %[t1], %[t1], #16\n"       \
    "muls %[t3], %[t2]\n"            \
    "muls %[t1], %[t0]\n"            \
    "adds %[s0], %[s0], %[t3]\n"     \
    "adds %[s0], %[s0], %[t1]\n"     \
    "ldr %[t1], [%[w], #" second "]\n" \
    "sxth %[t3], %[t1]\n"            \
    "asrs %[t1], %[t1], #16\n"       \
    "muls %[t3], %[t2]\n"            \
    "muls %[t1], %[t0]\n"            \
    "adds %[s2], %[s2], %[t3]\n"     \
    "adds %[s2], %[s2], %[t1]\n"

/* one pixel after the other: the core has eight registers to calculate with */
static inline void ep_dot_block(const uint32_t *w, const int16_t *x0, const int16_t *x1, int32_t groups, int32_t rows,
                                int32_t apart, int32_t sums[4])
{
    for (int32_t pixel = 0; pixel < 2; ++pixel) {
        const int16_t *from = pixel ? x1 : x0;
        const uint32_t *v = w;
        int32_t s0 = sums[pixel], s2 = sums[2 + pixel];
        for (int32_t row = rows; row > 0; --row, from += apart) {
            const int16_t *x = from;
            const uint32_t *const end = v + 4 * groups;
            int32_t t0, t1, t2, t3;
            __asm__ volatile(".syntax unified\n"
                             "1:\n" EP_TWO("0", "8") EP_TWO("4", "12") "adds %[w], #16\n"
                             "cmp %[w], %[end]\n"
                             "bne 1b\n"
                             : [w] "+l"(v), [x] "+l"(x), [s0] "+l"(s0), [s2] "+l"(s2), [t0] "=&l"(t0), [t1] "=&l"(t1),
                               [t2] "=&l"(t2), [t3] "=&l"(t3)
                             : [end] "h"(end)
                             : "cc", "memory");
        }
        sums[pixel] = s0, sums[2 + pixel] = s2;
    }
}

#else

/* the same in C */
static inline void ep_dot_block(const uint32_t *w, const int16_t *x0, const int16_t *x1, int32_t groups, int32_t rows,
                                int32_t apart, int32_t sums[4])
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (; rows > 0; --rows, x0 += apart - 4 * groups, x1 += apart - 4 * groups)
        for (int32_t n = groups; n > 0; --n, w += 4, x0 += 4, x1 += 4) {
            const uint32_t a = ep_load_pair(x0), b = ep_load_pair(x0 + 2);
            const uint32_t c = ep_load_pair(x1), d = ep_load_pair(x1 + 2);
            s0 = ep_dot_pair(w[1], b, ep_dot_pair(w[0], a, s0));
            s1 = ep_dot_pair(w[1], d, ep_dot_pair(w[0], c, s1));
            s2 = ep_dot_pair(w[3], b, ep_dot_pair(w[2], a, s2));
            s3 = ep_dot_pair(w[3], d, ep_dot_pair(w[2], c, s3));
        }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

#endif

/* count int8, less `zero`, as int16 */
static inline void ep_widen(const int8_t *from, int32_t zero, int32_t count, int16_t *to)
{
#ifdef EP_DSP
    const uint32_t both = ((uint32_t)-zero & 0xffffu) | (uint32_t)-zero << 16;
    for (; count >= 4; count -= 4, from += 4, to += 4) {
        uint32_t word, even, odd, pair;
        memcpy(&word, from, sizeof word);
        even = (uint32_t)__sxtab16((int16x2_t)both, (int8x4_t)word);
        odd = (uint32_t)__sxtab16((int16x2_t)both, (int8x4_t)(word >> 8 | word << 24));
        pair = (even & 0xffffu) | odd << 16;
        memcpy(to, &pair, sizeof pair);
        pair = (odd & 0xffff0000u) | even >> 16;
        memcpy(to + 2, &pair, sizeof pair);
    }
#endif
    for (; count > 0; --count)
        *to++ = (int16_t)(*from++ - zero);
}

#endif
