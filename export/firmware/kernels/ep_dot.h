/* Sums of products of int16 pairs: SMLAD where the core has it, the same in C elsewhere. */
#ifndef EP_DOT_H
#define EP_DOT_H

#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && !defined(EP_PLAIN_C)
#include <arm_acle.h>
#define EP_DSP 1
#endif

/* two int16 from a border of two bytes or better */
static inline uint32_t ep_load_pair(const int16_t *values)
{
    uint32_t pair;
    memcpy(&pair, values, sizeof pair);
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

/* Two channels × two pixels over 4 · groups products each.
   w: (groups, 2 channels, 2) pairs. x0, x1: (4 · groups) int16 on a border of 4 bytes. sums: channel 0 of both pixels, channel 1. */
static inline void ep_dot_block(const uint32_t *w, const int16_t *x0, const int16_t *x1, int32_t groups, int32_t sums[4])
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
#if defined(EP_DSP) && defined(__thumb2__) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)
    const uint32_t *end = w + 4 * groups;
    uint32_t a, b;
    /* what follows in C, with loads of several words */
    __asm__ volatile(".p2align 2\n"
                     "1: ldmia %[w]!, {r4, r5, r6, r8}\n"
                     "ldrd %[a], %[b], [%[x0]], #8\n"
                     "smlad %[s0], r4, %[a], %[s0]\n"
                     "smlad %[s2], r6, %[a], %[s2]\n"
                     "smlad %[s0], r5, %[b], %[s0]\n"
                     "smlad %[s2], r8, %[b], %[s2]\n"
                     "ldrd %[a], %[b], [%[x1]], #8\n"
                     "cmp %[w], %[end]\n"
                     "smlad %[s1], r4, %[a], %[s1]\n"
                     "smlad %[s3], r6, %[a], %[s3]\n"
                     "smlad %[s1], r5, %[b], %[s1]\n"
                     "smlad %[s3], r8, %[b], %[s3]\n"
                     "bne 1b\n"
                     : [w] "+r"(w), [x0] "+r"(x0), [x1] "+r"(x1), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2),
                       [s3] "+r"(s3), [a] "=&r"(a), [b] "=&r"(b)
                     : [end] "r"(end)
                     : "r4", "r5", "r6", "r8", "cc", "memory");
#else
    for (; groups > 0; --groups, w += 4, x0 += 4, x1 += 4) {
        const uint32_t a = ep_load_pair(x0), b = ep_load_pair(x0 + 2);
        const uint32_t c = ep_load_pair(x1), d = ep_load_pair(x1 + 2);
        s0 = ep_dot_pair(w[1], b, ep_dot_pair(w[0], a, s0));
        s1 = ep_dot_pair(w[1], d, ep_dot_pair(w[0], c, s1));
        s2 = ep_dot_pair(w[3], b, ep_dot_pair(w[2], a, s2));
        s3 = ep_dot_pair(w[3], d, ep_dot_pair(w[2], c, s3));
    }
#endif
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

#endif
