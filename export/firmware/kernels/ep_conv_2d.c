#include "ep_conv_2d.h"

#include <string.h>

#include "ep_dot.h"
#include "ep_requantize.h"

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int8_t finish(const ep_conv *layer, int32_t sum, int32_t multiplier, int32_t shift)
{
    sum = layer->narrow ? ep_requantize_narrow(sum, multiplier, shift) : ep_requantize(sum, multiplier, shift);
    return (int8_t)ep_clamp(sum + layer->output_zero, layer->least, layer->most);
}

#ifdef EP_REFERENCE

/* the definition, weight by weight: the oracle of what follows */
static int32_t weight_index(const ep_conv *layer, int32_t c, int32_t i, int32_t j, int32_t k)
{
    const int32_t span = layer->kernel[1] * layer->pitch, place = j * layer->pitch + k;
    return ((c / 2 * layer->kernel[0] + i) * span + place / 4 * 4) * 2 + c % 2 * 4 + place % 4;
}

void ep_conv_2d(const ep_conv *layer, const int8_t *input, int8_t *output, void *scratch)
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
                            if (row < 0 || row >= height || column < 0 || column >= width)
                                continue;
                            for (int32_t k = 0; k < channels; ++k)
                                sum = ep_sum(sum, ep_weight_at(&layer->weights, weight_index(layer, c, i, j, k), c) *
                                       (input[(row * width + column) * channels + k] - layer->input_zero));
                        }
                    *output++ = finish(layer, sum, layer->multiplier[c], layer->shift[c]);
                }
}

#else

/* what one call works with; rows of scratch form a ring */
typedef struct {
    int16_t *ring;     /* (ring_rows, row) */
    uint32_t *weights; /* (kernel height, span / 4, 2 channels, 2) pairs of two output channels */
    uint32_t *pairs;   /* tables of one channel and, if each has its own, of the next */
    uint32_t *others;
    int32_t ring_rows, row; /* row: int16 of a row of pixels, padding included */
    int32_t columns;        /* pixels of a row */
    int32_t span;           /* products of a kernel row for one output */
} workspace;

