#include "ep_fully_connected.h"

#include <string.h>

#include "ep_decode.h"
#include "ep_requantize.h"
#include "ep_vector.h"

#if defined(EP_REFERENCE) || !defined(EP_MVE)

EP_APART static int8_t finish(const ep_dense *layer, int32_t sum, int32_t channel)
{
    const int32_t scaled = ep_requantize(sum, layer->multiplier[channel], layer->shift[channel]);
    return (int8_t)ep_clamp(scaled + layer->output_zero, layer->least, layer->most);
}

#endif

#ifdef EP_REFERENCE

/* the definition, weight by weight: the oracle of what follows */
void ep_fully_connected(const ep_dense *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const int32_t padded = (layer->inputs + 3) / 4 * 4;
    (void)scratch;
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += layer->inputs)
        for (int32_t c = 0; c < layer->outputs; ++c) {
            int32_t sum = layer->bias[c];
            for (int32_t k = 0; k < layer->inputs; ++k) {
                const int32_t four = layer->weights.bits < 8 ? k % 2 * 2 + k % 4 / 2 : k % 4, place = k / 4 * 8 + c % 2 * 4 + four;
                sum = ep_sum(sum, ep_weight_at(&layer->weights, c / 2 * padded * 2 + place, c) * input[k]);
            }
            *output++ = finish(layer, sum, c);
        }
}

#elif defined(EP_MVE)

/* Four outputs, or those that are left, from their sums. */
static inline void finish_four(const ep_dense *layer, int32_t channel, mve_pred16_t there, int32x4_t sums, int8_t *output)
{
    const ep_scales scales = ep_scales_of(layer->multiplier + channel, layer->shift + channel, there);
    const int32x4_t scaled = vaddq_n_s32(ep_requantize_four(scales, sums), layer->output_zero);
    vstrbq_p_s32(output + channel, ep_saturate_four(scaled), there);
}

/* inputs of 32 indices of 4 bits: of the high halves of 16 bytes, and of the low ones */
static inline int8x16x2_t load_halves(const int8_t *x)
{
    const uint16x8x2_t twos = vld2q_u16((const uint16_t *)(const void *)x);
    const int8x16x2_t halves = {{vreinterpretq_s8_u16(twos.val[0]), vreinterpretq_s8_u16(twos.val[1])}};
    return halves;
}

static inline int32_t add_products(uint8x16_t bytes, const int8_t *table, int8x16x2_t x, int32_t sum)
{
    sum = vmladavaq_s8(sum, vldrbq_gather_offset_s8(table, vshrq_n_u8(bytes, 4)), x.val[0]);
    return vmladavaq_s8(sum, vldrbq_gather_offset_s8(table, vandq_u8(bytes, vdupq_n_u8(15))), x.val[1]);
}

/* of four bytes of indices the first two are the one output's */
static inline uint8x16_t places_of_bytes(void)
{
    const uint8x16_t places = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29};
    return places;
}

/* 4-bit indices of two outputs, 32 of each at a time. stride: entries from the first output's table to the second's. x: int8,
   zeros to a multiple of 32. */
EP_APART static void dot_bytes(const uint8_t *data, const int8_t *tables, int32_t stride, const int8_t *x, int32_t groups,
                               int32_t sums[2])
{
    const uint8x16_t places = places_of_bytes();
    const int8_t *const second = tables + stride;
    int32_t s0 = sums[0], s1 = sums[1];
    for (uint32_t n = (uint32_t)groups / 8; n != 0; --n, data += 32, x += 32) {
        const int8x16x2_t values = load_halves(x);
        s0 = add_products(vldrbq_gather_offset_u8(data, places), tables, values, s0);
        s1 = add_products(vldrbq_gather_offset_u8(data + 2, places), second, values, s1);
    }
    if (groups % 8) {
        const mve_pred16_t there = vctp8q(2 * ((uint32_t)groups % 8));
        const int8x16x2_t values = load_halves(x);
        s0 = add_products(vldrbq_gather_offset_z_u8(data, places, there), tables, values, s0);
        s1 = add_products(vldrbq_gather_offset_z_u8(data + 2, places, there), second, values, s1);
    }
    sums[0] = s0, sums[1] = s1;
}

