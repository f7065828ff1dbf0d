/* Sums of products of int16 pairs: SMLAD where the core has it, the same in C elsewhere. */
#ifndef EP_DOT_H
#define EP_DOT_H

#include <stdint.h>
#include <string.h>

/* Assembly is for Cortex-M: other cores lack its instructions, or registers in code that may lie anywhere. For size GCC lets
   the smaller ones have too few registers. */
#if !(defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M') || (defined(__ARM_ARCH_6M__) && defined(__OPTIMIZE_SIZE__))
#undef EP_NO_ASM
#define EP_NO_ASM 1
#endif

#if defined(__ARM_FEATURE_DSP) && !defined(EP_PLAIN_C)
#include <arm_acle.h>
#define EP_DSP 1
#endif

/* functions whose registers are all spoken for, and those made for each of several constants */
#if defined(__GNUC__)
#define EP_APART __attribute__((noinline))
#define EP_INLINE static inline __attribute__((always_inline))
#else
#define EP_APART
#define EP_INLINE static inline
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

/* Two weights and two inputs as words. With SMLAD: halves, the first in the low one. Without it one multiplication gives both
   products: w = -(w0 · 2^16 + w1), x = x0 + x1 · 2^16, so w · x = -(w0 x0 + w1 x1) · 2^16 - w1 x0 modulo 2^32. The last
   term is small and is rounded off; minus keeps the sum of two int8 products within 16 bits, even that of four -128. */
static inline uint32_t ep_pair_of(int32_t w0, int32_t w1)
{
#ifdef EP_DSP
    return ((uint32_t)w0 & 0xffffu) | (uint32_t)w1 << 16;
#else
    return 0u - ((uint32_t)w0 << 16) - (uint32_t)w1;
#endif
}

#define EP_ROUND 0x8000u

/* sum + w0 · x0 + w1 · x1 */
static inline int32_t ep_dot_pair(uint32_t w, uint32_t x, int32_t sum)
{
#ifdef EP_DSP
    return __smlad((int16x2_t)w, (int16x2_t)x, sum);
#else
    return (int32_t)((uint32_t)sum - (uint32_t)((int32_t)(w * x + EP_ROUND) >> 16));
#endif
}

/* count int16, on a border of 4 bytes, as words of two inputs */
static inline void ep_pair_inputs(int16_t *values, int32_t count)
{
#ifdef EP_DSP
    (void)values, (void)count; /* they are */
#else
    for (; count > 0; count -= 2, values += 2) {
        const uint32_t pair = (uint32_t)values[0] + ((uint32_t)values[1] << 16);
        memcpy(values, &pair, sizeof pair);
    }
#endif
}

/* sum + w0 · x.low, the halves of x as they are */
static inline int32_t ep_dot_low(uint32_t w, uint32_t x, int32_t sum)
{
#ifdef EP_DSP
    return __smlabb((int32_t)w, (int32_t)x, sum);
#else
    return (int32_t)((uint32_t)sum - (uint32_t)(((int32_t)(w + EP_ROUND) >> 16) * (int16_t)(uint16_t)x));
#endif
}

/* sum + w1 · x.high */
static inline int32_t ep_dot_high(uint32_t w, uint32_t x, int32_t sum)
{
#ifdef EP_DSP
    return __smlatt((int32_t)w, (int32_t)x, sum);
#else
    return (int32_t)((uint32_t)sum - (uint32_t)((int16_t)(uint16_t)w * (int16_t)(uint16_t)(x >> 16)));
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

#elif (defined(__ARM_ARCH_6M__) || defined(__ARM_ARCH_7M__)) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)

/* Two pairs of weights, which w points to, and of inputs, in r4 and r5, into a sum: see ep_dot_pair. */
#ifdef __ARM_ARCH_6M__
#define EP_FOUR(sum)                       \
    "ldmia %[w]!, {r6, r7}\n"              \
    "muls r6, r4\n"                        \
    "muls r7, r5\n"                        \
    "add r6, %[round]\n"                   \
    "add r7, %[round]\n"                   \
    "asrs r6, r6, #16\n"                   \
    "asrs r7, r7, #16\n"                   \
    "subs %[" sum "], %[" sum "], r6\n"    \
    "subs %[" sum "], %[" sum "], r7\n"
#else
#define EP_FOUR(sum)                                \
    "ldmia %[w]!, {r6, r7}\n"                       \
    "mla r6, r6, r4, %[round]\n"                    \
    "mla r7, r7, r5, %[round]\n"                    \
    "sub %[" sum "], %[" sum "], r6, asr #16\n"     \
    "sub %[" sum "], %[" sum "], r7, asr #16\n"
#endif

/* one pixel after the other: the smaller core has eight registers to calculate with */
static inline void ep_dot_block(const uint32_t *w, const int16_t *x0, const int16_t *x1, int32_t groups, int32_t rows,
                                int32_t apart, int32_t sums[4])
{
    const uint32_t round = EP_ROUND;
    for (int32_t pixel = 0; pixel < 2; ++pixel) {
        const int16_t *from = pixel ? x1 : x0;
        const uint32_t *v = w;
        int32_t s0 = sums[pixel], s2 = sums[2 + pixel];
        for (int32_t row = rows; row > 0; --row, from += apart) {
            const int16_t *x = from;
            const uint32_t *const end = v + 4 * groups;
            __asm__ volatile(".syntax unified\n"
                             "1:\n"
                             "ldmia %[x]!, {r4, r5}\n" EP_FOUR("s0") EP_FOUR("s2") "cmp %[w], %[end]\n"
                             "bne 1b\n"
                             : [w] "+l"(v), [x] "+l"(x), [s0] "+l"(s0), [s2] "+l"(s2)
                             : [end] "h"(end), [round] "h"(round)
                             : "r4", "r5", "r6", "r7", "cc", "memory");
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

#ifdef EP_DSP
/* the low halves of two words, the first's in the low half; then the high ones */
static inline uint32_t ep_low_halves(uint32_t a, uint32_t b)
{
    uint32_t pair;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

static inline uint32_t ep_high_halves(uint32_t a, uint32_t b)
{
    uint32_t pair;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(pair) : "r"(b), "r"(a));
    return pair;
}
#endif

/* count int8 as int16 */
static inline void ep_widen(const int8_t *from, int32_t count, int16_t *to)
{
#ifdef EP_DSP
    for (; count >= 4; count -= 4, from += 4, to += 4) {
        uint32_t word, even, odd, pair;
        memcpy(&word, from, sizeof word);
        even = (uint32_t)__sxtb16((int8x4_t)word);
        odd = (uint32_t)__sxtb16((int8x4_t)(word >> 8 | word << 24));
        pair = ep_low_halves(even, odd);
        memcpy(to, &pair, sizeof pair);
        pair = ep_high_halves(even, odd);
        memcpy(to + 2, &pair, sizeof pair);
    }
#endif
    for (; count > 0; --count)
        *to++ = *from++;
}

static inline void ep_fill(int16_t *to, int32_t value, int32_t count)
{
    for (; count > 0; --count)
        *to++ = (int16_t)value;
}

#endif
