#include "ep_transpose_conv.h"

#include <string.h>

#include "ep_dot.h"
#include "ep_requantize.h"

/* Σ w · (x - zero) over `depth` channels. w: pairs as ep_dot_low and ep_dot_high take them; x: int8. */
static int32_t dot(const uint32_t *w, const int8_t *x, int32_t depth, int32_t zero, int32_t sum)
{
#ifdef EP_DSP
    const uint32_t both = ((uint32_t)-zero & 0xffffu) | (uint32_t)-zero << 16;
    for (; depth >= 4; depth -= 4, x += 4, w += 2) {
        uint32_t word;
        memcpy(&word, x, sizeof word);
        const uint32_t even = (uint32_t)__sxtab16((int16x2_t)both, (int8x4_t)word);
        const uint32_t odd = (uint32_t)__sxtab16((int16x2_t)both, (int8x4_t)(word >> 8 | word << 24));
        sum = ep_dot_pair(w[0], (even & 0xffffu) | odd << 16, sum);
        sum = ep_dot_pair(w[1], (odd & 0xffff0000u) | even >> 16, sum);
    }
#endif
    for (; depth > 0; depth -= 2, x += 2, ++w) {
        sum = ep_dot_low(*w, (uint32_t)(x[0] - zero), sum);
        if (depth > 1)
            sum = ep_dot_high(*w, (uint32_t)(x[1] - zero) << 16, sum);
    }
    return sum;
}

/* Of one dimension, what reaches an output `place` behind the padding: the first tap and its input; each `stride`-th tap
   after it takes the input before. */
typedef struct {
    int32_t tap, input;
} reach;

static reach reach_of(int32_t place, int32_t stride, int32_t inputs)
{
    reach first = {place % stride, place / stride};
    for (; first.input >= inputs; --first.input)
        first.tap += stride;
    return first;
}

static int32_t output_sum(const ep_transpose *layer, const uint32_t *weights, const int8_t *input, reach down, reach right, int32_t sum)
{
    const int32_t channels = layer->input[2], width = layer->kernel[1], pairs = layer->depth / 2;
    for (; down.tap < layer->kernel[0] && down.input >= 0; down.tap += layer->stride[0], --down.input) {
        const int8_t *row = input + down.input * layer->input[1] * channels;
        const uint32_t *taps = weights + down.tap * width * pairs;
        int32_t column = right.input;
        for (int32_t tap = right.tap; tap < width && column >= 0; tap += layer->stride[1], --column)
            sum = dot(taps + tap * pairs, row + column * channels, channels, layer->input_zero, sum);
    }
    return sum;
}

void ep_transpose_conv(const ep_transpose *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const ep_weights *weights = &layer->weights;
    const int32_t channels = layer->output[2], groups = layer->kernel[0] * layer->kernel[1] * layer->depth / 8;
    uint32_t *decoded = scratch; /* (kernel height, kernel width, depth / 2) pairs */
    uint32_t *pairs = decoded + 4 * groups;
    for (int32_t batch = 0; batch < layer->batches; ++batch) {
        for (int32_t c = 0; c < channels; ++c) {
            const int8_t *table = weights->bits < 8 ? weights->tables + c * weights->stride : 0;
            int8_t *to = output + c;
            if (table)
                ep_prepare_table(table, weights->bits, pairs);
            const ep_tables tables = {table, table, pairs, pairs};
            ep_decode(weights, c * groups, groups, &tables, decoded);
            for (int32_t y = 0; y < layer->output[0]; ++y) {
                const reach down = reach_of(y + layer->before[0], layer->stride[0], layer->input[0]);
                for (int32_t x = 0; x < layer->output[1]; ++x, to += channels) {
                    const reach right = reach_of(x + layer->before[1], layer->stride[1], layer->input[1]);
                    const int32_t sum = output_sum(layer, decoded, input, down, right, layer->bias[c]);
                    const int32_t scaled = ep_requantize(sum, layer->multiplier[c], layer->shift[c]);
                    *to = (int8_t)ep_clamp(scaled + layer->output_zero, layer->least, layer->most);
                }
            }
        }
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += layer->output[0] * layer->output[1] * channels;
    }
}
