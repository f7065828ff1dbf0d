#include "ep_fully_connected.h"

#include <string.h>

#include "ep_dot.h"
#include "ep_requantize.h"

static inline int8_t finish(const ep_dense *layer, int32_t sum, int32_t channel)
{
    const int32_t multiplier = layer->multiplier[channel], shift = layer->shift[channel];
    if (layer->fast)
        return ep_saturate(ep_apply(ep_scale_of(multiplier, shift, layer->output_zero), sum));
    return (int8_t)ep_clamp(ep_requantize(sum, multiplier, shift) + layer->output_zero, layer->least, layer->most);
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
                                      (input[k] - layer->input_zero));
            *output++ = finish(layer, sum, c);
        }
}

#else

/* four bytes of indices: two pairs of one output, two of the other */
#define EP_FOUR_BYTES                             \
    "ldr %[word], [%[data]], #4\n"                \
    "ldrd %[a], %[b], [%[x]], #8\n"               \
    "uxtb %[t], %[word]\n"                        \
    "ldr %[t], [%[pairs], %[t], lsl #2]\n"        \
    "smlad %[s0], %[t], %[a], %[s0]\n"            \
    "ubfx %[t], %[word], #8, #8\n"                \
    "ldr %[t], [%[pairs], %[t], lsl #2]\n"        \
    "smlad %[s0], %[t], %[b], %[s0]\n"            \
    "ubfx %[t], %[word], #16, #8\n"               \
    "ldr %[t], [%[others], %[t], lsl #2]\n"       \
    "smlad %[s1], %[t], %[a], %[s1]\n"            \
    "lsr %[t], %[word], #24\n"                    \
    "ldr %[t], [%[others], %[t], lsl #2]\n"       \
    "smlad %[s1], %[t], %[b], %[s1]\n"

/* 4-bit indices, read straight: each byte names a pair of weights */
static void dot_bytes(const uint8_t *data, const uint32_t *pairs, const uint32_t *others, const int16_t *x, int32_t groups,
                      int32_t sums[2])
{
    int32_t s0 = sums[0], s1 = sums[1];
#if defined(EP_DSP) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)
    /* what follows in C, the indices read four bytes at a time */
    uint32_t word, a, b, t;
    if (groups > 0)
        __asm__ volatile("lsrs %[t], %[n], #1\n" /* carry: a single one comes first */
                         "bcs 2f\n"
                         "1:\n" EP_FOUR_BYTES "2:\n" EP_FOUR_BYTES "subs %[n], %[n], #2\n"
                         "bgt 1b\n"
                         : [data] "+r"(data), [x] "+r"(x), [n] "+r"(groups), [s0] "+r"(s0), [s1] "+r"(s1),
                           [word] "=&r"(word), [a] "=&r"(a), [b] "=&r"(b), [t] "=&r"(t)
                         : [pairs] "r"(pairs), [others] "r"(others)
                         : "cc", "memory");
#endif
    for (; groups > 0; --groups, data += 4, x += 4) {
        const uint32_t a = ep_load_pair(x), b = ep_load_pair(x + 2);
        s0 = ep_dot_pair(pairs[data[0]], a, s0);
        s0 = ep_dot_pair(pairs[data[1]], b, s0);
        s1 = ep_dot_pair(others[data[2]], a, s1);
        s1 = ep_dot_pair(others[data[3]], b, s1);
    }
    sums[0] = s0, sums[1] = s1;
}

static void dot_words(const uint32_t *w, const int16_t *x, int32_t groups, int32_t sums[2])
{
    int32_t s0 = sums[0], s1 = sums[1];
    for (; groups > 0; --groups, w += 4, x += 4) {
        const uint32_t a = ep_load_pair(x), b = ep_load_pair(x + 2);
        s0 = ep_dot_pair(w[1], b, ep_dot_pair(w[0], a, s0));
        s1 = ep_dot_pair(w[3], b, ep_dot_pair(w[2], a, s1));
    }
    sums[0] = s0, sums[1] = s1;
}

void ep_fully_connected(const ep_dense *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const ep_weights *weights = &layer->weights;
    const int32_t groups = (layer->inputs + 3) / 4, room = EP_TABLE_WORDS(weights->bits);
    uint32_t *pairs = (uint32_t *)scratch, *others = weights->stride ? pairs + room : pairs;
    uint32_t *decoded = others + room;                             /* (EP_DENSE_GROUPS, 2 channels, 2) pairs */
    int16_t *x = (int16_t *)(void *)(decoded + 4 * EP_DENSE_GROUPS); /* (inputs), zeros to a multiple of 4 */
    if (!weights->stride && weights->bits < 8)
        ep_prepare_table(weights->tables, weights->bits, pairs);
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += layer->inputs, output += layer->outputs) {
        ep_widen(input, layer->input_zero, layer->inputs, x);
        for (int32_t k = layer->inputs; k < 4 * groups; ++k)
            x[k] = 0;
        for (int32_t c = 0; c < layer->outputs; c += 2) {
            const int32_t two = c + 1 < layer->outputs;
            const int8_t *first = weights->bits < 8 ? weights->tables + c * weights->stride : 0;
            const int8_t *second = first && two ? first + weights->stride : first;
            int32_t sums[2] = {layer->bias[c], layer->bias[c + two]};
            if (weights->stride) {
                ep_prepare_table(first, weights->bits, pairs);
                ep_prepare_table(second, weights->bits, others);
            }
            if (weights->bits == 4) {
                dot_bytes(weights->data + 4 * (c / 2 * groups), pairs, others, x, groups, sums);
            } else {
                for (int32_t n = 0; n < groups; n += EP_DENSE_GROUPS) {
                    const int32_t some = groups - n < EP_DENSE_GROUPS ? groups - n : EP_DENSE_GROUPS;
                    ep_decode(weights, c / 2 * groups + n, some, first, second, pairs, others, decoded);
                    dot_words(decoded, x + 4 * n, some, sums);
                }
            }
            output[c] = finish(layer, sums[0], c);
            if (two)
                output[c + 1] = finish(layer, sums[1], c + 1);
        }
    }
}

#endif
