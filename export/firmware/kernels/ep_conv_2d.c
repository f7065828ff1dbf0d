#include "ep_conv_2d.h"

#include <string.h>

#include "ep_dot.h"
#include "ep_requantize.h"
#include "ep_vector.h"

static inline int8_t finish(const ep_conv *layer, int32_t sum, int32_t multiplier, int32_t shift)
{
    return (int8_t)ep_clamp(ep_requantize(sum, multiplier, shift) + layer->output_zero, layer->least, layer->most);
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
    (void)scratch;
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += height * width * channels)
        for (int32_t y = 0; y < layer->output[0]; ++y)
            for (int32_t x = 0; x < layer->output[1]; ++x)
                for (int32_t c = 0; c < layer->output[2]; ++c) {
                    int32_t sum = layer->bias[c];
                    for (int32_t i = 0; i < layer->kernel[0]; ++i)
                        for (int32_t j = 0; j < layer->kernel[1]; ++j) {
                            const int32_t row = y * layer->stride[0] - layer->before[0] + i * layer->dilation[0];
                            const int32_t column = x * layer->stride[1] - layer->before[1] + j * layer->dilation[1];
                            const int32_t inside = row >= 0 && row < height && column >= 0 && column < width;
                            for (int32_t k = 0; k < layer->pitch; ++k) {
                                const int32_t there = inside && k < channels;
                                sum = ep_sum(sum, ep_weight_at(&layer->weights, weight_index(layer, c, i, j, k), c) *
                                       (there ? input[(row * width + column) * channels + k] : layer->input_zero));
                            }
                        }
                    *output++ = finish(layer, sum, layer->multiplier[c], layer->shift[c]);
                }
}

#else
#ifdef EP_MVE

typedef int8_t held;

/* what one call works with */
typedef struct {
    int8_t *weights; /* (kernel height, vectors, 4 channels, 16) of four output channels, zeros where there is no weight */
    held *rows;      /* (held, row) input rows of a block of outputs, and 16 bytes */
    int32_t row;     /* bytes of a row of pixels, padding included */
    int32_t columns; /* pixels of a row */
    int32_t vectors; /* of 16 products of a kernel row, the columns between those of a dilated one included */
} workspace;

