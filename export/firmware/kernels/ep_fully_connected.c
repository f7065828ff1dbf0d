#include "ep_fully_connected.h"

#include <string.h>

#include "ep_decode.h"
#include "ep_requantize.h"
#include "ep_vector.h"

EP_APART static int8_t finish_any(const ep_dense *layer, int32_t sum, int32_t channel)
{
    const int32_t scaled = ep_requantize(sum, layer->multiplier[channel], layer->shift[channel]);
    return (int8_t)ep_clamp(scaled + layer->output_zero, layer->least, layer->most);
}

static inline int8_t finish(const ep_dense *layer, int32_t sum, int32_t channel)
{
    if (layer->fast)
        return ep_saturate(ep_apply(ep_scale_of(layer->multiplier[channel], layer->shift[channel], layer->output_zero), sum));
    return finish_any(layer, sum, channel);
}

#ifdef EP_REFERENCE

/* the definition, weight by weight: the oracle of what follows */
void ep_fully_connected(const ep_dense *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const int32_t padded = (layer->inputs + 3) / 4 * 4;
    (void)scratch;
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += layer->inputs)
        for (int32_t c = 0; c < layer->outputs; ++c) {
            int32_t sum = layer->bias[c];
            for (int32_t k = 0; k < layer->inputs; ++k)
                sum = ep_sum(sum, ep_weight_at(&layer->weights, (c / 2 * padded + k / 4 * 4) * 2 + c % 2 * 4 + k % 4, c) *
                                      input[k]);
            *output++ = finish(layer, sum, c);
        }
}

#elif defined(EP_MVE)

/* 32 indices of 4 bits, the half of a byte that comes first being the high one. values: inputs of even and of odd number. */
static inline int32_t add_products(uint8x16_t bytes, const int8_t *table, int8x16x2_t values, int32_t sum)
{
    sum = vmladavaq_s8(sum, vldrbq_gather_offset_s8(table, vshrq_n_u8(bytes, 4)), values.val[0]);
    return vmladavaq_s8(sum, vldrbq_gather_offset_s8(table, vandq_u8(bytes, vdupq_n_u8(15))), values.val[1]);
}

/* 4-bit indices of two outputs, 32 of each at a time. x: int8, zeros to a multiple of 32. */
EP_APART static void dot_bytes(const uint8_t *data, const int8_t *first, const int8_t *second, const int8_t *x, int32_t groups,
                               int32_t sums[2])
{
    /* of four bytes the first two are the one output's */
    const uint8x16_t places = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29};
    int32_t s0 = sums[0], s1 = sums[1];
    for (uint32_t n = (uint32_t)groups / 8; n != 0; --n, data += 32, x += 32) {
        const int8x16x2_t values = vld2q_s8(x);
        s0 = add_products(vldrbq_gather_offset_u8(data, places), first, values, s0);
        s1 = add_products(vldrbq_gather_offset_u8(data + 2, places), second, values, s1);
    }
    if (groups % 8) {
        const mve_pred16_t there = vctp8q(2 * ((uint32_t)groups % 8));
        const int8x16x2_t values = vld2q_s8(x);
        s0 = add_products(vldrbq_gather_offset_z_u8(data, places, there), first, values, s0);
        s1 = add_products(vldrbq_gather_offset_z_u8(data + 2, places, there), second, values, s1);
    }
    sums[0] = s0, sums[1] = s1;
}

/* the same for indices of any width, four of each at a time. stride: entries from the first output's table to the second's. */
EP_APART static void dot_any(const uint8_t *data, int32_t bits, const int8_t *tables, int32_t stride, const int8_t *x,
                             int32_t groups, int32_t sums[2])
{
    const uint16x8_t places = {0, 1, 2, 3, 0, 1, 2, 3}, other = {0, 0, 0, 0, 1, 1, 1, 1};
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
    int8_t *x = scratch; /* (inputs), zeros to a multiple of 32 */
    memset(x + inputs, 0, (size_t)(-inputs & 31));
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += inputs, output += outputs) {
        const uint8_t *data = weights->data;
        const int8_t *tables = weights->tables;
        memcpy(x, input, (size_t)inputs);
        for (int32_t c = 0; c < outputs; c += 4) {
            const mve_pred16_t there = vctp32q((uint32_t)(outputs - c));
            int32_t sums[4];
            vstrwq_s32(sums, vldrwq_z_s32(layer->bias + c, there));
            for (int32_t n = 0; n < 4 && c + n < outputs; n += 2, data += groups * bits, tables += 2 * weights->stride) {
                /* an odd last output is paired with itself */
                const int32_t stride = c + n + 1 < outputs ? weights->stride : 0;
                if (bits == 4)
                    dot_bytes(data, tables, tables + stride, x, groups, sums + n);
                else
                    dot_any(data, bits, tables, stride, x, groups, sums + n);
            }
            const ep_scales scales = ep_scales_of(layer->multiplier + c, layer->shift + c, there);
            const int32x4_t scaled = vaddq_n_s32(ep_requantize_four(scales, vldrwq_s32(sums)), layer->output_zero);
            vstrbq_p_s32(output + c, ep_saturate_four(scaled), there);
        }
        ep_clamp_all(output, outputs, layer->least, layer->most);
    }
}

#else

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

#if defined(EP_DSP) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)

/* a byte's pair of weights into a sum, with the pair of inputs in a register */
#define EP_BYTE(at, x, sum)                \
    "ldrb %[t], [%[data], #" at "]\n"      \
    "ldr %[t], [%[pairs], %[t], lsl #2]\n" \
    "smlad %[" sum "], %[t], " x ", %[" sum "]\n"
