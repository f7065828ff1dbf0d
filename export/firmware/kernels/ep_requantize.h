/* Fixed-point arithmetic of the TFLite reference kernels, with its double rounding.

   high_product(x, M) = (2·x·M) / 2^32, rounded half up, saturated for x = M = -2^31
   requantize(x)      = high_product(x · 2^left, M) / 2^right, ties away from zero; left = max(shift, 0), right = max(-shift, 0)

   Source: tflite-micro, tensorflow/lite/kernels/internal/common.cc; gemmlowp, fixedpoint/fixedpoint.h. */
#ifndef EP_REQUANTIZE_H
#define EP_REQUANTIZE_H

#include <stdint.h>

#if defined(__ARM_FEATURE_SAT) && !defined(EP_PLAIN_C)
#include <arm_acle.h>
#endif

static inline int32_t ep_high_product(int32_t a, int32_t b)
{
    if (a == b && a == INT32_MIN)
        return INT32_MAX;
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* a · b / 2^32, rounded half up: high_product of a / 2 */
static inline int32_t ep_half_product(int32_t a, int32_t b)
{
#if defined(__ARM_FEATURE_DSP) && !defined(EP_PLAIN_C)
    int32_t product;
    __asm__("smmulr %0, %1, %2" : "=r"(product) : "r"(a), "r"(b));
    return product;
#elif defined(__ARM_ARCH_6M__) && !defined(EP_PLAIN_C)
    /* by halves: a product of 64 bits is a call of a function there. No sum passes 2^31 - 1, though that one reaches it. */
    const int32_t a0 = a & 0xffff, a1 = a >> 16, b0 = b & 0xffff, b1 = b >> 16;
    const int32_t high = a1 * b0 + (int32_t)((uint32_t)a0 * (uint32_t)b0 >> 16) + 0x8000;
    return a1 * b1 + (high >> 16) + ((a0 * b1 + (high & 0xffff)) >> 16);
#else
    return (int32_t)(((int64_t)a * b + (INT64_C(1) << 31)) >> 32);
#endif
}

/* x / 2^n, ties away from zero; 0 <= n <= 31 */
static inline int32_t ep_shift_right(int32_t x, int n)
{
    const int32_t mask = (int32_t)((UINT32_C(1) << n) - 1);
    return (x >> n) + ((x & mask) > (mask >> 1) + (x < 0));
}

static inline int32_t ep_shift_left(int32_t x, int n)
{
    return (int32_t)((uint32_t)x << n);
}

static inline int32_t ep_requantize(int32_t x, int32_t multiplier, int shift)
{
    if (shift > 0)
        return ep_high_product(ep_shift_left(x, shift), multiplier);
    return ep_shift_right(ep_high_product(x, multiplier), -shift);
}

/* A multiplier ready for many sums, where |x| < 2^30 and -22 <= shift <= -1, as nearly all are: no saturation, no branches.
   offset: half of 2^right, and what is added to the result · 2^right. */
typedef struct {
    int32_t multiplier, offset, right;
} ep_scale;

static inline ep_scale ep_scale_of(int32_t multiplier, int32_t shift, int32_t zero)
{
    const ep_scale scale = {multiplier, (1 << (-shift - 1)) + zero * (1 << -shift), -shift};
    return scale;
}

/* requantize(x) + zero */
static inline int32_t ep_apply(ep_scale scale, int32_t x)
{
#if defined(__ARM_FEATURE_DSP) && !defined(EP_PLAIN_C)
    /* One is taken off where x is below 0, which is known before the product. That is 0, not below, for x = -1 and a multiplier
       of 2^30 alone, and one less gives the same. */
    int32_t sum;
    __asm__("smmlar %0, %1, %2, %3" : "=r"(sum) : "r"(x * 2), "r"(scale.multiplier), "r"(scale.offset + (x >> 31)));
    return sum >> scale.right;
#else
    const int32_t product = ep_half_product(x * 2, scale.multiplier);
    return (product + (product >> 31) + scale.offset) >> scale.right;
#endif
}

/* a + b, wrapping around as the reference kernels do in effect */
static inline int32_t ep_sum(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

static inline int8_t ep_saturate(int32_t x)
{
#if defined(__ARM_FEATURE_SAT) && !defined(EP_PLAIN_C)
    return (int8_t)__ssat(x, 8);
#else
    return (int8_t)(x < INT8_MIN ? INT8_MIN : x > INT8_MAX ? INT8_MAX : x);
#endif
}

/* ep_apply of one sum, saturated: no ep_scale is made, which takes as long as using it. Half of 2^right is half a unit when
   all but one place is shifted out. */
static inline int8_t ep_apply_once(int32_t multiplier, int32_t shift, int32_t zero, int32_t x)
{
    const int32_t product = ep_half_product(x * 2, multiplier);
    return ep_saturate((((product + (product >> 31)) >> (-shift - 1)) + (2 * zero + 1)) >> 1);
}

static inline int32_t ep_smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t ep_larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static inline int32_t ep_clamp(int32_t x, int32_t least, int32_t most)
{
    return x < least ? least : x > most ? most : x;
}

/* A multiplier of numbers from -2^30 to 2^30. */
typedef struct {
    int32_t multiplier, half, tie, right; /* half: of 2^right. tie: -1, or 0 where right = 0. */
} ep_factor;

static inline ep_factor ep_factor_of(int32_t multiplier, int32_t right)
{
    const ep_factor made = {multiplier, (int32_t)((UINT32_C(1) << right) >> 1), right ? -1 : 0, right};
    return made;
}

/* x / 2 by the multiplier, ties away from zero */
static inline int32_t ep_multiplied(ep_factor by, int32_t x)
{
    const int32_t product = ep_half_product(x, by.multiplier);
    return (product + ((product >> 31) & by.tie) + by.half) >> by.right;
}

#endif