/* The same for outputs in fours of a shared table. Gives how many there were. */
EP_APART static int32_t multiply_fours(const ep_dense *layer, const int8_t *inputs, int32_t groups, int8_t *output)
{
    const uint8x16_t places = places_of_bytes();
    const int8_t *const table = layer->weights.tables;
    const int32_t fours = layer->outputs & -4;
    for (int32_t c = 0; c < fours; c += 4) {
        const int8_t *x = inputs;
        const uint8_t *data = layer->weights.data + c * 2 * groups, *next = data + 4 * groups;
        int32_t s0 = layer->bias[c], s1 = layer->bias[c + 1], s2 = layer->bias[c + 2], s3 = layer->bias[c + 3];
        for (uint32_t n = (uint32_t)groups / 8; n != 0; --n, data += 32, next += 32, x += 32) {
            const int8x16x2_t values = load_halves(x);
            s0 = add_products(vldrbq_gather_offset_u8(data, places), table, values, s0);
            s1 = add_products(vldrbq_gather_offset_u8(data + 2, places), table, values, s1);
            EP_IN_REGISTERS(s0, s1);
            s2 = add_products(vldrbq_gather_offset_u8(next, places), table, values, s2);
            s3 = add_products(vldrbq_gather_offset_u8(next + 2, places), table, values, s3);
            EP_IN_REGISTERS(data, next);
        }
        if (groups % 8) {
            const mve_pred16_t there = vctp8q(2 * ((uint32_t)groups % 8));
            const int8x16x2_t values = load_halves(x);
            s0 = add_products(vldrbq_gather_offset_z_u8(data, places, there), table, values, s0);
            s1 = add_products(vldrbq_gather_offset_z_u8(data + 2, places, there), table, values, s1);
            s2 = add_products(vldrbq_gather_offset_z_u8(next, places, there), table, values, s2);
            s3 = add_products(vldrbq_gather_offset_z_u8(next + 2, places, there), table, values, s3);
        }
        const int32x4_t sums = vsetq_lane_s32(s3, vsetq_lane_s32(s2, vsetq_lane_s32(s1, vdupq_n_s32(s0), 1), 2), 3);
        finish_four(layer, c, vctp32q(4), sums, output);
    }
    return fours;
}

/* 64 indices of 2 bits. x: inputs of every fourth number, from the first, second, third and fourth on. */
static inline int32_t add_quarters(uint8x16_t bytes, const int8_t *table, int8x16x4_t x, int32_t sum)
{
    const uint8x16_t mask = vdupq_n_u8(3);
    sum = vmladavaq_s8(sum, vldrbq_gather_offset_s8(table, vshrq_n_u8(bytes, 6)), x.val[0]);
    sum = vmladavaq_s8(sum, vldrbq_gather_offset_s8(table, vandq_u8(vshrq_n_u8(bytes, 4), mask)), x.val[2]);
    sum = vmladavaq_s8(sum, vldrbq_gather_offset_s8(table, vandq_u8(vshrq_n_u8(bytes, 2), mask)), x.val[1]);
    return vmladavaq_s8(sum, vldrbq_gather_offset_s8(table, vandq_u8(bytes, mask)), x.val[3]);
}

/* 2-bit indices of two outputs, as dot_bytes; x: zeros to a multiple of 64 */
EP_APART static void dot_quarters(const uint8_t *data, const int8_t *tables, int32_t stride, const int8_t *x, int32_t groups,
                                  int32_t sums[2])
{
    const uint8x16_t places = vidupq_n_u8(0, 2);
    int32_t s0 = sums[0], s1 = sums[1];
    for (; groups > 0; groups -= 16, data += 32, x += 64) {
        const mve_pred16_t there = vctp8q((uint32_t)groups);
        const int8x16x4_t values = vld4q_s8(x);
        s0 = add_quarters(vldrbq_gather_offset_z_u8(data, places, there), tables, values, s0);
        s1 = add_quarters(vldrbq_gather_offset_z_u8(data + 1, places, there), tables + stride, values, s1);
    }
    sums[0] = s0, sums[1] = s1;
}

/* of eight bytes of int8 weights the first four are the one output's */
static inline uint8x16_t places_of_fours(void)
{
    const uint8x16_t places = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    return places;
}