#define EP_FOUR_BYTES(a, b, c, d, x, y) EP_BYTE(a, x, "s0") EP_BYTE(b, y, "s0") EP_BYTE(c, x, "s1") EP_BYTE(d, y, "s1")

/* 4-bit indices of a shared table, a byte a pair: `dot` of `fours` × 4 groups, with loads of several words */
EP_APART static void dot_bytes(const uint8_t *data, const uint32_t *pairs, const int16_t *x, int32_t fours, int32_t sums[2])
{
    const uint8_t *const end = data + 16 * fours;
    int32_t s0 = sums[0], s1 = sums[1];
    uint32_t t;
    __asm__ volatile("1:\n"
                     "ldmia %[x]!, {r4, r5, r6, r8}\n" EP_FOUR_BYTES("0", "1", "2", "3", "r4", "r5")
                     EP_FOUR_BYTES("4", "5", "6", "7", "r6", "r8")
                     "ldmia %[x]!, {r4, r5, r6, r8}\n" EP_FOUR_BYTES("8", "9", "10", "11", "r4", "r5")
                     EP_FOUR_BYTES("12", "13", "14", "15", "r6", "r8") "adds %[data], #16\n"
                     "cmp %[data], %[end]\n"
                     "bne 1b\n"
                     : [data] "+l"(data), [x] "+r"(x), [s0] "+r"(s0), [s1] "+r"(s1), [t] "=&r"(t)
                     : [pairs] "r"(pairs), [end] "r"(end)
                     : "r4", "r5", "r6", "r8", "cc", "memory");
    sums[0] = s0, sums[1] = s1;
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

/* 4-bit indices of a shared table, a byte a pair: `dot` of `fours` × 4 groups */
EP_APART static void dot_bytes(const uint8_t *data, const uint32_t *pairs, const int16_t *x, int32_t fours, int32_t sums[2])
{
    const uint8_t *const end = data + 16 * fours;
    const uint32_t round = EP_ROUND;
    int32_t s0 = sums[0], s1 = sums[1];
    uint32_t t;
    __asm__ volatile(".syntax unified\n"
                     "1:\n" EP_FOUR_BYTES("0", "1", "2", "3") EP_FOUR_BYTES("4", "5", "6", "7")
                     EP_FOUR_BYTES("8", "9", "10", "11") EP_FOUR_BYTES("12", "13", "14", "15") "adds %[data], #16\n"
                     "cmp %[data], %[end]\n"
                     "bne 1b\n"
                     : [data] "+l"(data), [x] "+l"(x), [s0] "+l"(s0), [s1] "+l"(s1), [t] "=&l"(t)
                     : [pairs] "l"(pairs), [end] "h"(end), [round] "h"(round)
                     : "r4", "r5", "cc", "memory");
    sums[0] = s0, sums[1] = s1;
}

#else

/* 4-bit indices of a shared table: `dot` of `fours` × 4 groups */
EP_APART static void dot_bytes(const uint8_t *data, const uint32_t *pairs, const int16_t *x, int32_t fours, int32_t sums[2])
{
    const ep_tables tables = {0, 0, pairs, pairs};
    dot(data, 4, &tables, x, 4 * fours, sums);
}

#endif

/* what all outputs have in common */
typedef struct {
    const int16_t *x; /* pairs of inputs, zeros to a multiple of 4 */
    int32_t groups, bits;
    ep_tables tables;
} inputs_row;

EP_APART static void dot_row(const inputs_row *row, const uint8_t *data, int32_t sums[2])
{
    const ep_tables *tables = &row->tables;
    const int16_t *x = row->x;
    const int32_t groups = row->groups;
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
        else
            dot(data, 8, tables, x, groups, sums);
    }
}

/* outputs of one row of inputs, two at a time. others: room for a second table. */
static void multiply(const ep_dense *layer, inputs_row *row, uint32_t *pairs, uint32_t *others, int8_t *output)
{
    const ep_weights *weights = &layer->weights;
    const uint8_t *data = weights->data;
    const int32_t outputs = layer->outputs, step = row->groups * weights->bits;
    const int32_t bytes = weights->bits == 4 && !weights->stride && row->groups % 4 == 0;
    for (int32_t c = 0; c < outputs; c += 2, data += step) {
        const int32_t other = c + 1 < outputs ? c + 1 : c;
        int32_t sums[2] = {layer->bias[c], layer->bias[other]};
        if (weights->stride) {
            row->tables.first = weights->tables + c * weights->stride;
            row->tables.second = weights->tables + other * weights->stride;
            ep_prepare_table(row->tables.first, weights->bits, pairs);
            ep_prepare_table(row->tables.second, weights->bits, others);
        }
        if (bytes)
            dot_bytes(data, pairs, row->x, row->groups / 4, sums);
        else
            dot_row(row, data, sums);
        output[other] = finish(layer, sums[1], other);
        output[c] = finish(layer, sums[0], c);
    }
}

void ep_fully_connected(const ep_dense *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const ep_weights *weights = &layer->weights;
    const int32_t groups = (layer->inputs + 3) / 4, room = EP_TABLE_WORDS(weights->bits);
    uint32_t *pairs = scratch, *others = weights->stride ? pairs + room : pairs;
    int16_t *x = (int16_t *)(void *)(others + room);
    inputs_row row = {x, groups, weights->bits, {weights->tables, weights->tables, pairs, others}};
    if (!weights->stride && weights->bits < 8)
        ep_prepare_table(weights->tables, weights->bits, pairs);
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += layer->inputs, output += layer->outputs) {
        ep_widen(input, layer->inputs, x);
        ep_fill(x + layer->inputs, 0, 4 * groups - layer->inputs);
        ep_pair_inputs(x, 4 * groups);
        multiply(layer, &row, pairs, others, output);
    }
}

#endif
