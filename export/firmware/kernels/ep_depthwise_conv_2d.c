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

/* output channels of a pixel at a time */
#define LANES 8

/* theirs, or those of as many as are left: of even numbers, of odd */
typedef struct {
    int32x4_t bias[2];
    ep_scales scales[2];
    mve_pred16_t there;
} channel_numbers;

#else

#define LANES 4

/* fast: whether `scale` is of use */
typedef struct {
    int32_t first, there, fast;
    int32_t bias[LANES];
    ep_scale scale[LANES];
} channel_numbers;

#endif

/* some channels of a block of output rows; all but numbers of something in bytes */
typedef struct {
    channel_numbers of;
    const held *weights;
    int32_t height, width;  /* of the kernel */
    int32_t below, apart;   /* from the end of a kernel row to the next, from tap to tap */
    int32_t rows, count;    /* of outputs, and in each */
    int32_t step, channels; /* from pixel to pixel, of the input and of the output */
    int32_t next;           /* from the end of a row of pixels to the next, of the input */
} group;

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
    const int32_t bits = weights->bits;
    const ep_decoder by = ep_decoder_of(bits, vmulq_n_u16(channel, weights->stride));
    const int8_t *tables = weights->tables + first * weights->stride;
    const uint8_t *data = weights->data + first / 8 * work->taps * bits;
    for (int32_t tap = work->taps; tap > 0; --tap, data += bits, to += CHANNELS)
        vstrbq_s16(to, ep_decode_eight(&by, bits, data, tables));
}

static void prepare(const ep_depthwise *layer, int32_t first, channel_numbers *of)
{
    const uint32x4_t even = vidupq_n_u32(0, 2);
    const int32_t left = ep_smaller(LANES, layer->output[2] - first);
    of->there = vctp16q((uint32_t)left);
    for (int32_t odd = 0; odd < 2; ++odd) {
        const uint32x4_t channel = vaddq_n_u32(even, (uint32_t)(first + odd));
        const mve_pred16_t there = vctp32q((uint32_t)(left + 1 - odd) / 2);
        const int32x4_t shift = vldrbq_gather_offset_z_s32(layer->shift, channel, there), none = vdupq_n_s32(0);
        of->bias[odd] = vldrwq_gather_shifted_offset_z_s32(layer->bias, channel, there);
        of->scales[odd].multiplier = vldrwq_gather_shifted_offset_z_s32(layer->multiplier, channel, there);
        of->scales[odd].left = vmaxq_s32(shift, none);
        of->scales[odd].right = vminq_s32(shift, none);
    }
}

/* one tap */
static inline void add_products(const int8_t *w, const int8_t *x, int32x4_t *even, int32x4_t *odd)
{
    const int16x8_t v = vldrbq_s16(w), u = vldrbq_s16(x);
    *even = vaddq_s32(*even, vmullbq_int_s16(v, u));
    *odd = vaddq_s32(*odd, vmulltq_int_s16(v, u));
}

/* keeps GCC from mixing taps, for which it lacks registers */
#if defined(__GNUC__)
#define IN_ORDER(a, b, c, d) __asm__("" : "+r"(a), "+r"(b), "+w"(c), "+w"(d))
#else
#define IN_ORDER(a, b, c, d)
#endif

