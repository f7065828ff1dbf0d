#include "ep_depthwise_conv_2d.h"

#include <string.h>

#include "ep_dot.h"
#include "ep_requantize.h"
#include "ep_vector.h"

static inline int8_t finish(const ep_depthwise *layer, int32_t sum, int32_t multiplier, int32_t shift)
{
    return (int8_t)ep_clamp(ep_requantize(sum, multiplier, shift) + layer->output_zero, layer->least, layer->most);
}

#ifdef EP_REFERENCE

/* the definition, weight by weight: the oracle of what follows */
void ep_depthwise_conv_2d(const ep_depthwise *layer, const int8_t *input, int8_t *output, void *scratch)
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
                            const int32_t tap = (c / 8 * layer->kernel[0] + i) * layer->kernel[1] + j;
                            const int32_t inside = row >= 0 && row < height && column >= 0 && column < width;
                            const int32_t at = (row * width + column) * channels + c / layer->multiple;
                            sum = ep_sum(sum, ep_weight_at(&layer->weights, tap * 8 + c % 8, c) *
                                                  (inside ? input[at] : layer->input_zero));
                        }
                    *output++ = finish(layer, sum, layer->multiplier[c], layer->shift[c]);
                }
}

#else
#ifdef EP_MVE

/* output channels that share a pass over the input: as int8 they take the room of eight int16 */
#define CHANNELS 16

/* what one call works with */
typedef struct {
    int8_t *weights; /* (kernel height, kernel width, 16) */
    int8_t *rows;    /* (held, columns, 16) input rows */
    int32_t columns, taps;
} workspace;