/* int8 weights of two outputs, 16 of each at a time */
EP_APART static void dot_dense(const uint8_t *data, const int8_t *x, int32_t inputs, int32_t sums[2])
{
    const uint8x16_t even = places_of_fours(), odd = vaddq_n_u8(even, 4);
    const int8_t *w = (const int8_t *)data;
    int32_t s0 = sums[0], s1 = sums[1];
    for (uint32_t n = (uint32_t)inputs / 16; n != 0; --n, w += 32, x += 16) {
        const int8x16_t values = vldrbq_s8(x);
        s0 = vmladavaq_s8(s0, vldrbq_gather_offset_s8(w, even), values);
        s1 = vmladavaq_s8(s1, vldrbq_gather_offset_s8(w, odd), values);
    }
    if (inputs % 16) {
        const mve_pred16_t there = vctp8q((uint32_t)inputs % 16);
        const int8x16_t values = vldrbq_s8(x);
        s0 = vmladavaq_s8(s0, vldrbq_gather_offset_z_s8(w, even, there), values);
        s1 = vmladavaq_s8(s1, vldrbq_gather_offset_z_s8(w, odd, there), values);
    }
    sums[0] = s0, sums[1] = s1;
}

/* The same for outputs in fours. Gives how many there were. */
EP_APART static int32_t multiply_dense_fours(const ep_dense *layer, const int8_t *inputs, int32_t groups, int8_t *output)
{
    const uint8x16_t even = places_of_fours(), odd = vaddq_n_u8(even, 4);
    const int32_t fours = layer->outputs & -4;
    const int8_t *data = (const int8_t *)layer->weights.data;
    for (int32_t c = 0; c < fours; c += 4, data += 16 * groups) {
        const int8_t *x = inputs, *w = data, *next = data + 8 * groups;
        int32_t s0 = layer->bias[c], s1 = layer->bias[c + 1], s2 = layer->bias[c + 2], s3 = layer->bias[c + 3];
        for (uint32_t n = (uint32_t)layer->inputs / 16; n != 0; --n, w += 32, next += 32, x += 16) {
            const int8x16_t values = vldrbq_s8(x);
            s0 = vmladavaq_s8(s0, vldrbq_gather_offset_s8(w, even), values);
            s1 = vmladavaq_s8(s1, vldrbq_gather_offset_s8(w, odd), values);
            s2 = vmladavaq_s8(s2, vldrbq_gather_offset_s8(next, even), values);
            s3 = vmladavaq_s8(s3, vldrbq_gather_offset_s8(next, odd), values);
        }
        if (layer->inputs % 16) {
            const mve_pred16_t there = vctp8q((uint32_t)layer->inputs % 16);
            const int8x16_t values = vldrbq_s8(x);
            s0 = vmladavaq_s8(s0, vldrbq_gather_offset_z_s8(w, even, there), values);
            s1 = vmladavaq_s8(s1, vldrbq_gather_offset_z_s8(w, odd, there), values);
            s2 = vmladavaq_s8(s2, vldrbq_gather_offset_z_s8(next, even, there), values);
            s3 = vmladavaq_s8(s3, vldrbq_gather_offset_z_s8(next, odd, there), values);
        }
        const int32x4_t sums = vsetq_lane_s32(s3, vsetq_lane_s32(s2, vsetq_lane_s32(s1, vdupq_n_s32(s0), 1), 2), 3);
        finish_four(layer, c, vctp32q(4), sums, output);
    }
    return fours;
}

/* indices of any width of two outputs, four of each at a time */
EP_APART static void dot_any(const uint8_t *data, int32_t bits, const int8_t *tables, int32_t stride, const int8_t *x,
                             int32_t groups, int32_t sums[2])
{
    const uint16x8_t places = {0, 2, 1, 3, 0, 2, 1, 3}, other = {0, 0, 0, 0, 1, 1, 1, 1};
    const ep_decoder by = ep_decoder_of(bits, vmulq_n_u16(other, (uint16_t)stride));
    const int16x8_t of_second = vnegq_s16(vreinterpretq_s16_u16(other));
    int32_t both = 0, s1 = 0;
    for (; groups > 0; --groups, data += bits, x += 4) {
        const int16x8_t w = ep_decode_eight(&by, bits, data, tables), values = vldrbq_gather_offset_s16(x, places);
        both = vmladavaq_s16(both, w, values);
        s1 = vmladavaq_s16(s1, vandq_s16(w, of_second), values);
    }
    sums[0] = ep_sum(sums[0], both - s1), sums[1] = ep_sum(sums[1], s1);
}

