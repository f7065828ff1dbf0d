#include "ep_depthwise_conv_2d.h"

#include <string.h>

#include "ep_dot.h"
#include "ep_requantize.h"

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int8_t finish(const ep_depthwise *layer, int32_t sum, int32_t multiplier, int32_t shift)
{
    sum = layer->narrow ? ep_requantize_narrow(sum, multiplier, shift) : ep_requantize(sum, multiplier, shift);
    return (int8_t)ep_clamp(sum + layer->output_zero, layer->least, layer->most);
}

#ifdef EP_REFERENCE

/* the definition, weight by weight: the oracle of what follows */
void ep_depthwise_conv_2d(const ep_depthwise *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const int32_t height = layer->input[0], width = layer->input[1], channels = layer->input[2];
    (void)scratch, (void)smaller;
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += height * width * channels)
        for (int32_t y = 0; y < layer->output[0]; ++y)
            for (int32_t x = 0; x < layer->output[1]; ++x)
                for (int32_t c = 0; c < layer->output[2]; ++c) {
                    int32_t sum = layer->bias[c];
                    for (int32_t i = 0; i < layer->kernel[0]; ++i)
                        for (int32_t j = 0; j < layer->kernel[1]; ++j) {
                            const int32_t row = y * layer->stride[0] - layer->before[0] + i * layer->dilation[0];
                            const int32_t column = x * layer->stride[1] - layer->before[1] + j * layer->dilation[1];
                            const int32_t tap = (c / layer->block * layer->kernel[0] + i) * layer->kernel[1] + j;
                            if (row < 0 || row >= height || column < 0 || column >= width)
                                continue;
                            sum = ep_sum(sum, ep_weight_at(&layer->weights, tap * layer->block + c % layer->block, c) *
                                                  (input[(row * width + column) * channels + c / layer->multiple] -
                                                   layer->input_zero));
                        }
                    *output++ = finish(layer, sum, layer->multiplier[c], layer->shift[c]);
                }
}

#else

/* what one call works with; rows of scratch form a ring */
typedef struct {
    uint32_t *weights; /* (kernel height, kernel width, block / 2) pairs */
    uint32_t *pairs;   /* table of what two indices name */
    int16_t *ring;     /* (ring_rows, columns, block) */
    int32_t ring_rows, columns;
} workspace;

