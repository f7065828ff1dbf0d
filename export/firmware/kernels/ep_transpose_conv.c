#include "ep_transpose_conv.h"

#include "ep_dot.h"
#include "ep_requantize.h"

/* Σ w · (x - zero) over `depth` channels. w: pairs, x: int8. */
static inline int32_t first_of(uint32_t w) { return ep_dot_low(w, 1, 0); }
static inline int32_t second_of(uint32_t w) { return ep_dot_high(w, 0x10000u, 0); }
static int32_t dot(const uint32_t *w, const int8_t *x, int32_t depth, int32_t zero, int32_t sum)
{
    for (; depth > 1; depth -= 2, x += 2, ++w) {
        const int32_t low = first_of(*w) * (x[0] - zero);
        const int32_t high = second_of(*w) * (x[1] - zero);
        sum = ep_sum(ep_sum(sum, low), high);
    }
    return depth ? ep_sum(sum, first_of(*w) * (x[0] - zero)) : sum;
}

static int32_t output_sum(const ep_transpose *layer, const uint32_t *weights, const int8_t *input, int32_t y, int32_t x,
                          int32_t sum)
{
    const int32_t channels = layer->input[2];
    for (int32_t i = 0; i < layer->kernel[0]; ++i) {
        const int32_t down = y + layer->before[0] - i, row = down / layer->stride[0];
        if (down < 0 || down % layer->stride[0] || row >= layer->input[0])
            continue;
        for (int32_t j = 0; j < layer->kernel[1]; ++j) {
            const int32_t right = x + layer->before[1] - j, column = right / layer->stride[1];
            if (right < 0 || right % layer->stride[1] || column >= layer->input[1])
                continue;
            sum = dot(weights + (i * layer->kernel[1] + j) * layer->depth / 2,
                      input + (row * layer->input[1] + column) * channels, channels, layer->input_zero, sum);
        }
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
            for (int32_t y = 0; y < layer->output[0]; ++y)
                for (int32_t x = 0; x < layer->output[1]; ++x, to += channels) {
                    const int32_t sum = output_sum(layer, decoded, input, y, x, layer->bias[c]);
                    const int32_t scaled = ep_requantize(sum, layer->multiplier[c], layer->shift[c]);
                    *to = (int8_t)ep_clamp(scaled + layer->output_zero, layer->least, layer->most);
                }
        }
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += layer->output[0] * layer->output[1] * channels;
    }
}