void ep_fully_connected(const ep_dense *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const ep_weights *weights = &layer->weights;
    const int32_t inputs = layer->inputs, outputs = layer->outputs, groups = (inputs + 3) / 4, bits = weights->bits;
    int8_t *x = scratch; /* (inputs), zeros to a multiple of 64 */
    memset(x + inputs, 0, (size_t)(-inputs & 63));
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += inputs, output += outputs) {
        const uint8_t *data = weights->data;
        const int8_t *tables = weights->tables;
        memcpy(x, input, (size_t)inputs);
        int32_t c = 0;
        if (bits == 4 && !weights->stride)
            c = multiply_fours(layer, x, groups, output);
        else if (bits == 8)
            c = multiply_dense_fours(layer, x, groups, output);
        data += c / 2 * groups * bits;
        for (; c < outputs; c += 4) {
            const mve_pred16_t there = vctp32q((uint32_t)(outputs - c));
            int32_t sums[4];
            vstrwq_s32(sums, vldrwq_z_s32(layer->bias + c, there));
            for (int32_t n = 0; n < 4 && c + n < outputs; n += 2, data += groups * bits, tables += 2 * weights->stride) {
                /* an odd last output is paired with itself */
                const int32_t stride = c + n + 1 < outputs ? weights->stride : 0;
                if (bits == 8)
                    dot_dense(data, x, inputs, sums + n);
                else if (bits == 4)
                    dot_bytes(data, tables, stride, x, groups, sums + n);
                else if (bits == 2)
                    dot_quarters(data, tables, stride, x, groups, sums + n);
                else
                    dot_any(data, bits, tables, stride, x, groups, sums + n);
            }
            finish_four(layer, c, there, vldrwq_s32(sums), output);
        }
        ep_clamp_all(output, outputs, layer->least, layer->most);
    }
}

#else

#ifdef EP_DSP

/* bytes 0 and 2 of a word as int16, and bytes 1 and 3 */
static inline uint32_t even_bytes(uint32_t word)
{
    return (uint32_t)__sxtb16((int8x4_t)word);
}

static inline uint32_t odd_bytes(uint32_t word)
{
    uint32_t pair;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}

#if defined(__OPTIMIZE__) && defined(__ARM_FEATURE_UNALIGNED) && !defined(EP_NO_ASM)

#define EP_INPUTS "ldr %[a], [%[x]], #4\nsxtb16 %[b], %[a], ror #8\nsxtb16 %[a], %[a]\n"
#define EP_WEIGHTS(w, sum)                        \
    "sxtb16 %[t], %[" w "]\n"                     \
    "sxtb16 %[" w "], %[" w "], ror #8\n"         \
    "smlad %[" sum "], %[t], %[a], %[" sum "]\n"  \
    "smlad %[" sum "], %[" w "], %[b], %[" sum "]\n"
#define EP_OUTPUTS(data, s0, s1) "ldrd %[v], %[w], [%[" data "]], #8\n" EP_WEIGHTS("v", s0) EP_WEIGHTS("w", s1)
/* two groups a turn; an odd number of them begins with the second */
#define EP_TURNS(group) "cmp %[t], #0\nbne 2f\n1:\n" group "2:\n" group "cmp %[x], %[end]\nbne 1b\n"

/* groups: of four inputs on any border, at least one. outputs: 2, whose weights lie at data, or 4, two of whose lie at next. */
EP_INLINE void dot_groups(const uint8_t **data, const uint8_t **next, int outputs, const int8_t *x, int32_t groups,
                          int32_t sums[4])
{
    const int8_t *const end = x + 4 * groups;
    const uint8_t *d = *data, *e = *next;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    uint32_t a, b, v, w, t = (uint32_t)groups & 1;
    if (outputs == 2)
        __asm__ volatile(EP_TURNS(EP_INPUTS EP_OUTPUTS("d", "s0", "s1"))
                         : [d] "+r"(d), [x] "+r"(x), [s0] "+r"(s0), [s1] "+r"(s1), [a] "=&r"(a), [b] "=&r"(b), [v] "=&r"(v),
                           [w] "=&r"(w), [t] "+&r"(t)
                         : [end] "r"(end)
                         : "cc", "memory");
    else
        __asm__ volatile(EP_TURNS(EP_INPUTS EP_OUTPUTS("d", "s0", "s1") EP_OUTPUTS("e", "s2", "s3"))
                         : [d] "+r"(d), [e] "+r"(e), [x] "+r"(x), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2), [s3] "+r"(s3),
                           [a] "=&r"(a), [b] "=&r"(b), [v] "=&r"(v), [w] "=&r"(w), [t] "+&r"(t)
                         : [end] "r"(end)
                         : "cc", "memory");
    *data = d, *next = e;
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