/* pixel: the first output's first tap */
EP_APART static void convolve(const group *at, const ep_depthwise *layer, const int8_t *pixel, int8_t *output)
{
    const int16x8_t least = vdupq_n_s16(layer->least), most = vdupq_n_s16(layer->most);
    const int16_t zero = layer->output_zero;
    for (int32_t y = at->rows; y > 0; --y, pixel += at->next)
        for (int32_t left = at->count; left > 0; --left, pixel += at->step, output += at->channels) {
            const int8_t *w = at->weights, *x = pixel;
            int32x4_t even = at->of.bias[0], odd = at->of.bias[1];
            uint32_t row = (uint32_t)at->height;
            if (at->width == 3 && at->apart == CHANNELS)
                do {
                    add_products(w, x, &even, &odd);
                    IN_ORDER(w, x, even, odd);
                    add_products(w + CHANNELS, x + CHANNELS, &even, &odd);
                    IN_ORDER(w, x, even, odd);
                    add_products(w + 2 * CHANNELS, x + 2 * CHANNELS, &even, &odd);
                    w += 3 * CHANNELS, x += 3 * CHANNELS + at->below;
                    IN_ORDER(w, x, even, odd);
                } while (--row);
            else
                do {
                    uint32_t n = (uint32_t)at->width;
                    do {
                        add_products(w, x, &even, &odd);
                        w += CHANNELS, x += at->apart;
                        IN_ORDER(w, x, even, odd);
                    } while (--n);
                    x += at->below;
                } while (--row);
            EP_IN_REGISTERS(at, output); /* or GCC would keep the address of every field */
            even = ep_requantize_four(at->of.scales[0], even), odd = ep_requantize_four(at->of.scales[1], odd);
            int16x8_t both = vqmovntq_s32(vqmovnbq_s32(vreinterpretq_s16_s32(even), even), odd);
            both = vminq_s16(vmaxq_s16(vqaddq_n_s16(both, zero), least), most);
            vstrbq_p_s16(output, both, at->of.there);
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

static void prepare(const ep_depthwise *layer, int32_t first, channel_numbers *of)
{
    of->first = first, of->there = ep_smaller(LANES, layer->output[2] - first);
    of->fast = layer->fast && of->there == LANES;
    for (int32_t n = 0; n < LANES; ++n) {
        const int32_t c = ep_smaller(first + n, layer->output[2] - 1);
        of->bias[n] = layer->bias[c];
        if (of->fast)
            of->scale[n] = ep_scale_of(layer->multiplier[c], layer->shift[c], layer->output_zero);
    }
}

/* The products of tap number `tap`, which is `column` pixels right of x: of four channels. x: on a border of 4 bytes. */
EP_INLINE void add_products(const held *w, const int8_t *x, int tap, int column, int32_t sums[4])
{
#ifdef BY_HALVES
    uint32_t first, second, even, odd;
    __asm__ volatile("ldr %[even], [%[x], %[right]]\n"
                     "ldrd %[first], %[second], [%[w], %[down]]\n"
                     "sxtb16 %[odd], %[even], ror #8\n"
                     "sxtb16 %[even], %[even]\n"
                     "smlabb %[s0], %[first], %[even], %[s0]\n"
                     "smlatb %[s1], %[first], %[odd], %[s1]\n"
                     "smlabt %[s2], %[second], %[even], %[s2]\n"
                     "smlatt %[s3], %[second], %[odd], %[s3]\n"
                     : [s0] "+r"(sums[0]), [s1] "+r"(sums[1]), [s2] "+r"(sums[2]), [s3] "+r"(sums[3]),
                       [first] "=&r"(first), [second] "=&r"(second), [even] "=&r"(even), [odd] "=&r"(odd)
                     : [w] "r"(w), [x] "r"(x), [down] "i"(tap * CHANNELS * 2), [right] "i"(column * CHANNELS)
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
EP_INLINE void window_sums(const group *at, const int8_t *x, int square, int32_t sums[LANES])
{
    int32_t s[LANES] = {at->of.bias[0], at->of.bias[1], at->of.bias[2], at->of.bias[3]};
    const held *w = at->weights;
    if (square) {
        const int32_t below = at->below + 3 * CHANNELS;
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
        for (int32_t row = at->height; row > 0; --row, x += at->below)
            for (int32_t n = at->width; n > 0; --n, w += CHANNELS, x += at->apart)
                add_products(w, x, 0, 0, s);
    }
    sums[0] = s[0], sums[1] = s[1], sums[2] = s[2], sums[3] = s[3];
}

/* outputs of a layer that is fast */
EP_INLINE void convolve_fast(const group *at, const int8_t *pixel, int square, int8_t *output)
{
    for (int32_t y = at->rows; y > 0; --y, pixel += at->next)
        for (int32_t left = at->count; left > 0; --left, pixel += at->step, output += at->channels) {
            int32_t sums[LANES];
            window_sums(at, pixel, square, sums);
            output[0] = ep_saturate(ep_apply(at->of.scale[0], sums[0]));
            output[1] = ep_saturate(ep_apply(at->of.scale[1], sums[1]));
            output[2] = ep_saturate(ep_apply(at->of.scale[2], sums[2]));
            output[3] = ep_saturate(ep_apply(at->of.scale[3], sums[3]));
        }
}

/* pixel: the first output's first tap */
EP_APART static void convolve(const group *at, const ep_depthwise *layer, const int8_t *pixel, int8_t *output)
{
    if (at->of.fast && at->height == 3 && at->width == 3 && at->apart == CHANNELS) {
        convolve_fast(at, pixel, 1, output);
        return;
    }
    if (at->of.fast) {
        convolve_fast(at, pixel, 0, output);
        return;
    }
    for (int32_t y = at->rows; y > 0; --y, pixel += at->next)
        for (int32_t left = at->count; left > 0; --left, pixel += at->step, output += at->channels) {
            int32_t sums[LANES];
            window_sums(at, pixel, 0, sums);
            for (int32_t n = 0, c = at->of.first; n < at->of.there; ++n, ++c)
                output[n] = finish(layer, sums[n], layer->multiplier[c], layer->shift[c]);
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

/* channels from `first` of a block of output rows */
static void convolve_block(const ep_depthwise *layer, const workspace *work, int32_t first, int32_t rows, int8_t *output)
{
    const int32_t channels = layer->output[2], width = layer->output[1], row = work->columns * CHANNELS;
    const int32_t apart = layer->dilation[1] * CHANNELS, step = layer->stride[1] * CHANNELS;
    group at;
    at.height = layer->kernel[0], at.width = layer->kernel[1];
    at.below = layer->dilation[0] * row - layer->kernel[1] * apart, at.apart = apart;
    at.rows = rows, at.count = width;
    at.step = step, at.channels = channels;
    at.next = layer->stride[0] * row - width * step;
    for (int32_t c = 0; c < ep_smaller(CHANNELS, channels - first); c += LANES) {
        prepare(layer, first + c, &at.of);
        at.weights = work->weights + c;
        convolve(&at, layer, work->rows + c, output + first + c);
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
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += height * layer->output[1] * channels;
    }
}

#endif