static workspace divide(const ep_conv *layer, void *scratch)
{
    const int32_t reach = (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    workspace work;
    work.columns = (layer->output[1] - 1) * layer->stride[1] + reach;
    work.row = work.columns * layer->pitch;
    work.vectors = (reach * layer->pitch + 15) / 16;
    work.weights = scratch;
    work.rows = work.weights + layer->kernel[0] * work.vectors * 64;
    return work;
}

/* one row of the input as it is, its zero point around it and in the channels a pitch adds */
static void load_row(const ep_conv *layer, const workspace *work, const int8_t *input, int32_t row, held *to)
{
    const int32_t channels = layer->input[2], pitch = layer->pitch, before = layer->before[1];
    const int32_t last = ep_smaller(layer->input[1], work->columns - before);
    const int8_t *from = input + row * layer->input[1] * channels;
    const int32_t inside = row >= 0 && row < layer->input[0];
    if (!inside || pitch != channels || last < work->columns)
        memset(to, layer->input_zero, (size_t)work->row);
    to += before * pitch;
    if (!inside)
        return;
    if (pitch == channels)
        memcpy(to, from, (size_t)(last * channels));
    else
        for (int32_t x = 0; x < last; ++x, from += channels, to += pitch)
            for (int32_t k = 0; k < channels; k += 16) {
                const mve_pred16_t there = vctp8q((uint32_t)(channels - k));
                vstrbq_p_s8(to + k, vldrbq_z_s8(from + k, there), there);
            }
}

/* filters of two channels: where `to` points those of four begin, or 32 bytes on */
static void decode_two(const ep_conv *layer, const workspace *work, int32_t channel, int8_t *to)
{
    const ep_weights *weights = &layer->weights;
    const int32_t bits = weights->bits, height = layer->kernel[0], apart = layer->dilation[1] * layer->pitch;
    /* columns that lie one beside the other are one piece */
    const int32_t pieces = layer->dilation[1] == 1 ? 1 : layer->kernel[1], piece = layer->kernel[1] / pieces * layer->pitch;
    /* an odd last channel is paired with itself */
    const uint16_t stride = channel + 1 < layer->output[2] ? weights->stride : 0;
    const uint16x8_t second = {0, 0, 0, 0, 1, 1, 1, 1}, places = {0, 1, 2, 3, 16, 17, 18, 19};
    const ep_decoder by = ep_decoder_of(bits, vmulq_n_u16(second, stride));
    const int8_t *tables = weights->tables + channel * weights->stride;
    const uint8_t *data = weights->data + channel / 2 * height * pieces * piece / 4 * bits;
    for (int32_t i = 0; i < height; ++i, to += work->vectors * 64)
        for (int32_t j = 0; j < pieces; ++j)
            for (int32_t k = j * apart, end = k + piece; k < end; k += 4, data += bits)
                vstrbq_scatter_offset_s16(to + (k & -16) * 4 + (k & 15), places, ep_decode_eight(&by, bits, data, tables));
}

/* what four channels, or those that are left, do to every output */
typedef struct {
    const int8_t *weights;
    uint32_t vectors, rows;
    int32_t below;          /* bytes from the end of a kernel row to the next */
    int32_t step, channels; /* bytes from pixel to pixel, of the input and of the output */
    int32_t zero;
    mve_pred16_t there;
    int32_t bias[4];
    ep_scales scales;
} channels_four;

/* outputs of a row. pixel: the first one's in the kernel's first row. */
EP_APART static void convolve_row(const channels_four *four, const int8_t *pixel, int8_t *output, int32_t count)
{
    const ep_scales scales = four->scales;
    const int8_t *const end = output + count * four->channels;
    do {
        int32_t s0 = four->bias[0], s1 = four->bias[1], s2 = four->bias[2], s3 = four->bias[3];
        const int8_t *w = four->weights, *x = pixel;
        uint32_t row = four->rows;
        do {
            uint32_t n = four->vectors;
            do {
                const int8x16_t v = vldrbq_s8(x), first = vldrbq_s8(w);
                x += 16, w += 64;
                s0 = vmladavaq_s8(s0, first, v);
                s1 = vmladavaq_s8(s1, vldrbq_s8(w - 48), v);
                s2 = vmladavaq_s8(s2, vldrbq_s8(w - 32), v);
                s3 = vmladavaq_s8(s3, vldrbq_s8(w - 16), v);
                EP_IN_REGISTERS(x, w);
            } while (--n);
            x += four->below;
        } while (--row);
        const int32x4_t sums = vsetq_lane_s32(s3, vsetq_lane_s32(s2, vsetq_lane_s32(s1, vdupq_n_s32(s0), 1), 2), 3);
        vstrbq_p_s32(output, ep_saturate_four(vaddq_n_s32(ep_requantize_four(scales, sums), four->zero)), four->there);
        pixel += four->step, output += four->channels;
    } while (output != end);
}

/* all filters over a block of output rows, four at a time */
static void convolve_block(const ep_conv *layer, const workspace *work, int32_t rows, int8_t *output)
{
    const int32_t channels = layer->output[2], bytes = rows * layer->output[1] * channels;
    const int32_t down = layer->stride[0] * work->row;
    /* rows of kernels of one column follow each other without a gap */
    const int32_t as_one = layer->output[1] * layer->stride[1] * layer->pitch == down;
    const int32_t lines = as_one ? 1 : rows, width = layer->output[1] * (as_one ? rows : 1);
    channels_four four = {.weights = work->weights,
                          .vectors = (uint32_t)work->vectors,
                          .rows = (uint32_t)layer->kernel[0],
                          .below = layer->dilation[0] * work->row - 16 * work->vectors,
                          .step = layer->stride[1] * layer->pitch,
                          .channels = channels,
                          .zero = layer->output_zero};
    for (int32_t c = 0; c < channels; c += 4) {
        four.there = vctp32q((uint32_t)(channels - c));
        four.scales = ep_scales_of(layer->multiplier + c, layer->shift + c, four.there);
        vstrwq_s32(four.bias, vldrwq_z_s32(layer->bias + c, four.there));
        decode_two(layer, work, c, work->weights);
        if (c + 2 < channels)
            decode_two(layer, work, c + 2, work->weights + 32);
        for (int32_t y = 0; y < lines; ++y)
            convolve_row(&four, work->rows + y * down, output + y * width * channels + c, width);
    }
    ep_clamp_all(output, bytes, layer->least, layer->most);
}

/* what is done once. Gives the output rows of a block. */
static int32_t prepare(const ep_conv *layer, const workspace *work)
{
    /* where a piece ends within a vector zeros follow, and stay */
    memset(work->weights, 0, (size_t)(work->rows - work->weights));
    return layer->int8_block;
}

#else

typedef int16_t held;

/* what one call works with */
typedef struct {
    uint32_t *weights; /* (kernel height, span / 4, 2 channels, 2) pairs of two output channels */
    uint32_t *pairs;   /* tables of one channel and, if each has its own, of the next */
    uint32_t *others;
    held *rows;        /* (held, row) input rows of a block of outputs */
    int32_t row;       /* int16 of a row of pixels, padding included */
    int32_t columns;   /* pixels of a row */
    int32_t span;      /* products of a kernel row for one output */
} workspace;

static workspace divide(const ep_conv *layer, void *scratch)
{
    workspace work;
    const int32_t room = EP_TABLE_WORDS(layer->weights.bits);
    work.columns = (layer->output[1] - 1) * layer->stride[1] + (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    work.row = (work.columns * layer->pitch + 1) & ~1;
    work.span = layer->kernel[1] * layer->pitch;
    work.weights = (uint32_t *)scratch;
    work.pairs = work.weights + layer->kernel[0] * work.span;
    work.others = layer->weights.stride ? work.pairs + room : work.pairs;
    work.rows = (int16_t *)(void *)(work.others + room);
    return work;
}

/* one row of the input, its zero point around it and in the channels a pitch adds */
static void load_row(const ep_conv *layer, const workspace *work, const int8_t *input, int32_t row, held *to)
{
    const int32_t width = layer->input[1], channels = layer->input[2], pitch = layer->pitch;
    const int32_t before = layer->before[1], last = ep_smaller(width, work->columns - before), zero = layer->input_zero;
    const int8_t *from = input + row * width * channels;
    held *const pixels = to + before * pitch;
    if (row < 0 || row >= layer->input[0]) {
        ep_fill(to, zero, work->row);
    } else if (pitch == channels && layer->kernel[1] >= layer->stride[1]) {
        ep_fill(to, zero, before * pitch);
        ep_widen(from, last * channels, pixels);
        ep_fill(pixels + last * pitch, zero, work->row - (before + last) * pitch);
    } else {
        /* columns between kernels are not read */
        const int32_t wide = layer->kernel[1] > 1 ? 1 : layer->stride[1];
        ep_fill(to, zero, before * pitch);
        for (int32_t x = 0; x < last; x += wide) {
            ep_widen(from + x * channels, channels, pixels + x * pitch);
            ep_fill(pixels + x * pitch + channels, zero, pitch - channels);
        }
        ep_fill(pixels + last * pitch, zero, work->row - (before + last) * pitch);
    }
    ep_pair_inputs(to, work->row);
}

static void decode_two(const ep_conv *layer, const workspace *work, int32_t channel)
{
    const ep_weights *weights = &layer->weights;
    const int32_t groups = layer->kernel[0] * work->span / 4;
    const int8_t *first = weights->bits < 8 ? weights->tables + channel * weights->stride : 0;
    /* an odd last channel is paired with itself */
    const int8_t *second = first && channel + 1 < layer->output[2] ? first + weights->stride : first;
    const ep_tables tables = {first, second, work->pairs, work->others};
    if (weights->stride) {
        ep_prepare_table(first, weights->bits, work->pairs);
        ep_prepare_table(second, weights->bits, work->others);
    }
    ep_decode(weights, channel / 2 * groups, groups, &tables, work->weights);
}

/* two channels' part in every output */
typedef struct {
    const uint32_t *weights;
    int32_t groups, rows, apart; /* see ep_dot_block */
    int32_t bias[2];
    ep_scale scale[2];
} channels_two;

/* two channels of two pixels, where the layer is fast */
EP_APART static void convolve_four(const channels_two *two, const int16_t *x0, const int16_t *x1, int8_t *first, int8_t *second)
{
    int32_t sums[4] = {two->bias[0], two->bias[0], two->bias[1], two->bias[1]};
    ep_dot_block(two->weights, x0, x1, two->groups, two->rows, two->apart, sums);
    first[0] = ep_saturate(ep_apply(two->scale[0], sums[0]));
    second[0] = ep_saturate(ep_apply(two->scale[0], sums[1]));
    first[1] = ep_saturate(ep_apply(two->scale[1], sums[2]));
    second[1] = ep_saturate(ep_apply(two->scale[1], sums[3]));
}

/* the sums alone, of a kernel of any dilation */
EP_APART static void convolve_sums(const ep_conv *layer, const workspace *work, const int16_t *x0, const int16_t *x1,
                                   int32_t sums[4])
{
    const int32_t apart = layer->dilation[0] * work->row;
    const int32_t pieces = layer->dilation[1] == 1 ? 1 : layer->kernel[1], piece = work->span / pieces;
    for (int32_t i = 0; i < layer->kernel[0]; ++i)
        for (int32_t j = 0; j < pieces; ++j) {
            const int32_t at = i * apart + j * layer->dilation[1] * layer->pitch;
            ep_dot_block(work->weights + i * work->span + j * piece, x0 + at, x1 + at, piece / 4, 1, 0, sums);
        }
}

/* two channels of `rows` rows of outputs. pixels: the first in the kernel's first row. */
static void convolve(const ep_conv *layer, const workspace *work, int32_t channel, const int16_t *pixels, int32_t rows,
                     int8_t *output)
{
    const int32_t channels = layer->output[2], width = layer->output[1], line = width * channels;
    const int32_t step = layer->stride[1] * layer->pitch, down = layer->stride[0] * work->row;
    const int32_t other = channel + 1 < channels ? channel + 1 : channel, fast = layer->fast && other > channel;
    channels_two two = {work->weights,
                        work->span / 4,
                        layer->kernel[0],
                        layer->dilation[0] * work->row,
                        {layer->bias[channel], layer->bias[other]},
                        {{0, 0, 0}, {0, 0, 0}}};
    output += channel;
    if (fast) {
        two.scale[0] = ep_scale_of(layer->multiplier[channel], layer->shift[channel], layer->output_zero);
        two.scale[1] = ep_scale_of(layer->multiplier[other], layer->shift[other], layer->output_zero);
        /* in rows of odd length pairs of pixels one above the other, so that none is left over at the end of each */
        for (; width % 2 && rows > 1; rows -= 2, pixels += 2 * down, output += line)
            for (int32_t x = 0; x < width; ++x, output += channels)
                convolve_four(&two, pixels + x * step, pixels + down + x * step, output, output + line);
    }
    for (; rows > 0; --rows, pixels += down) {
        const int16_t *pixel = pixels;
        int8_t unused[2];
        for (int32_t left = width; left > 0; left -= 2, pixel += 2 * step) {
            const int32_t both = left > 1;
            const int16_t *second = both ? pixel + step : pixel;
            if (fast) {
                convolve_four(&two, pixel, second, output, both ? output + channels : unused);
                output += channels << both;
                continue;
            }
            int32_t sums[4] = {two.bias[0], two.bias[0], two.bias[1], two.bias[1]};
            convolve_sums(layer, work, pixel, second, sums);
            for (int32_t n = 0; n < 1 + both; ++n, output += channels) {
                output[other - channel] = finish(layer, sums[2 + n], layer->multiplier[other], layer->shift[other]);
                output[0] = finish(layer, sums[n], layer->multiplier[channel], layer->shift[channel]);
            }
        }
    }
}

/* all filters over a block of output rows, two at a time */
static void convolve_block(const ep_conv *layer, const workspace *work, int32_t rows, int8_t *output)
{
    for (int32_t c = 0; c < layer->output[2]; c += 2) {
        decode_two(layer, work, c);
        convolve(layer, work, c, work->rows, rows, output);
    }
}

/* what is done once. Gives the output rows of a block. */
static int32_t prepare(const ep_conv *layer, const workspace *work)
{
    if (!layer->weights.stride && layer->weights.bits < 8)
        ep_prepare_table(layer->weights.tables, layer->weights.bits, work->pairs);
    return layer->block;
}

#endif

void ep_conv_2d(const ep_conv *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const workspace work = divide(layer, scratch);
    const int32_t height = layer->output[0], stride = layer->stride[0], block = prepare(layer, &work);
    const int32_t reach = (layer->kernel[0] - 1) * layer->dilation[0] + 1;
    const int32_t row_bytes = layer->output[1] * layer->output[2];
    for (int32_t batch = 0; batch < layer->batches; ++batch) {
        int32_t first = 0, loaded = 0; /* rows counted from the first of the padding; `rows` holds those from `first` */
        for (int32_t y = 0; y < height; y += block) {
            const int32_t end = ep_smaller(y + block, height), kept = loaded - y * stride;
            if (kept > 0)
                memmove(work.rows, work.rows + (y * stride - first) * work.row, (size_t)(kept * work.row) * sizeof *work.rows);
            first = y * stride;
            loaded = kept > 0 ? loaded : first;
            for (; loaded < (end - 1) * stride + reach; ++loaded)
                load_row(layer, &work, input, loaded - layer->before[0], work.rows + (loaded - first) * work.row);
            convolve_block(layer, &work, end - y, output + y * row_bytes);
        }
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += height * row_bytes;
    }
}

#endif