#else

static inline int32_t dot_word(const uint8_t *weights, const int8_t *x, int32_t sum)
{
    uint32_t w, inputs;
    memcpy(&w, weights, sizeof w);
    memcpy(&inputs, x, sizeof inputs);
    return ep_dot_pair(odd_bytes(w), odd_bytes(inputs), ep_dot_pair(even_bytes(w), even_bytes(inputs), sum));
}

static inline void dot_groups(const uint8_t **data, const uint8_t **next, int outputs, const int8_t *x, int32_t groups,
                              int32_t sums[4])
{
    for (; groups > 0; --groups, *data += 8, x += 4) {
        sums[0] = dot_word(*data, x, sums[0]);
        sums[1] = dot_word(*data + 4, x, sums[1]);
        if (outputs == 2)
            continue;
        sums[2] = dot_word(*next, x, sums[2]);
        sums[3] = dot_word(*next + 4, x, sums[3]);
        *next += 8;
    }
}

#endif

/* Dense weights, on a border of 4 bytes. sums: biases of 2 or 4 outputs, to which products are added. Inputs are widened each
   time: most layers whose weights stay int8 have few outputs. */
EP_INLINE void dot_dense(const uint8_t *data, int outputs, const int8_t *input, int32_t inputs, int32_t sums[4])
{
    const uint8_t *next = data + (inputs + 3) / 4 * 8;
    const int8_t *x = input;
    int8_t last[4] = {0, 0, 0, 0};
    for (int32_t groups = inputs / 4, left = inputs & 3;; groups = 1, left = 0) {
        if (groups)
            dot_groups(&data, &next, outputs, x, groups, sums);
        if (!left)
            return;
        memcpy(last, input + (inputs & -4), (size_t)left);
        x = last;
    }
}

/* what ep_apply does not take, by twos */
EP_APART static void dense_slowly(const ep_dense *layer, const int8_t *input, int8_t *output)
{
    const int32_t step = (layer->inputs + 3) / 4 * 8;
    const uint8_t *data = layer->weights.data;
    for (int32_t c = 0; c < layer->outputs; c += 2, data += step) {
        const int32_t other = c + 1 < layer->outputs ? c + 1 : c;
        int32_t sums[4] = {layer->bias[c], layer->bias[other], 0, 0};
        dot_dense(data, 2, input, layer->inputs, sums);
        output[other] = finish(layer, sums[1], other);
        output[c] = finish(layer, sums[0], c);
    }
}

/* outputs in fours, then in twos */
static void dense_fast(const ep_dense *layer, const int8_t *input, int8_t *output)
{
    const int32_t inputs = layer->inputs, outputs = layer->outputs, step = (inputs + 3) / 4 * 8, zero = layer->output_zero;
    const int32_t *bias = layer->bias, *multiplier = layer->multiplier;
    const int8_t *shift = layer->shift, *const end = shift + outputs;
    const uint8_t *data = layer->weights.data;
    for (; end - shift >= 4; data += 2 * step, bias += 4, multiplier += 4, shift += 4, output += 4) {
        int32_t sums[4] = {bias[0], bias[1], bias[2], bias[3]};
        dot_dense(data, 4, input, inputs, sums);
        output[0] = ep_apply_once(multiplier[0], shift[0], zero, sums[0]);
        output[1] = ep_apply_once(multiplier[1], shift[1], zero, sums[1]);
        output[2] = ep_apply_once(multiplier[2], shift[2], zero, sums[2]);
        output[3] = ep_apply_once(multiplier[3], shift[3], zero, sums[3]);
    }
    while (end > shift) {
        const int32_t other = end - shift > 1;
        int32_t sums[4] = {bias[0], bias[other], 0, 0};
        dot_dense(data, 2, input, inputs, sums);
        output[other] = ep_apply_once(multiplier[other], shift[other], zero, sums[1]);
        output[0] = ep_apply_once(multiplier[0], shift[0], zero, sums[0]);
        if (end - shift <= 2)
            return;
        data += step, bias += 2, multiplier += 2, shift += 2, output += 2;
    }
}

#endif

