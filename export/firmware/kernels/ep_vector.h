/* Vectors of cores with MVE: weights decoded eight at a time, four sums requantized at once. Empty for other cores. */
#ifndef EP_VECTOR_H
#define EP_VECTOR_H

#include "ep_weights.h"

#if defined(__ARM_FEATURE_MVE) && !defined(EP_PLAIN_C)
#include <arm_mve.h>
#define EP_MVE 1

/* two pointers that step through a loop as they are: GCC would keep where each began and where it will end as well */
#if defined(__GNUC__)
#define EP_IN_REGISTERS(a, b) __asm__("" : "+r"(a), "+r"(b))
#else
#define EP_IN_REGISTERS(a, b)
#endif

/* Where eight indices lie in their bytes. Index n begins with bit n · bits, so it is in byte `high` and the next, `low`,
   of which nothing is asked if it does not reach there; the two shifted right by -`shift` and masked give it.
   table: added to each, the start of its channel's table. */
typedef struct {
    uint16x8_t high, low, mask, table;
    int16x8_t shift;
} ep_decoder;

static inline ep_decoder ep_decoder_of(int bits, uint16x8_t table)
{
    const uint16x8_t bit = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)bits);
    ep_decoder made;
    made.high = vshrq_n_u16(bit, 3);
    made.low = vminq_u16(vaddq_n_u16(made.high, 1), vdupq_n_u16((uint16_t)(bits - 1)));
    made.shift = vreinterpretq_s16_u16(vaddq_n_u16(vandq_u16(bit, vdupq_n_u16(7)), (uint16_t)(bits - 16)));
    made.mask = vdupq_n_u16((uint16_t)((1 << bits) - 1));
    made.table = table;
    return made;
}

/* 8 weights. data: `bits` bytes, or 8 int8 if bits = 8. */
static inline int16x8_t ep_decode_eight(const ep_decoder *by, int bits, const uint8_t *data, const int8_t *tables)
{
    if (bits == 8)
        return vldrbq_s16((const int8_t *)data);
    const uint16x8_t high = vldrbq_gather_offset_u16(data, by->high), low = vldrbq_gather_offset_u16(data, by->low);
    const uint16x8_t codes = vandq_u16(vshlq_u16(vsliq_n_u16(low, high, 8), by->shift), by->mask);
    return vldrbq_gather_offset_s16(tables, vaddq_u16(codes, by->table));
}

/* multipliers and shifts of four channels; see ep_requantize.h */
typedef struct {
    int32x4_t multiplier, left, right; /* right: not above 0 */
} ep_scales;

static inline ep_scales ep_scales_of(const int32_t *multiplier, const int8_t *shift, mve_pred16_t there)
{
    const int32x4_t shifts = vldrbq_z_s32(shift, there), none = vdupq_n_s32(0);
    const ep_scales made = {vldrwq_z_s32(multiplier, there), vmaxq_s32(shifts, none), vminq_s32(shifts, none)};
    return made;
}

/* by 2^-right, ties away from zero */
static inline int32x4_t ep_shift_right_four(int32x4_t x, int32x4_t right)
{
    const int32x4_t tie = vshrq_n_s32(vandq_s32(x, right), 31); /* -1 below zero */
    return vrshlq_s32(vqaddq_s32(x, tie), right);
}

/* ep_requantize of four sums, whatever they are. The sum of -2^31 stays it: it is a multiple of all powers it is divided by. */
static inline int32x4_t ep_requantize_four(ep_scales by, int32x4_t sums)
{
    return ep_shift_right_four(vqrdmulhq_s32(vshlq_s32(sums, by.left), by.multiplier), by.right);
}

/* four numbers as one vector */
static inline int32x4_t ep_four_of(int32_t a, int32_t b, int32_t c, int32_t d)
{
#if defined(__GNUC__)
    int32x4_t four;
    __asm__("vmov %e0, %1, %2\n"
            "vmov %f0, %3, %4"
            : "=&w"(four)
            : "r"(a), "r"(b), "r"(c), "r"(d));
    return four;
#else
    return vsetq_lane_s32(d, vsetq_lane_s32(c, vsetq_lane_s32(b, vdupq_n_s32(a), 1), 2), 3);
#endif
}

/* four int8, each in the low byte of its number */
static inline int32x4_t ep_saturate_four(int32x4_t x)
{
#if defined(__GNUC__)
    /* in place, what GCC makes copies for */
    __asm__("vqmovnb.s32 %q0, %q0\n"
            "vqmovnb.s16 %q0, %q0"
            : "+w"(x));
    return x;
#else
    const int16x8_t halves = vqmovnbq_s32(vreinterpretq_s16_s32(x), x);
    return vreinterpretq_s32_s8(vqmovnbq_s16(vreinterpretq_s8_s16(halves), halves));
#endif
}

/* count int8 within an activation's limits, as most are anyway */
static inline void ep_clamp_all(int8_t *values, int32_t count, int32_t least, int32_t most)
{
    const int8x16_t low = vdupq_n_s8((int8_t)least), high = vdupq_n_s8((int8_t)most);
    if (least == INT8_MIN && most == INT8_MAX)
        return;
    for (; count > 0; count -= 16, values += 16) {
        const mve_pred16_t there = vctp8q((uint32_t)count);
        vstrbq_p_s8(values, vminq_s8(vmaxq_s8(vldrbq_z_s8(values, there), low), high), there);
    }
}

#endif
#endif
