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

/* output channels that share a pass over the input */
#define CHANNELS 16

#if defined(EP_DSP) && !defined(EP_MVE) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)
#define BY_HALVES 1
typedef int16_t held; /* a decoded weight: SMLABB and its like multiply int16 */
#else
typedef int8_t held;
#endif

/* what one call works with */
typedef struct {
    held *weights; /* (kernel height, kernel width, 16) */
    int8_t *rows;  /* (those of a block, columns, 16) input rows */
    int32_t columns, taps;
} workspace;

static workspace divide(const ep_depthwise *layer, void *scratch)
{
    workspace work;
    work.columns = (layer->output[1] - 1) * layer->stride[1] + (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    work.taps = layer->kernel[0] * layer->kernel[1];
    work.weights = scratch;
    work.rows = (int8_t *)(work.weights + CHANNELS * work.taps);
    return work;
}

#ifdef EP_MVE

static inline void fill(int8_t *to, int32_t value, int32_t columns)
{
    for (; columns > 0; --columns, to += CHANNELS)
        vstrbq_s8(to, vdupq_n_s8((int8_t)value));
}

/* `count` pixels of output channels from `first`. from: the first one's input. */
static inline void load_pixels(const ep_depthwise *layer, const int8_t *from, int32_t first, int32_t count, int8_t *to)
{
    const int32_t channels = layer->input[2], multiple = layer->multiple;
    const mve_pred16_t there = vctp8q((uint32_t)(layer->output[2] - first));
    uint8_t places[CHANNELS]; /* of each output channel's input, counted from the first's */
    if (multiple == 1) {
        for (; count > 0; --count, from += channels, to += CHANNELS)
            vstrbq_s8(to, vldrbq_z_s8(from, there));
        return;
    }
    for (int32_t c = 0; c < CHANNELS; ++c)
        places[c] = (uint8_t)((first + c) / multiple - first / multiple);
    for (; count > 0; --count, from += channels, to += CHANNELS)
        vstrbq_s8(to, vldrbq_gather_offset_z_s8(from, vldrbq_u8(places), there));
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

#else

#if defined(__GNUC__)
#define ON_WORDS(bytes) __builtin_assume_aligned(bytes, 4)
#else
#define ON_WORDS(bytes) (bytes)
#endif

static inline void fill(int8_t *to, int32_t value, int32_t columns)
{
    const uint32_t four = ((uint32_t)value & 0xffu) * 0x01010101u, words[CHANNELS / 4] = {four, four, four, four};
    for (; columns > 0; --columns, to += CHANNELS)
        memcpy(ON_WORDS(to), words, CHANNELS);
}

/* `count` pixels of output channels from `first`; what is left over of a last pass is never stored. from: the first one's input. */
EP_APART static void load_pixels(const ep_depthwise *layer, const int8_t *from, int32_t first, int32_t count, int8_t *to)
{
    const int32_t channels = layer->input[2], multiple = layer->multiple;
    const int32_t there = ep_smaller(CHANNELS, layer->output[2] - first);
    uint8_t places[CHANNELS]; /* of each output channel's input, counted from the first's */
    if (multiple == 1 && channels % 4 == 0) {
        for (; count > 0; --count, from += channels, to += CHANNELS)
            if (there == CHANNELS)
                memcpy(ON_WORDS(to), ON_WORDS(from), CHANNELS);
            else
                for (int32_t c = 0; c < there; c += 4)
                    memcpy(ON_WORDS(to + c), ON_WORDS(from + c), 4);
        return;
    }
    for (int32_t c = 0; c < there; ++c)
        places[c] = (uint8_t)((first + c) / multiple - first / multiple);
    for (; count > 0; --count, from += channels, to += CHANNELS)
        for (int32_t c = 0; c < there; ++c)
            to[c] = from[places[c]];
}

/* indices of 4 bits and a table all channels share */
static inline void decode_bytes(const uint8_t *data, const int8_t *table, held *to)
{
    const uint32_t a = data[0], b = data[1], c = data[2], d = data[3];
    to[0] = table[a >> 4], to[1] = table[a & 15];
    to[2] = table[b >> 4], to[3] = table[b & 15];
    to[4] = table[c >> 4], to[5] = table[c & 15];
    to[6] = table[d >> 4], to[7] = table[d & 15];
}

/* indices of any width but 8. tables: of `count` channels, `stride` entries apart. */
static inline void decode_any(const uint8_t *data, int32_t bits, const int8_t *tables, int32_t stride, int32_t count, held *to)
{
    uint32_t read = 0;
    int32_t left = 0; /* bits of `read` that are still to be used */
    for (int32_t n = 0; n < count; ++n, tables += stride) {
        if (left < bits)
            read = read << 8 | *data++, left += 8;
        left -= bits;
        to[n] = tables[read >> left & ((1u << bits) - 1)];
    }
}

/* eight channels' weights, or those that are left */
EP_APART static void decode_eight(const ep_depthwise *layer, const workspace *work, int32_t first, held *to)
{
    const ep_weights *weights = &layer->weights;
    const int32_t bits = weights->bits, stride = weights->stride, count = ep_smaller(8, layer->output[2] - first);
    const uint8_t *data = weights->data + first / 8 * work->taps * bits;
    const int8_t *tables = weights->tables + first * stride;
    for (int32_t tap = work->taps; tap > 0; --tap, to += CHANNELS, data += bits) {
        if (bits == 4 && stride == 0)
            decode_bytes(data, tables, to);
        else if (bits < 8)
            decode_any(data, bits, tables, stride, count, to);
        else
            for (int32_t n = 0; n < 8; ++n)
                to[n] = (int8_t)data[n];
    }
}

/* what four channels, or those that are left, do to every output */
typedef struct {
    const held *weights;
    int32_t height, width;
    int32_t below, apart;   /* bytes from the end of a kernel row to the next, from tap to tap */
    int32_t step, channels; /* bytes from pixel to pixel, of the input and of the output */
    int32_t bias[4];
    ep_scale scale[4];
} channels_four;

/* The products of tap number `tap`, which is `column` pixels right of x: of four channels. x: on a border of 4 bytes. */
EP_INLINE void add_products(const held *w, const int8_t *x, int tap, int column, int32_t sums[4])
{
#ifdef BY_HALVES
    uint32_t first, second, even, odd;
    __asm__ volatile("ldr %[even], [%[x], %[right]]\n"
                     "ldrd %[first], %[second], [%[w], %[at]]\n"
                     "sxtb16 %[odd], %[even], ror #8\n"
                     "sxtb16 %[even], %[even]\n"
                     "smlabb %[s0], %[first], %[even], %[s0]\n"
                     "smlatb %[s1], %[first], %[odd], %[s1]\n"
                     "smlabt %[s2], %[second], %[even], %[s2]\n"
                     "smlatt %[s3], %[second], %[odd], %[s3]\n"
                     : [s0] "+r"(sums[0]), [s1] "+r"(sums[1]), [s2] "+r"(sums[2]), [s3] "+r"(sums[3]),
                       [first] "=&r"(first), [second] "=&r"(second), [even] "=&r"(even), [odd] "=&r"(odd)
                     : [w] "r"(w), [x] "r"(x), [at] "i"(tap * CHANNELS * 2), [right] "i"(column * CHANNELS)
                     : "memory");
#else
    w += tap * CHANNELS, x += column * CHANNELS;
    sums[0] = ep_sum(sums[0], w[0] * x[0]);
    sums[1] = ep_sum(sums[1], w[1] * x[1]);
    sums[2] = ep_sum(sums[2], w[2] * x[2]);
    sums[3] = ep_sum(sums[3], w[3] * x[3]);
#endif
}

/* x: the first tap. square: whether the kernel is 3 × 3 and its taps lie side by side. */
EP_INLINE void window_sums(const channels_four *four, const int8_t *x, int square, int32_t sums[4])
{
    int32_t s[4] = {four->bias[0], four->bias[1], four->bias[2], four->bias[3]};
    const held *w = four->weights;
    if (square) {
        const int32_t below = four->below + 3 * CHANNELS;
        add_products(w, x, 0, 0, s);
        add_products(w, x, 1, 1, s);
        add_products(w, x, 2, 2, s);
        x += below;
        add_products(w, x, 3, 0, s);
        add_products(w, x, 4, 1, s);
        add_products(w, x, 5, 2, s);
        x += below;
        add_products(w, x, 6, 0, s);
        add_products(w, x, 7, 1, s);
        add_products(w, x, 8, 2, s);
    } else {
        for (int32_t row = four->height; row > 0; --row, x += four->below)
            for (int32_t n = four->width; n > 0; --n, w += CHANNELS, x += four->apart)
                add_products(w, x, 0, 0, s);
    }
    sums[0] = s[0], sums[1] = s[1], sums[2] = s[2], sums[3] = s[3];
}

EP_INLINE void convolve_any(const channels_four *four, const int8_t *pixel, int square, int8_t *output, int32_t count)
{
    for (; count > 0; --count, pixel += four->step, output += four->channels) {
        int32_t sums[4];
        window_sums(four, pixel, square, sums);
        output[0] = ep_saturate(ep_apply(four->scale[0], sums[0]));
        output[1] = ep_saturate(ep_apply(four->scale[1], sums[1]));
        output[2] = ep_saturate(ep_apply(four->scale[2], sums[2]));
        output[3] = ep_saturate(ep_apply(four->scale[3], sums[3]));
    }
}

/* `count` outputs of a row, where the layer is fast. pixel: the first one's first tap. */
EP_APART static void convolve_row(const channels_four *four, const int8_t *pixel, int8_t *output, int32_t count)
{
    if (four->height == 3 && four->width == 3 && four->apart == CHANNELS)
        convolve_any(four, pixel, 1, output, count);
    else
        convolve_any(four, pixel, 0, output, count);
}

/* channels from `first` of a block of output rows */
static void convolve_block(const ep_depthwise *layer, const workspace *work, int32_t first, int32_t rows, int8_t *output)
{
    const int32_t channels = layer->output[2], width = layer->output[1], row = work->columns * CHANNELS;
    const int32_t apart = layer->dilation[1] * CHANNELS;
    channels_four four = {.height = layer->kernel[0],
                          .width = layer->kernel[1],
                          .below = layer->dilation[0] * row - layer->kernel[1] * apart,
                          .apart = apart,
                          .step = layer->stride[1] * CHANNELS,
                          .channels = channels};
    for (int32_t c = first; c < ep_smaller(first + CHANNELS, channels); c += 4) {
        const int32_t there = ep_smaller(4, channels - c), fast = layer->fast && there == 4;
        const int8_t *pixels = work->rows + c - first;
        int8_t *to = output + c;
        four.weights = work->weights + c - first;
        for (int32_t n = 0; n < there; ++n) {
            four.bias[n] = layer->bias[c + n];
            if (fast)
                four.scale[n] = ep_scale_of(layer->multiplier[c + n], layer->shift[c + n], layer->output_zero);
        }
        for (int32_t y = 0; y < rows; ++y, pixels += layer->stride[0] * row, to += width * channels) {
            if (fast) {
                convolve_row(&four, pixels, to, width);
                continue;
            }
            for (int32_t x = 0; x < width; ++x) {
                int32_t sums[4];
                window_sums(&four, pixels + x * four.step, 0, sums);
                for (int32_t n = 0; n < there; ++n)
                    to[x * channels + n] = finish(layer, sums[n], layer->multiplier[c + n], layer->shift[c + n]);
            }
        }
    }
}

#endif

/* output channels from `first` of one row of the input, its zero point around it */
static void load_row(const ep_depthwise *layer, const workspace *work, const int8_t *input, int32_t row, int32_t first, int8_t *to)
{
    const int32_t width = layer->input[1], channels = layer->input[2], before = layer->before[1];
    const int32_t last = ep_smaller(width, work->columns - before);
    if (row < 0 || row >= layer->input[0]) {
        fill(to, layer->input_zero, work->columns);
        return;
    }
    fill(to, layer->input_zero, before);
    fill(to + (before + last) * CHANNELS, layer->input_zero, work->columns - before - last);
    load_pixels(layer, input + row * width * channels + first / layer->multiple, first, last, to + before * CHANNELS);
}

void ep_depthwise_conv_2d(const ep_depthwise *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const workspace work = divide(layer, scratch);
    const int32_t height = layer->output[0], channels = layer->output[2], stride = layer->stride[0];
    const int32_t reach = (layer->kernel[0] - 1) * layer->dilation[0] + 1, row = work.columns * CHANNELS;
    for (int32_t batch = 0; batch < layer->batches; ++batch) {
        for (int32_t first = 0; first < channels; first += CHANNELS) {
            int32_t at = 0, loaded = 0; /* rows counted from the first of the padding; `rows` holds those from `at` */
            for (int32_t c = 0; c < CHANNELS && first + c < channels; c += 8)
                decode_eight(layer, &work, first + c, work.weights + c);
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
#ifdef EP_MVE
        ep_clamp_all(output, height * layer->output[1] * channels, layer->least, layer->most);
#endif
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += height * layer->output[1] * channels;
    }
}

#endif