static workspace divide(const ep_depthwise *layer, void *scratch)
{
    workspace work;
    work.columns = (layer->output[1] - 1) * layer->stride[1] + (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    work.taps = layer->kernel[0] * layer->kernel[1];
    work.weights = scratch;
    work.rows = work.weights + CHANNELS * work.taps;
    return work;
}

/* output channels from `first` of one row of the input, its zero point around it */
static void load_row(const ep_depthwise *layer, const workspace *work, const int8_t *input, int32_t row, int32_t first, int8_t *to)
{
    const int32_t width = layer->input[1], channels = layer->input[2], multiple = layer->multiple, before = layer->before[1];
    const int32_t last = ep_smaller(width, work->columns - before);
    const mve_pred16_t there = vctp8q((uint32_t)(layer->output[2] - first));
    const int8_t *from = input + row * width * channels + first / multiple;
    if (row < 0 || row >= layer->input[0]) {
        memset(to, layer->input_zero, (size_t)(work->columns * CHANNELS));
        return;
    }
    memset(to, layer->input_zero, (size_t)(before * CHANNELS));
    memset(to + (before + last) * CHANNELS, layer->input_zero, (size_t)((work->columns - before - last) * CHANNELS));
    to += before * CHANNELS;
    if (multiple == 1) {
        for (int32_t x = 0; x < last; ++x, from += channels, to += CHANNELS)
            vstrbq_s8(to, vldrbq_z_s8(from, there));
    } else {
        uint8_t places[CHANNELS]; /* of each output channel's input, counted from the first's */
        for (int32_t c = 0; c < CHANNELS; ++c)
            places[c] = (uint8_t)((first + c) / multiple - first / multiple);
        for (int32_t x = 0; x < last; ++x, from += channels, to += CHANNELS)
            vstrbq_s8(to, vldrbq_gather_offset_z_s8(from, vldrbq_u8(places), there));
    }
}

/* eight channels' weights */
static void decode_eight(const ep_depthwise *layer, const workspace *work, int32_t first, int8_t *to)
{
    const ep_weights *weights = &layer->weights;
    /* channels that are not there take the last one's table */
    const uint16x8_t channel = vminq_u16(vidupq_n_u16(0, 1), vdupq_n_u16((uint16_t)(layer->output[2] - 1 - first)));
    const ep_decoder by = ep_decoder_of(weights->bits, vmulq_n_u16(channel, weights->stride));
    const int8_t *tables = weights->tables + first * weights->stride;
    const uint8_t *data = weights->data + first / 8 * work->taps * weights->bits;
    for (int32_t tap = 0; tap < work->taps; ++tap, data += weights->bits, to += CHANNELS)
        vstrbq_s16(to, ep_decode_eight(&by, weights->bits, data, tables));
}

/* what four channels, or those that are left, do to every output */
typedef struct {
    const int8_t *weights;
    uint32_t height, width;
    int32_t below, apart;  /* bytes from the end of a kernel row to the next, from tap to tap */
    int32_t aside, beside; /* bytes from the first pixel of a pair to the second, of the input and of the output */
    int32_t step, further; /* bytes from pair to pair */
    int32_t zero;
    mve_pred16_t there;
    int32x4_t bias;
    ep_scales scales;
} channels_four;

/* one tap of two pixels */
static inline void add_products(const int8_t *w, const int8_t *x, const int8_t *y, int32x4_t *sum, int32x4_t *other)
{
    const int32x4_t v = vldrbq_s32(w);
    *sum = vaddq_s32(*sum, vmulq_s32(v, vldrbq_s32(x)));
    *other = vaddq_s32(*other, vmulq_s32(v, vldrbq_s32(y)));
}

static inline void store(const channels_four *four, ep_scales scales, int32x4_t sum, int8_t *output)
{
    vstrbq_p_s32(output, ep_saturate_four(vaddq_n_s32(ep_requantize_four(scales, sum), four->zero)), four->there);
}

/* `count` pairs of outputs. pixel: the first one's first tap. */
EP_APART static void convolve_pairs(const channels_four *four, const int8_t *pixel, int8_t *output, int32_t count)
{
    const ep_scales scales = four->scales;
    for (; count > 0; --count) {
        const int8_t *w = four->weights, *x = pixel, *y = pixel + four->aside;
        int32x4_t sum = four->bias, other = sum;
        uint32_t row = four->height;
        if (four->width == 3 && four->apart == CHANNELS)
            do {
                add_products(w, x, y, &sum, &other);
                add_products(w + CHANNELS, x + CHANNELS, y + CHANNELS, &sum, &other);
                add_products(w + 2 * CHANNELS, x + 2 * CHANNELS, y + 2 * CHANNELS, &sum, &other);
                w += 3 * CHANNELS, x += 3 * CHANNELS + four->below, y += 3 * CHANNELS + four->below;
                EP_IN_REGISTERS(x, y);
            } while (--row);
        else
            do {
                uint32_t n = four->width;
                do {
                    add_products(w, x, y, &sum, &other);
                    w += CHANNELS, x += four->apart, y += four->apart;
                    EP_IN_REGISTERS(x, y);
                } while (--n);
                x += four->below, y += four->below;
            } while (--row);
        store(four, scales, sum, output);
        store(four, scales, other, output + four->beside);
        pixel += four->step, output += four->further;
    }
}

/* four channels of a block of output rows. pixels: the first one's first tap; down: bytes from the taps of a row to the next's. */
static void convolve(const ep_depthwise *layer, channels_four *four, const int8_t *pixels, int32_t down, int32_t rows, int8_t *output)
{
    const int32_t channels = layer->output[2], width = layer->output[1], step = layer->stride[1] * CHANNELS;
    const int32_t line = width * channels;
    if (width % 2 == 0) {
        four->aside = step, four->beside = channels, four->step = 2 * step, four->further = 2 * channels;
        for (; rows > 0; --rows, pixels += down, output += line)
            convolve_pairs(four, pixels, output, width / 2);
        return;
    }
    /* one above the other in rows of odd length; a last row is its own other */
    four->aside = down, four->beside = line, four->step = step, four->further = channels;
    for (; rows > 0; rows -= 2, pixels += 2 * down, output += 2 * line) {
        if (rows == 1)
            four->aside = four->beside = 0;
        convolve_pairs(four, pixels, output, width);
    }
}

/* channels from `first` of a block of output rows */
static void convolve_block(const ep_depthwise *layer, const workspace *work, int32_t first, int32_t rows, int8_t *output)
{
    const int32_t channels = layer->output[2], row = work->columns * CHANNELS, apart = layer->dilation[1] * CHANNELS;
    channels_four four = {.height = (uint32_t)layer->kernel[0],
                          .width = (uint32_t)layer->kernel[1],
                          .below = layer->dilation[0] * row - layer->kernel[1] * apart,
                          .apart = apart,
                          .zero = layer->output_zero};
    for (int32_t c = first; c < ep_smaller(first + CHANNELS, channels); c += 4) {
        four.weights = work->weights + c - first;
        four.there = vctp32q((uint32_t)(channels - c));
        four.bias = vldrwq_z_s32(layer->bias + c, four.there);
        four.scales = ep_scales_of(layer->multiplier + c, layer->shift + c, four.there);
        convolve(layer, &four, work->rows + c - first, layer->stride[0] * row, rows, output + c);
    }
}

void ep_depthwise_conv_2d(const ep_depthwise *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const workspace work = divide(layer, scratch);
    const int32_t height = layer->output[0], channels = layer->output[2], stride = layer->stride[0];
    const int32_t reach = (layer->kernel[0] - 1) * layer->dilation[0] + 1, row = work.columns * CHANNELS;
    for (int32_t batch = 0; batch < layer->batches; ++batch) {
        for (int32_t first = 0; first < channels; first += CHANNELS) {
            int32_t at = 0, loaded = 0; /* rows counted from the first of the padding; `rows` holds those from `at` */
            decode_eight(layer, &work, first, work.weights);
            if (first + 8 < channels)
                decode_eight(layer, &work, first + 8, work.weights + 8);
            for (int32_t y = 0; y < height; y += layer->block) {
                const int32_t end = ep_smaller(y + layer->block, height), kept = loaded - y * stride;
                if (kept > 0)
                    memmove(work.rows, work.rows + (y * stride - at) * row, (size_t)(kept * row));
                at = y * stride;
                loaded = kept > 0 ? loaded : at;
                for (; loaded < (end - 1) * stride + reach; ++loaded)
                    load_row(layer, &work, input, loaded - layer->before[0], first, work.rows + (loaded - at) * row);
                convolve_block(layer, &work, first, end - y, output + y * layer->output[1] * channels);
            }
        }
        ep_clamp_all(output, height * layer->output[1] * channels, layer->least, layer->most);
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += height * layer->output[1] * channels;
    }
}

#else

/* what one call works with */
typedef struct {
    uint32_t *weights; /* (kernel height, kernel width, 4) pairs of two channels */
    uint32_t *pairs;   /* table of what two indices name */
    uint32_t *rows;    /* (4 pairs, held, columns) input rows, two channels to a word */
    int32_t held, columns;
    int32_t taps;
} workspace;

static workspace divide(const ep_depthwise *layer, void *scratch)
{
    workspace work;
    work.columns = (layer->output[1] - 1) * layer->stride[1] + (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    work.held = (layer->block - 1) * layer->stride[0] + (layer->kernel[0] - 1) * layer->dilation[0] + 1;
    work.taps = layer->kernel[0] * layer->kernel[1];
    work.weights = scratch;
    work.pairs = work.weights + EP_DEPTHWISE_CHANNELS / 2 * work.taps;
    work.rows = work.pairs + (layer->weights.stride ? 0 : EP_TABLE_WORDS(layer->weights.bits));
    return work;
}

static inline uint32_t halves(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xffffu) | (uint32_t)high << 16;
}

/* `count` output channels from `first` of one row of the input, its zero point around it. to: of the first pair. */
static void load_row(const ep_depthwise *layer, const workspace *work, const int8_t *input, int32_t row, int32_t first,
                     int32_t count, uint32_t *to)
{
    const int32_t width = layer->input[1], channels = layer->input[2], multiple = layer->multiple;
    const uint32_t zeros = halves(layer->input_zero, layer->input_zero);
    const int32_t plane = work->held * work->columns, before = layer->before[1];
    const int32_t start = row < 0 || row >= layer->input[0] ? work->columns : before;
    const int32_t end = ep_smaller(work->columns, before + width);
    for (int32_t pair = 0; pair < EP_DEPTHWISE_CHANNELS / 2; ++pair) {
        for (int32_t x = 0; x < start; ++x)
            to[pair * plane + x] = zeros;
        for (int32_t x = end; x < work->columns; ++x)
            to[pair * plane + x] = zeros;
    }
    if (multiple == 1 && count == EP_DEPTHWISE_CHANNELS) {
        for (int32_t x = start; x < end; ++x) {
            union {
                int16_t values[EP_DEPTHWISE_CHANNELS];
                uint32_t pairs[EP_DEPTHWISE_CHANNELS / 2];
            } wide;
            ep_widen(input + (row * width + x - before) * channels + first, EP_DEPTHWISE_CHANNELS, wide.values);
            for (int32_t pair = 0; pair < EP_DEPTHWISE_CHANNELS / 2; ++pair)
                to[pair * plane + x] = wide.pairs[pair];
        }
        return;
    }
    for (int32_t x = start; x < end; ++x) {
        const int8_t *from = input + (row * width + x - before) * channels;
        for (int32_t c = 0; c < EP_DEPTHWISE_CHANNELS; c += 2) {
            /* what a last block leaves unused is never stored */
            const int32_t low = first + ep_smaller(c, count - 1), high = first + ep_smaller(c + 1, count - 1);
            to[c / 2 * plane + x] = halves(from[low / multiple], from[high / multiple]);
        }
    }
}

static void decode_block(const ep_depthwise *layer, const workspace *work, int32_t first)
{
    const ep_weights *weights = &layer->weights;
    const ep_tables tables = {weights->tables, weights->tables, work->pairs, work->pairs};
    const int32_t start = first * work->taps;
    if (!weights->stride) {
        ep_decode(weights, start / 8, work->taps, &tables, work->weights);
        return;
    }
    /* every channel has a table of its own */
    for (int32_t n = 0; n < EP_DEPTHWISE_CHANNELS / 2 * work->taps; ++n) {
        const int32_t channel = ep_smaller(first + n % 4 * 2, layer->output[2] - 1);
        const int32_t next = ep_smaller(channel + 1, layer->output[2] - 1);
        work->weights[n] = ep_pair_of(ep_weight_at(weights, start + 2 * n, channel), ep_weight_at(weights, start + 2 * n + 1, next));
    }
}

/* two channels' part in every output */
typedef struct {
    const uint32_t *weights; /* (height, width), every fourth */
    int32_t height, width, apart, below; /* words from tap to tap, right and down */
    int32_t bias[2];
    ep_scale scale[2];
} channels_two;

/* Sums of two channels of two pixels: channel 0 of both pixels, channel 1 of both. x0, x1: the first taps. */
static inline void window_sums(const channels_two *two, const uint32_t *x0, const uint32_t *x1, int32_t sums[4])
{
    int32_t s0 = two->bias[0], s1 = s0, s2 = two->bias[1], s3 = s2;
    const uint32_t *w = two->weights;
    const int32_t below = two->below, apart = two->apart;
    if (two->width == 3 && apart == 1) {
        for (int32_t i = two->height; i > 0; --i, w += 12, x0 += below, x1 += below) {
            const uint32_t a = w[0], b = w[4], c = w[8];
            uint32_t x = x0[0], y = x0[1], z = x0[2];
            s0 = ep_dot_low(c, z, ep_dot_low(b, y, ep_dot_low(a, x, s0)));
            s2 = ep_dot_high(c, z, ep_dot_high(b, y, ep_dot_high(a, x, s2)));
            x = x1[0], y = x1[1], z = x1[2];
            s1 = ep_dot_low(c, z, ep_dot_low(b, y, ep_dot_low(a, x, s1)));
            s3 = ep_dot_high(c, z, ep_dot_high(b, y, ep_dot_high(a, x, s3)));
        }
    } else {
        for (int32_t i = two->height; i > 0; --i, x0 += below, x1 += below)
            for (int32_t j = 0; j < two->width; ++j, w += 4) {
                s0 = ep_dot_low(*w, x0[j * apart], s0);
                s2 = ep_dot_high(*w, x0[j * apart], s2);
                s1 = ep_dot_low(*w, x1[j * apart], s1);
                s3 = ep_dot_high(*w, x1[j * apart], s3);
            }
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

/* two channels of two pixels, where the layer is fast */
EP_APART static void convolve_four(const channels_two *two, const uint32_t *x0, const uint32_t *x1, int8_t *first,
                                   int8_t *second)
{
    int32_t sums[4];
    window_sums(two, x0, x1, sums);
    first[0] = ep_saturate(ep_apply(two->scale[0], sums[0]));
    second[0] = ep_saturate(ep_apply(two->scale[0], sums[1]));
    first[1] = ep_saturate(ep_apply(two->scale[1], sums[2]));
    second[1] = ep_saturate(ep_apply(two->scale[1], sums[3]));
}

/* two channels of `rows` rows of outputs, whose input rows lie at `pixels` */
static void convolve(const ep_depthwise *layer, const workspace *work, int32_t channel, const uint32_t *weights,
                     const uint32_t *pixels, int32_t rows, int8_t *output)
{
    const int32_t channels = layer->output[2], step = layer->stride[1];
    const int32_t other = channel + 1 < channels ? channel + 1 : channel, fast = layer->fast && other > channel;
    channels_two two = {weights,
                        layer->kernel[0],
                        layer->kernel[1],
                        layer->dilation[1],
                        layer->dilation[0] * work->columns,
                        {layer->bias[channel], layer->bias[other]},
                        {{0, 0, 0}, {0, 0, 0}}};
    output += channel;
    if (fast) {
        two.scale[0] = ep_scale_of(layer->multiplier[channel], layer->shift[channel], layer->output_zero);
        two.scale[1] = ep_scale_of(layer->multiplier[other], layer->shift[other], layer->output_zero);
    }
    if (fast && layer->output[1] % 2) {
        /* pairs of pixels one above the other, so that none is left over at the end of each row */
        const int32_t down = layer->stride[0] * work->columns, line = layer->output[1] * channels;
        for (; rows > 1; rows -= 2, pixels += 2 * down, output += line)
            for (int32_t x = 0; x < layer->output[1]; ++x, output += channels)
                convolve_four(&two, pixels + x * step, pixels + down + x * step, output, output + line);
    }
    for (; rows > 0; --rows, pixels += layer->stride[0] * work->columns) {
        const uint32_t *x = pixels;
        int8_t unused[2];
        for (int32_t left = layer->output[1]; left > 0; left -= 2, x += 2 * step) {
            const int32_t both = left > 1;
            if (fast) {
                convolve_four(&two, x, both ? x + step : x, output, both ? output + channels : unused);
                output += channels << both;
                continue;
            }
            int32_t sums[4];
            window_sums(&two, x, both ? x + step : x, sums);
            for (int32_t n = 0; n < 1 + both; ++n, output += channels) {
                output[other - channel] = finish(layer, sums[2 + n], layer->multiplier[other], layer->shift[other]);
                output[0] = finish(layer, sums[n], layer->multiplier[channel], layer->shift[channel]);
            }
        }
    }
}

void ep_depthwise_conv_2d(const ep_depthwise *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const workspace work = divide(layer, scratch);
    const int32_t height = layer->output[0], channels = layer->output[2], stride = layer->stride[0];
    const int32_t reach = (layer->kernel[0] - 1) * layer->dilation[0] + 1, plane = work.held * work.columns;
    if (!layer->weights.stride && layer->weights.bits < 8)
        ep_prepare_table(layer->weights.tables, layer->weights.bits, work.pairs);
    for (int32_t batch = 0; batch < layer->batches; ++batch) {
        for (int32_t first = 0; first < channels; first += EP_DEPTHWISE_CHANNELS) {
            const int32_t count = ep_smaller(EP_DEPTHWISE_CHANNELS, channels - first);
            int32_t at = 0, loaded = 0; /* rows counted from the first of the padding; `rows` holds those from `at` */
            decode_block(layer, &work, first);
            for (int32_t y = 0; y < height; y += layer->block) {
                const int32_t end = ep_smaller(y + layer->block, height), kept = loaded - y * stride;
                for (int32_t pair = 0; kept > 0 && pair < EP_DEPTHWISE_CHANNELS / 2; ++pair)
                    memmove(work.rows + pair * plane, work.rows + pair * plane + (y * stride - at) * work.columns,
                            (size_t)(kept * work.columns) * sizeof *work.rows);
                at = y * stride;
                loaded = kept > 0 ? loaded : at;
                for (; loaded < (end - 1) * stride + reach; ++loaded)
                    load_row(layer, &work, input, loaded - layer->before[0], first, count,
                             work.rows + (loaded - at) * work.columns);
                for (int32_t c = 0; c < count; c += 2)
                    convolve(layer, &work, first + c, work.weights + c / 2, work.rows + c / 2 * plane, end - y,
                             output + y * layer->output[1] * channels);
            }
        }
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += height * layer->output[1] * channels;
    }
}

#endif
#endif