/* four inputs as int16 in the order of their weights. to: on a border of 4 bytes. */
static inline void load_four(const int8_t *from, int16_t *to)
{
#ifdef EP_DSP
    uint32_t word, *const pairs = (uint32_t *)(void *)to;
    memcpy(&word, from, sizeof word);
    pairs[0] = even_bytes(word), pairs[1] = odd_bytes(word);
#else
    to[0] = from[0], to[1] = from[2], to[2] = from[1], to[3] = from[3];
#endif
}

/* inputs, and zeros to a multiple of 4 */
static void load_inputs(const int8_t *from, int32_t count, int16_t *to)
{
    int8_t last[4] = {0, 0, 0, 0};
    for (; count >= 8; count -= 8, from += 8, to += 8) {
        load_four(from, to);
        load_four(from + 4, to + 4);
    }
    if (count >= 4) {
        load_four(from, to);
        count -= 4, from += 4, to += 4;
    }
    if (count == 0)
        return;
    for (int32_t n = 0; n < count; ++n)
        last[n] = from[n];
    load_four(last, to);
}

/* sums: of two outputs. x: pairs of inputs, on a border of 4 bytes. */
EP_INLINE void dot_group(const uint8_t *data, int bits, const ep_tables *tables, const int16_t *x, int32_t sums[2])
{
    const uint32_t a = ep_load_pair(x), b = ep_load_pair(x + 2);
    uint32_t w[4];
    ep_decode_group(data, bits, tables, w);
    sums[0] = ep_dot_pair(w[1], b, ep_dot_pair(w[0], a, sums[0]));
    sums[1] = ep_dot_pair(w[3], b, ep_dot_pair(w[2], a, sums[1]));
}

/* weights used as they are decoded */
EP_INLINE void dot(const uint8_t *data, int bits, const ep_tables *tables, const int16_t *x, int32_t groups, int32_t sums[2])
{
    int32_t both[2] = {sums[0], sums[1]};
    for (; groups > 0; --groups, data += bits, x += 4)
        dot_group(data, bits, tables, x, both);
    sums[0] = both[0], sums[1] = both[1];
}

/* what all outputs have in common */
typedef struct {
    const int16_t *x; /* in the order of their weights, as pairs unless those are int8; zeros to a multiple of 4 */
    int32_t groups, bits;
    int32_t by_bytes; /* whether dot_bytes will do */
    ep_tables tables;
} inputs_row;

#ifndef EP_DSP

/* int8 weights */
EP_APART static void dot_dense(const inputs_row *row, const uint8_t *data, int32_t sums[2])
{
    const int16_t *x = row->x;
    int32_t s0 = sums[0], s1 = sums[1];
    for (int32_t n = row->groups; n > 0; --n, data += 8, x += 4) {
        const int8_t *w = (const int8_t *)data;
        s0 = ep_sum(s0, w[0] * x[0] + w[1] * x[2] + w[2] * x[1] + w[3] * x[3]);
        s1 = ep_sum(s1, w[4] * x[0] + w[5] * x[2] + w[6] * x[1] + w[7] * x[3]);
    }
    sums[0] = s0, sums[1] = s1;
}

#endif

#if defined(EP_DSP) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)

/* a byte's pair of weights into a sum, with the pair of inputs in a register */
#define EP_BYTE(from, x, sum)              \
    "ldrb %[t], " from "\n"                \
    "ldr %[t], [%[pairs], %[t], lsl #2]\n" \
    "smlad %[" sum "], %[t], " x ", %[" sum "]\n"
/* two outputs of two groups; the first byte is the last that is read, so that reading it steps on */
#define EP_TWO_GROUPS(data, s0, s1)                                                                      \
    EP_BYTE("[%[" data "], #1]", "r5", s0) EP_BYTE("[%[" data "], #2]", "r4", s1)                        \
    EP_BYTE("[%[" data "], #3]", "r5", s1) EP_BYTE("[%[" data "], #4]", "r6", s0)                        \
    EP_BYTE("[%[" data "], #5]", "r8", s0) EP_BYTE("[%[" data "], #6]", "r6", s1)                        \
    EP_BYTE("[%[" data "], #7]", "r8", s1) EP_BYTE("[%[" data "]], #8", "r4", s0)

#define EP_TURN 2
#define EP_FOURS 1