static workspace divide(const ep_conv *layer, void *scratch)
{
    workspace work;
    const int32_t room = EP_TABLE_WORDS(layer->weights.bits);
    work.columns = (layer->output[1] - 1) * layer->stride[1] + (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    work.row = (work.columns * layer->pitch + 1) & ~1;
    work.ring_rows = (layer->block - 1) * layer->stride[0] + (layer->kernel[0] - 1) * layer->dilation[0] + 1;
    work.span = layer->kernel[1] * layer->pitch;
    work.weights = (uint32_t *)scratch;
    work.pairs = work.weights + layer->kernel[0] * work.span;
    work.others = layer->weights.stride ? work.pairs + room : work.pairs;
    work.ring = (int16_t *)(void *)(work.others + room);
    return work;
}

/* one row of the input, less its zero point, zeros around it */
static void load_row(const ep_conv *layer, const workspace *work, const int8_t *input, int32_t row, int16_t *to)
{
    const int32_t width = layer->input[1], channels = layer->input[2], pitch = layer->pitch;
    const int32_t zero = layer->input_zero, before = layer->before[1];
    const int32_t last = smaller(width, work->columns - before);
    const int8_t *from = input + row * width * channels;
    if (row < 0 || row >= layer->input[0]) {
        memset(to, 0, (size_t)work->row * sizeof *to);
        return;
    }
    memset(to, 0, (size_t)(before * pitch) * sizeof *to);
    to += before * pitch;
    if (pitch == channels) {
        for (int32_t n = last * channels; n > 0; --n)
            *to++ = (int16_t)(*from++ - zero);
    } else {
        for (int32_t x = 0; x < last; ++x) {
            int32_t k = 0;
            for (; k < channels; ++k)
                *to++ = (int16_t)(*from++ - zero);
            for (; k < pitch; ++k)
                *to++ = 0;
        }
    }
    if (work->columns - before > last)
        memset(to, 0, (size_t)((work->columns - before - last) * pitch) * sizeof *to);
}

static void decode_two(const ep_conv *layer, const workspace *work, int32_t channel)
{
    const ep_weights *weights = &layer->weights;
    const int32_t groups = layer->kernel[0] * work->span / 4;
    const int8_t *first = weights->bits < 8 ? weights->tables + channel * weights->stride : 0;
    /* an odd last channel is paired with itself */
    const int8_t *second = first && channel + 1 < layer->output[2] ? first + weights->stride : first;
    if (weights->stride) {
        ep_prepare_table(first, weights->bits, work->pairs);
        ep_prepare_table(second, weights->bits, work->others);
    }
    ep_decode(weights, channel / 2 * groups, groups, first, second, work->pairs, work->others, work->weights);
}

/* two channels of one row of outputs. slot: the ring's row for the kernel's first. */
static void convolve_row(const ep_conv *layer, const workspace *work, int32_t channel, int32_t slot, int8_t *output)
{
    const int32_t channels = layer->output[2], width = layer->output[1];
    const int32_t step = layer->stride[1] * layer->pitch;
    const int32_t two = channel + 1 < channels;
    const int32_t bias0 = layer->bias[channel], bias1 = layer->bias[channel + two];
    const int32_t multiplier0 = layer->multiplier[channel], multiplier1 = layer->multiplier[channel + two];
    const int32_t shift0 = layer->shift[channel], shift1 = layer->shift[channel + two];
    output += channel;
    for (int32_t x = 0; x < width; x += 2) {
        const int32_t both = x + 1 < width;
        const int16_t *pixel = work->ring + x * step;
        const uint32_t *w = work->weights;
        int32_t sums[4] = {bias0, bias0, bias1, bias1};
        int32_t row = slot;
        for (int32_t i = 0; i < layer->kernel[0]; ++i) {
            const int16_t *x0 = pixel + row * work->row;
            if (layer->dilation[1] == 1) {
                ep_dot_block(w, x0, x0 + (both ? step : 0), work->span / 4, sums);
                w += work->span;
            } else {
                for (int32_t j = 0; j < layer->kernel[1]; ++j, w += layer->pitch) {
                    ep_dot_block(w, x0, x0 + (both ? step : 0), layer->pitch / 4, sums);
                    x0 += layer->dilation[1] * layer->pitch;
                }
            }
            row += layer->dilation[0];
            if (row >= work->ring_rows)
                row -= work->ring_rows;
        }
        output[0] = finish(layer, sums[0], multiplier0, shift0);
        if (two)
            output[1] = finish(layer, sums[2], multiplier1, shift1);
        output += channels;
        if (both) {
            output[0] = finish(layer, sums[1], multiplier0, shift0);
            if (two)
                output[1] = finish(layer, sums[3], multiplier1, shift1);
            output += channels;
        }
    }
}

void ep_conv_2d(const ep_conv *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const workspace work = divide(layer, scratch);
    const int32_t height = layer->output[0], stride = layer->stride[0];
    const int32_t reach = (layer->kernel[0] - 1) * layer->dilation[0] + 1;
    const int32_t row_bytes = layer->output[1] * layer->output[2];
    if (!layer->weights.stride && layer->weights.bits < 8)
        ep_prepare_table(layer->weights.tables, layer->weights.bits, work.pairs);
    for (int32_t batch = 0; batch < layer->batches; ++batch) {
        int32_t loaded = 0; /* rows counted from the first of the padding */
        for (int32_t y = 0; y < height; y += layer->block) {
            const int32_t end = smaller(y + layer->block, height);
            const int32_t needed = (end - 1) * stride + reach;
            loaded = loaded < y * stride ? y * stride : loaded;
            for (; loaded < needed; ++loaded)
                load_row(layer, &work, input, loaded - layer->before[0], work.ring + loaded % work.ring_rows * work.row);
            for (int32_t c = 0; c < layer->output[2]; c += 2) {
                decode_two(layer, &work, c);
                for (int32_t row = y; row < end; ++row)
                    convolve_row(layer, &work, c, row * stride % work.ring_rows, output + row * row_bytes);
            }
        }
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += height * row_bytes;
    }
}

#endif