static workspace divide(const ep_depthwise *layer, void *scratch)
{
    workspace work;
    work.columns = (layer->output[1] - 1) * layer->stride[1] + (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    work.ring_rows = (layer->kernel[0] - 1) * layer->dilation[0] + 1;
    work.weights = (uint32_t *)scratch;
    work.pairs = work.weights + layer->kernel[0] * layer->kernel[1] * layer->block / 2;
    work.ring = (int16_t *)(void *)(work.pairs + (layer->weights.stride ? 0 : EP_TABLE_WORDS(layer->weights.bits)));
    return work;
}

/* output channels [first, first + count) of one row of the input, less its zero point, zeros around it */
static void load_row(const ep_depthwise *layer, const workspace *work, const int8_t *input, int32_t row, int32_t first,
                     int32_t count, int16_t *to)
{
    const int32_t width = layer->input[1], channels = layer->input[2], zero = layer->input_zero;
    if (row < 0 || row >= layer->input[0]) {
        memset(to, 0, (size_t)(work->columns * layer->block) * sizeof *to);
        return;
    }
    for (int32_t x = -layer->before[1]; x < work->columns - layer->before[1]; ++x, to += layer->block) {
        const int8_t *from = input + (row * width + x) * channels;
        if (x < 0 || x >= width)
            memset(to, 0, (size_t)layer->block * sizeof *to);
        else if (layer->multiple == 1)
            for (int32_t c = 0; c < count; ++c)
                to[c] = (int16_t)(from[first + c] - zero);
        else
            for (int32_t c = 0; c < count; ++c)
                to[c] = (int16_t)(from[(first + c) / layer->multiple] - zero);
    }
}

static void decode_block(const ep_depthwise *layer, const workspace *work, int32_t first)
{
    const ep_weights *weights = &layer->weights;
    const int32_t count = layer->kernel[0] * layer->kernel[1] * layer->block;
    const int32_t start = first / layer->block * count;
    if (!weights->stride) {
        ep_decode(weights, start / 8, count / 8, weights->tables, weights->tables, work->pairs, work->pairs, work->weights);
        return;
    }
    /* every channel has a table of its own */
    for (int32_t n = 0; n < count; n += 2) {
        const int32_t channel = smaller(first + n % layer->block, layer->output[2] - 1);
        const int32_t next = smaller(channel + 1, layer->output[2] - 1);
        const int32_t low = ep_weight_at(weights, start + n, channel), high = ep_weight_at(weights, start + n + 1, next);
        work->weights[n / 2] = ((uint32_t)low & 0xffffu) | (uint32_t)high << 16;
    }
}

/* outputs of two channels of a row. slot: the ring's row for the kernel's first. pair: their place in the block / 2. */
static void convolve_row(const ep_depthwise *layer, const workspace *work, int32_t channel, int32_t pair, int32_t slot,
                         int8_t *output)
{
    const int32_t channels = layer->output[2], block = layer->block, two = channel + 1 < channels;
    const int32_t step = layer->stride[1] * block, apart = layer->dilation[1] * block;
    const int32_t bias0 = layer->bias[channel], bias1 = layer->bias[channel + two];
    const int32_t multiplier0 = layer->multiplier[channel], multiplier1 = layer->multiplier[channel + two];
    const int32_t shift0 = layer->shift[channel], shift1 = layer->shift[channel + two];
    output += channel;
    for (int32_t x = 0; x < layer->output[1]; x += 2) {
        const int32_t both = x + 1 < layer->output[1];
        const int16_t *pixel = work->ring + x * step + 2 * pair;
        const uint32_t *w = work->weights + pair;
        int32_t sum00 = bias0, sum01 = bias0, sum10 = bias1, sum11 = bias1, row = slot;
        for (int32_t i = 0; i < layer->kernel[0]; ++i) {
            const int16_t *x0 = pixel + row * work->columns * block, *x1 = x0 + (both ? step : 0);
            for (int32_t j = layer->kernel[1]; j > 0; --j, w += block / 2, x0 += apart, x1 += apart) {
                const uint32_t weights = *w, a = ep_load_pair(x0), b = ep_load_pair(x1);
                sum00 = ep_dot_low(weights, a, sum00);
                sum10 = ep_dot_high(weights, a, sum10);
                sum01 = ep_dot_low(weights, b, sum01);
                sum11 = ep_dot_high(weights, b, sum11);
            }
            row += layer->dilation[0];
            if (row >= work->ring_rows)
                row -= work->ring_rows;
        }
        output[0] = finish(layer, sum00, multiplier0, shift0);
        if (two)
            output[1] = finish(layer, sum10, multiplier1, shift1);
        output += channels;
        if (both) {
            output[0] = finish(layer, sum01, multiplier0, shift0);
            if (two)
                output[1] = finish(layer, sum11, multiplier1, shift1);
            output += channels;
        }
    }
}

void ep_depthwise_conv_2d(const ep_depthwise *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const workspace work = divide(layer, scratch);
    const int32_t height = layer->output[0], channels = layer->output[2], stride = layer->stride[0];
    const int32_t row_bytes = layer->output[1] * channels;
    if (!layer->weights.stride && layer->weights.bits < 8)
        ep_prepare_table(layer->weights.tables, layer->weights.bits, work.pairs);
    for (int32_t batch = 0; batch < layer->batches; ++batch) {
        for (int32_t first = 0; first < channels; first += layer->block) {
            const int32_t count = smaller(layer->block, channels - first);
            int32_t loaded = 0; /* rows counted from the first of the padding */
            decode_block(layer, &work, first);
            /* what a last block leaves unused is never stored, but it is read */
            memset(work.ring, 0, (size_t)(work.ring_rows * work.columns * layer->block) * sizeof *work.ring);
            for (int32_t y = 0; y < height; ++y) {
                const int32_t needed = y * stride + work.ring_rows;
                loaded = loaded < y * stride ? y * stride : loaded;
                for (; loaded < needed; ++loaded)
                    load_row(layer, &work, input, loaded - layer->before[0], first, count,
                             work.ring + loaded % work.ring_rows * work.columns * layer->block);
                for (int32_t c = 0; c < count; c += 2)
                    convolve_row(layer, &work, first + c, c / 2, y * stride % work.ring_rows, output + y * row_bytes);
            }
        }
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += height * row_bytes;
    }
}

#endif