/* 4-bit indices of a shared table, a byte a pair: `dot` of a multiple of EP_TURN groups */
EP_APART static void dot_bytes(const inputs_row *row, const uint8_t *data, int32_t sums[2])
{
    const int16_t *x = row->x, *const end = x + 4 * row->groups;
    int32_t s0 = sums[0], s1 = sums[1];
    uint32_t t;
    __asm__ volatile("1:\n"
                     "ldmia %[x]!, {r4, r5, r6, r8}\n" EP_TWO_GROUPS("data", "s0", "s1") "cmp %[x], %[end]\n"
                     "bne 1b\n"
                     : [data] "+r"(data), [x] "+r"(x), [s0] "+r"(s0), [s1] "+r"(s1), [t] "=&r"(t)
                     : [pairs] "r"(row->tables.pairs), [end] "r"(end)
                     : "r4", "r5", "r6", "r8", "cc", "memory");
    sums[0] = s0, sums[1] = s1;
}

/* The same for outputs in fours, which share the inputs' loads, of a fast layer. Gives how many there were. */
EP_APART static int32_t multiply_fours(const ep_dense *layer, const inputs_row *row, int8_t *output)
{
    const int32_t fours = layer->outputs / 4, zero = layer->output_zero;
    const int32_t *bias = layer->bias, *multiplier = layer->multiplier;
    const int8_t *shift = layer->shift;
    const uint8_t *data = layer->weights.data;
    for (int32_t n = fours; n > 0; --n, bias += 4, multiplier += 4, shift += 4, output += 4) {
        const int16_t *x = row->x, *const end = x + 4 * row->groups;
        const uint8_t *next = data + 4 * row->groups;
        int32_t s0 = bias[0], s1 = bias[1], s2 = bias[2], s3 = bias[3];
        uint32_t t;
        __asm__ volatile("1:\n"
                         "ldmia %[x]!, {r4, r5, r6, r8}\n" EP_TWO_GROUPS("data", "s0", "s1") EP_TWO_GROUPS("next", "s2", "s3")
                         "cmp %[x], %[end]\n"
                         "bne 1b\n"
                         : [data] "+r"(data), [next] "+r"(next), [x] "+r"(x), [s0] "+r"(s0), [s1] "+r"(s1), [s2] "+r"(s2),
                           [s3] "+r"(s3), [t] "=&r"(t)
                         : [pairs] "r"(row->tables.pairs), [end] "r"(end)
                         : "r4", "r5", "r6", "r8", "cc", "memory");
        data = next;
        output[0] = ep_apply_once(multiplier[0], shift[0], zero, s0);
        output[1] = ep_apply_once(multiplier[1], shift[1], zero, s1);
        output[2] = ep_apply_once(multiplier[2], shift[2], zero, s2);
        output[3] = ep_apply_once(multiplier[3], shift[3], zero, s3);
    }
    return 4 * fours;
}

#elif defined(__ARM_ARCH_6M__) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)

/* a byte's pair of weights into a sum, with the pair of inputs in a register: see ep_dot_pair */
#define EP_BYTE(at, x, sum)             \
    "ldrb %[t], [%[data], #" at "]\n"   \
    "lsls %[t], %[t], #2\n"             \
    "ldr %[t], [%[pairs], %[t]]\n"      \
    "muls %[t], " x "\n"                \
    "add %[t], %[round]\n"              \
    "asrs %[t], %[t], #16\n"            \
    "subs %[" sum "], %[" sum "], %[t]\n"
#define EP_FOUR_BYTES(a, b, c, d) \
    "ldmia %[x]!, {r4, r5}\n" EP_BYTE(a, "r4", "s0") EP_BYTE(b, "r5", "s0") EP_BYTE(c, "r4", "s1") EP_BYTE(d, "r5", "s1")

#define EP_TURN 4

/* 4-bit indices of a shared table, a byte a pair: `dot` of a multiple of EP_TURN groups */
EP_APART static void dot_bytes(const inputs_row *row, const uint8_t *data, int32_t sums[2])
{
    const uint8_t *const end = data + 4 * row->groups;
    const int16_t *x = row->x;
    const uint32_t round = EP_ROUND;
    int32_t s0 = sums[0], s1 = sums[1];
    uint32_t t;
    __asm__ volatile(".syntax unified\n"
                     "1:\n" EP_FOUR_BYTES("0", "1", "2", "3") EP_FOUR_BYTES("4", "5", "6", "7")
                     EP_FOUR_BYTES("8", "9", "10", "11") EP_FOUR_BYTES("12", "13", "14", "15") "adds %[data], #16\n"
                     "cmp %[data], %[end]\n"
                     "bne 1b\n"
                     : [data] "+l"(data), [x] "+l"(x), [s0] "+l"(s0), [s1] "+l"(s1), [t] "=&l"(t)
                     : [pairs] "l"(row->tables.pairs), [end] "h"(end), [round] "h"(round)
                     : "r4", "r5", "cc", "memory");
    sums[0] = s0, sums[1] = s1;
}

#else
#define EP_TURN 0
#endif

EP_APART static void dot_row(const inputs_row *row, const uint8_t *data, int32_t sums[2])
{
    const ep_tables *tables = &row->tables;
    const int16_t *x = row->x;
    const int32_t groups = row->groups;
#if EP_TURN
    if (row->by_bytes) {
        dot_bytes(row, data, sums);
        return;
    }
#endif
    if (row->bits < 4) {
        if (row->bits == 1)
            dot(data, 1, tables, x, groups, sums);
        else if (row->bits == 2)
            dot(data, 2, tables, x, groups, sums);
        else
            dot(data, 3, tables, x, groups, sums);
    } else if (row->bits < 6) {
        if (row->bits == 4)
            dot(data, 4, tables, x, groups, sums);
        else
            dot(data, 5, tables, x, groups, sums);
    } else {
        if (row->bits == 6)
            dot(data, 6, tables, x, groups, sums);
        else if (row->bits == 7)
            dot(data, 7, tables, x, groups, sums);
#ifndef EP_DSP
        else
            dot_dense(row, data, sums);
#endif
    }
}

/* outputs of one row of inputs, two at a time. others: room for a second table. */
static void multiply(const ep_dense *layer, inputs_row *row, uint32_t *pairs, uint32_t *others, int8_t *output)
{
    const ep_weights *weights = &layer->weights;
    const uint8_t *data = weights->data;
    const int32_t outputs = layer->outputs, step = row->groups * weights->bits;
    int32_t c = 0;
#ifdef EP_FOURS
    if (row->by_bytes && layer->fast && outputs >= 4)
        c = multiply_fours(layer, row, output), data += c / 2 * step;
#endif
    for (; c < outputs; c += 2, data += step) {
        const int32_t other = c + 1 < outputs ? c + 1 : c;
        int32_t sums[2] = {layer->bias[c], layer->bias[other]};
        if (weights->stride) {
            row->tables.first = weights->tables + c * weights->stride;
            row->tables.second = weights->tables + other * weights->stride;
            ep_prepare_table(row->tables.first, weights->bits, pairs);
            ep_prepare_table(row->tables.second, weights->bits, others);
        }
        dot_row(row, data, sums);
        if (layer->fast) {
            const int32_t zero = layer->output_zero;
            output[other] = ep_apply_once(layer->multiplier[other], layer->shift[other], zero, sums[1]);
            output[c] = ep_apply_once(layer->multiplier[c], layer->shift[c], zero, sums[0]);
        } else {
            output[other] = finish(layer, sums[1], other);
            output[c] = finish(layer, sums[0], c);
        }
    }
}

void ep_fully_connected(const ep_dense *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const ep_weights *weights = &layer->weights;
#ifdef EP_DSP
    if (weights->bits == 8) {
        for (int32_t batch = layer->batches; batch > 0; --batch, input += layer->inputs, output += layer->outputs)
            (layer->fast ? dense_fast : dense_slowly)(layer, input, output);
        return;
    }
#endif
    const int32_t groups = (layer->inputs + 3) / 4, room = EP_TABLE_WORDS(weights->bits);
    uint32_t *pairs = scratch, *others = weights->stride ? pairs + room : pairs;
    int16_t *x = (int16_t *)(void *)(others + room);
    const int32_t by_bytes = weights->bits == 4 && !weights->stride && EP_TURN && groups % (EP_TURN + !EP_TURN) == 0;
    inputs_row row = {x, groups, weights->bits, by_bytes, {weights->tables, weights->tables, pairs, others}};
    if (!weights->stride && weights->bits < 8)
        ep_prepare_table(weights->tables, weights->bits, pairs);
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += layer->inputs, output += layer->outputs) {
        load_inputs(input, layer->inputs, x);
        if (weights->bits < 8)
            ep_pair_inputs(x, 4 * groups);
        multiply(layer, &row, pairs, others, output);
    }
}

#endif
