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

/* Rows or columns from output to output as they lie in scratch, where those that a kernel of one never reads are left out.
   axis: 0 down, 1 right. */
static inline int32_t held_step(const ep_conv *layer, int32_t axis)
{
    return layer->kernel[axis] > 1 ? layer->stride[axis] : 1;
}

#ifdef EP_MVE

typedef int8_t held;

/* what one call works with */
typedef struct {
    int8_t *weights; /* (kernel height, vectors, 4 channels, 16) of four output channels, zeros where there is no weight */
    held *rows;      /* (held, row) input rows of a block of outputs, and 16 bytes */
    int32_t row;     /* bytes of a row of pixels, padding included */
    int32_t columns; /* pixels of a row */
    int32_t down;    /* see held_step */
    int32_t right;
    int32_t vectors; /* of 16 products of a kernel row, the columns between those of a dilated one included */
} workspace;

static workspace divide(const ep_conv *layer, void *scratch)
{
    const int32_t reach = (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    workspace work;
    work.down = held_step(layer, 0), work.right = held_step(layer, 1);
    work.columns = (layer->output[1] - 1) * work.right + reach;
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
    const int32_t every = layer->stride[1] / work->right; /* pixels of the input are taken */
    const int32_t last = ep_smaller(every > 1 ? work->columns : layer->input[1], work->columns - before);
    const int8_t *from = input + row * layer->input[1] * channels;
    const int32_t inside = row >= 0 && row < layer->input[0];
    if (!inside || pitch != channels || last < work->columns)
        memset(to, layer->input_zero, (size_t)work->row);
    to += before * pitch;
    if (!inside)
        return;
    if (pitch == channels && every == 1)
        memcpy(to, from, (size_t)(last * channels));
    else
        for (int32_t x = 0; x < last; ++x, from += every * channels, to += pitch)
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

/* Outputs of a row. pixel: the first one's in the kernel's first row. fast: whether the layer is and all four channels are there. */
EP_INLINE void convolve(const channels_four *four, const int8_t *pixel, int8_t *output, int32_t count, int32_t fast)
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
        const int32x4_t sums = ep_four_of(s0, s1, s2, s3);
        if (fast) {
            const int32x4_t product = vqrdmulhq_s32(sums, scales.multiplier);
            vstrbq_s32(output, ep_saturate_four(vaddq_n_s32(ep_shift_right_four(product, scales.right), four->zero)));
        } else {
            vstrbq_p_s32(output, ep_saturate_four(vaddq_n_s32(ep_requantize_four(scales, sums), four->zero)), four->there);
        }
        pixel += four->step, output += four->channels;
    } while (output != end);
}

EP_APART static void convolve_fast(const channels_four *four, const int8_t *pixel, int8_t *output, int32_t count)
{
    convolve(four, pixel, output, count, 1);
}

EP_APART static void convolve_any(const channels_four *four, const int8_t *pixel, int8_t *output, int32_t count)
{
    convolve(four, pixel, output, count, 0);
}

/* convolve_fast where a filter is one vector: those of four channels stay in registers */
EP_APART static void convolve_vector(const channels_four *four, const int8_t *pixel, int8_t *output, int32_t count)
{
    const int8x16_t first = vldrbq_s8(four->weights), second = vldrbq_s8(four->weights + 16);
    const int8x16_t third = vldrbq_s8(four->weights + 32), fourth = vldrbq_s8(four->weights + 48);
    const int32x4_t bias = vldrwq_s32(four->bias);
    const int32_t step = four->step, channels = four->channels, zero = four->zero;
    do {
        const int8x16_t v = vldrbq_s8(pixel);
        const int32_t s0 = vmladavq_s8(first, v), s1 = vmladavq_s8(second, v);
        const int32_t s2 = vmladavq_s8(third, v), s3 = vmladavq_s8(fourth, v);
        const int32x4_t product = vqrdmulhq_s32(vaddq_s32(ep_four_of(s0, s1, s2, s3), bias), four->scales.multiplier);
        vstrbq_s32(output, ep_saturate_four(vaddq_n_s32(ep_shift_right_four(product, four->scales.right), zero)));
        pixel += step, output += channels;
    } while (--count);
}

/* all filters over a block of output rows, four at a time */
static void convolve_block(const ep_conv *layer, const workspace *work, int32_t rows, int8_t *output)
{
    const int32_t channels = layer->output[2], bytes = rows * layer->output[1] * channels;
    const int32_t down = work->down * work->row;
    /* rows of kernels of one column follow each other without a gap */
    const int32_t as_one = layer->output[1] * work->right * layer->pitch == down;
    const int32_t lines = as_one ? 1 : rows, width = layer->output[1] * (as_one ? rows : 1);
    channels_four four = {.weights = work->weights,
                          .vectors = (uint32_t)work->vectors,
                          .rows = (uint32_t)layer->kernel[0],
                          .below = layer->dilation[0] * work->row - 16 * work->vectors,
                          .step = work->right * layer->pitch,
                          .channels = channels,
                          .zero = layer->output_zero};
    const int32_t one = layer->kernel[0] * work->vectors == 1;
    for (int32_t c = 0; c < channels; c += 4) {
        const int32_t fast = layer->fast && c + 4 <= channels;
        four.there = vctp32q((uint32_t)(channels - c));
        four.scales = ep_scales_of(layer->multiplier + c, layer->shift + c, four.there);
        vstrwq_s32(four.bias, vldrwq_z_s32(layer->bias + c, four.there));
        decode_two(layer, work, c, work->weights);
        if (c + 2 < channels)
            decode_two(layer, work, c + 2, work->weights + 32);
        for (int32_t y = 0; y < lines; ++y) {
            const int8_t *const pixel = work->rows + y * down;
            int8_t *const to = output + y * width * channels + c;
            if (!fast)
                convolve_any(&four, pixel, to, width);
            else if (one)
                convolve_vector(&four, pixel, to, width);
            else
                convolve_fast(&four, pixel, to, width);
        }
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

#if defined(EP_DSP) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)
#define EP_CONV_ASM 1
#endif

/* One of the filters of 1×1 × 8, its weights in doubled pairs: 0 and 2, 1 and 3, 4 and 6, 5 and 7. */
typedef struct {
    uint32_t weights[4];
    int32_t bias; /* doubled */
    ep_scale scale;
} filter_of_eight;

/* what one call works with */
typedef struct {
    uint32_t *weights; /* (kernel height, span / 4, 2 channels, 2) pairs of two output channels; or see convolve_few */
    uint32_t *pairs;   /* tables of one channel and, if each has its own, of the next */
    uint32_t *others;
    held *rows;        /* (held, row) input rows of a block of outputs */
    int32_t row;       /* int16 of a row of pixels, padding included */
    int32_t columns;   /* pixels of a row */
    int32_t down;      /* see held_step */
    int32_t right;
    int32_t span;      /* products of a kernel row for one output */
} workspace;

static workspace divide(const ep_conv *layer, void *scratch)
{
    workspace work;
    const int32_t room = EP_TABLE_WORDS(layer->weights.bits);
    work.down = held_step(layer, 0), work.right = held_step(layer, 1);
    work.columns = (layer->output[1] - 1) * work.right + (layer->kernel[1] - 1) * layer->dilation[1] + 1;
    work.row = (work.columns * layer->pitch + 1) & ~1;
    work.span = layer->kernel[1] * layer->pitch;
    work.weights = (uint32_t *)scratch;
    work.pairs = work.weights + layer->kernel[0] * work.span;
#ifdef EP_CONV_ASM
    if (layer->few)
        work.pairs = work.weights + layer->output[2] * (int32_t)(sizeof(filter_of_eight) / sizeof *work.weights);
#endif
    work.others = layer->weights.stride ? work.pairs + room : work.pairs;
    work.rows = (int16_t *)(void *)(work.others + room);
    return work;
}

/* one row of the input, its zero point around it and in the channels a pitch adds */
static void load_row(const ep_conv *layer, const workspace *work, const int8_t *input, int32_t row, held *to)
{
    const int32_t width = layer->input[1], channels = layer->input[2], pitch = layer->pitch;
    const int32_t every = layer->stride[1] / work->right; /* pixels of the input are taken */
    const int32_t before = layer->before[1], last = ep_smaller(every > 1 ? work->columns : width, work->columns - before);
    const int32_t zero = layer->input_zero;
    const int8_t *from = input + row * width * channels;
    held *pixels = to + before * pitch;
    if (row < 0 || row >= layer->input[0]) {
        ep_fill(to, zero, work->row);
    } else {
        const int32_t whole = pitch == channels && every == 1, length = whole ? last * channels : channels;
        ep_fill(to, zero, before * pitch);
        for (int32_t n = whole ? 1 : last; n > 0; --n, from += every * channels, pixels += pitch) {
            ep_widen(from, length, pixels);
            ep_fill(pixels + channels, zero, pitch - channels);
        }
        ep_fill(to + (before + last) * pitch, zero, work->row - (before + last) * pitch);
    }
    ep_pair_inputs(to, work->row);
}

static void decode_two(const ep_conv *layer, const workspace *work, int32_t channel, uint32_t *to)
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
    ep_decode(weights, channel / 2 * groups, groups, &tables, to);
}

/* two channels' part in every output */
typedef struct {
    const uint32_t *weights;
    int32_t groups, rows, apart; /* see ep_dot_block */
    int32_t bias[2];
    ep_scale scale[2];
} channels_two;

/* Lines of pairs of pixels. Inputs are counted in int16, outputs in bytes. */
typedef struct {
    const int16_t *x0, *x1;       /* the first pair */
    int8_t *output;               /* of x0 */
    int32_t between;              /* from x0's output to x1's */
    int32_t pairs, step, advance; /* in a line; from pair to pair, of inputs and outputs */
    int32_t lines, down, line;    /* from line to line, of inputs and outputs */
} pixel_pairs;

#ifdef EP_CONV_ASM

/* ep_apply but for its last shift */
#define EP_SCALE(sum, multiplier, offset)                    \
    "lsl %[" sum "], %[" sum "], #1\n"                       \
    "add %[a], " offset ", %[" sum "], asr #31\n"            \
    "smmlar %[" sum "], %[" sum "], " multiplier ", %[a]\n"
#define EP_PAIRS(fours)                                      \
    "1:\n"                                                   \
    "ldrd %[s0], %[s2], %[bias]\n"                           \
    "mov %[s1], %[s0]\n"                                     \
    "mov %[s3], %[s2]\n"                                     \
    "2:\n" fours                                             \
    "cmp %[w], %[end]\n"                                     \
    "bne 2b\n"                                               \
    "ldr r4, %[last]\n"                                      \
    "cmp %[w], r4\n"                                         \
    "beq 3f\n"                                               \
    "ldrd r4, r5, %[gaps]\n"                                 \
    "add %[x0], %[x0], r4\n"                                 \
    "add %[x1], %[x1], r4\n"                                 \
    "add %[end], %[end], r5\n"                               \
    "b 2b\n"                                                 \
    "3:\n"                                                   \
    "ldrd r4, r5, %[first]\n"                                \
    "ldrd r6, r8, %[second]\n"                               \
    EP_SCALE("s0", "r4", "r5") EP_SCALE("s1", "r4", "r5")    \
    EP_SCALE("s2", "r6", "r8") EP_SCALE("s3", "r6", "r8")    \
    "ldrd %[a], %[b], %[right]\n"                            \
    "asr %[s0], %[s0], %[a]\n"                               \
    "asr %[s1], %[s1], %[a]\n"                               \
    "asr %[s2], %[s2], %[b]\n"                               \
    "asr %[s3], %[s3], %[b]\n"                               \
    "ssat %[s0], #8, %[s0]\n"                                \
    "ssat %[s1], #8, %[s1]\n"                                \
    "ssat %[s2], #8, %[s2]\n"                                \
    "ssat %[s3], #8, %[s3]\n"                                \
    "ldrd r4, r5, %[output]\n"                               \
    "ldrd r6, r8, %[steps]\n"                                \
    "add r5, r4, r5\n"                                       \
    "strb %[s0], [r4]\n"                                     \
    "strb %[s2], [r4, #1]\n"                                 \
    "strb %[s1], [r5]\n"                                     \
    "strb %[s3], [r5, #1]\n"                                 \
    "add r4, r4, r6\n"                                       \
    "str r4, %[output]\n"                                    \
    "add %[x0], %[x0], r8\n"                                 \
    "add %[x1], %[x1], r8\n"                                 \
    "ldrd %[w], %[end], %[row]\n"                            \
    "ldr r4, %[x_end]\n"                                     \
    "cmp %[x0], r4\n"                                        \
    "bne 1b\n"
#define EP_PAIRS_WITH                                                                                            \
    : [w] "+r"(w), [x0] "+r"(x0), [x1] "+r"(x1), [end] "+r"(end), [a] "=&r"(a), [b] "=&r"(b), [s0] "=&r"(s0),    \
      [s1] "=&r"(s1), [s2] "=&r"(s2), [s3] "=&r"(s3), [output] "+m"(output)                                      \
    : [bias] "m"(bias), [last] "m"(last), [gaps] "m"(gaps), [first] "m"(first), [second] "m"(second),            \
      [right] "m"(right), [steps] "m"(steps), [row] "m"(row), [x_end] "m"(x_end)                                 \
    : "r4", "r5", "r6", "r8", "cc", "memory"

/* What the C below says, in 44 instructions a pair beside its products: sums never leave registers, all else that a pair needs
   lies on the stack, from where two words are one load. */
EP_APART static void convolve_pairs(const channels_two *two, const pixel_pairs *run)
{
    const int32_t span = 8 * two->groups, apart = 2 * two->apart;
    const int32_t gaps[2] = {apart - span, 2 * span}, bias[2] = {two->bias[0], two->bias[1]};
    const int32_t first[2] = {two->scale[0].multiplier, two->scale[0].offset};
    const int32_t second[2] = {two->scale[1].multiplier, two->scale[1].offset};
    const int32_t right[2] = {two->scale[0].right, two->scale[1].right};
    const int32_t steps[2] = {run->advance, 2 * run->step - (two->rows - 1) * apart - span};
    const uint32_t *const row[2] = {two->weights, two->weights + span / 2}, *const last = row[0] + two->rows * span / 2;
    for (int32_t line = 0; line < run->lines; ++line) {
        struct {
            int8_t *at;
            int32_t between;
        } output = {run->output + line * run->line, run->between};
        const int16_t *x0 = run->x0 + line * run->down, *x1 = run->x1 + line * run->down;
        const int16_t *const x_end = x0 + run->pairs * run->step;
        const uint32_t *w = row[0], *end = row[1];
        int32_t s0, s1, s2, s3;
        uint32_t a, b;
        if (two->groups & 1)
            __asm__ volatile(EP_PAIRS(EP_FOUR) EP_PAIRS_WITH);
        else
            __asm__ volatile(EP_PAIRS(EP_FOUR EP_FOUR) EP_PAIRS_WITH);
    }
}

#else

/* two channels of two pixels */
EP_APART static void convolve_four(const channels_two *two, const int16_t *x0, const int16_t *x1, int8_t *first, int8_t *second)
{
    int32_t sums[4] = {two->bias[0], two->bias[0], two->bias[1], two->bias[1]};
    ep_dot_block(two->weights, x0, x1, two->groups, two->rows, two->apart, sums);
    first[0] = ep_saturate(ep_apply(two->scale[0], sums[0]));
    second[0] = ep_saturate(ep_apply(two->scale[0], sums[1]));
    first[1] = ep_saturate(ep_apply(two->scale[1], sums[2]));
    second[1] = ep_saturate(ep_apply(two->scale[1], sums[3]));
}

/* two channels of many pairs of pixels, where the layer is fast */
static void convolve_pairs(const channels_two *two, const pixel_pairs *run)
{
    for (int32_t line = 0; line < run->lines; ++line) {
        const int16_t *x0 = run->x0 + line * run->down, *x1 = run->x1 + line * run->down;
        int8_t *output = run->output + line * run->line;
        for (int32_t n = run->pairs; n > 0; --n, x0 += run->step, x1 += run->step, output += run->advance)
            convolve_four(two, x0, x1, output, output + run->between);
    }
}

#endif

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

/* two channels of `rows` rows of outputs of a layer that is fast. pixels: the first in the kernel's first row. */
static void convolve_fast(const ep_conv *layer, const workspace *work, int32_t channel, const int16_t *pixels, int32_t rows,
                          int8_t *output)
{
    const int32_t channels = layer->output[2], step = work->right * layer->pitch, down = work->down * work->row;
    /* rows of kernels of one column follow each other without a gap */
    const int32_t as_one = layer->output[1] * step == down;
    const int32_t lines = as_one ? 1 : rows, width = layer->output[1] * (as_one ? rows : 1), line = width * channels;
    const channels_two two = {
        work->weights,
        work->span / 4,
        layer->kernel[0],
        layer->dilation[0] * work->row,
        {layer->bias[channel], layer->bias[channel + 1]},
        {ep_scale_of(layer->multiplier[channel], layer->shift[channel], layer->output_zero),
         ep_scale_of(layer->multiplier[channel + 1], layer->shift[channel + 1], layer->output_zero)}};
    pixel_pairs run = {pixels, pixels + step, output, channels, width / 2, 2 * step, 2 * channels, lines, down, line};
    if (width % 2 && lines > 1) {
        /* pairs of pixels one above the other, so that none is left over at the end of each row */
        const pixel_pairs above = {pixels, pixels + down, output, line, width, step, channels, lines / 2, 2 * down, 2 * line};
        convolve_pairs(&two, &above);
        run.x0 += lines / 2 * 2 * down, run.x1 += lines / 2 * 2 * down, run.output += lines / 2 * 2 * line;
        run.lines = lines % 2;
    }
    if (width > 1)
        convolve_pairs(&two, &run);
    if (width % 2 && run.lines) {
        /* the last pixel, twice */
        run.x0 += (width - 1) * step, run.x1 = run.x0, run.output += (width - 1) * channels;
        run.pairs = 1, run.between = 0;
        convolve_pairs(&two, &run);
    }
}

/* the same of any layer, and of an odd last channel */
static void convolve_any(const ep_conv *layer, const workspace *work, int32_t channel, const int16_t *pixels, int32_t rows,
                         int8_t *output)
{
    const int32_t channels = layer->output[2], step = work->right * layer->pitch;
    const int32_t other = channel + 1 < channels ? channel + 1 : channel;
    for (; rows > 0; --rows, pixels += work->down * work->row) {
        const int16_t *pixel = pixels;
        for (int32_t left = layer->output[1]; left > 0; left -= 2, pixel += 2 * step) {
            const int32_t both = left > 1;
            int32_t sums[4] = {layer->bias[channel], layer->bias[channel], layer->bias[other], layer->bias[other]};
            convolve_sums(layer, work, pixel, both ? pixel + step : pixel, sums);
            /* an odd last channel's second sum is none, and is written over */
            for (int32_t n = 2 + both; n >= 0; n -= 2 - both) {
                const int32_t c = n < 2 ? channel : other;
                output[n % 2 * channels + c - channel] = finish(layer, sums[n], layer->multiplier[c], layer->shift[c]);
            }
            output += channels << both;
        }
    }
}

#ifdef EP_CONV_ASM

static void decode_few(const ep_conv *layer, const workspace *work, filter_of_eight *filter)
{
    uint32_t pairs[8]; /* (2, 2 channels, 2) */
    for (int32_t c = 0; c < layer->output[2]; ++c, ++filter) {
        const uint32_t *pair = pairs + c % 2 * 2;
        if (c % 2 == 0)
            decode_two(layer, work, c, pairs);
        for (int32_t n = 0; n < 4; n += 2, pair += 4) {
            const int16x2_t even = (int16x2_t)ep_low_halves(pair[0], pair[1]), odd = (int16x2_t)ep_high_halves(pair[0], pair[1]);
            filter->weights[n] = (uint32_t)__sadd16(even, even);
            filter->weights[n + 1] = (uint32_t)__sadd16(odd, odd);
        }
        filter->bias = 2 * layer->bias[c];
        filter->scale = ep_scale_of(layer->multiplier[c], layer->shift[c], layer->output_zero);
    }
}

/* one output: r4 to r11 are its filter */
#define EP_OUTPUT                          \
    "ldmia %[filter]!, {r4-r11}\n"         \
    "smlad r8, r4, %[a], r8\n"             \
    "smlad r8, r5, %[b], r8\n"             \
    "smlad r8, r6, %[c], r8\n"             \
    "smlad r8, r7, %[d], r8\n"             \
    "add r10, r10, r8, asr #31\n"          \
    "smmlar r8, r8, r9, r10\n"             \
    "asr r8, r8, r11\n"                    \
    "ssat r8, #8, r8\n"                    \
    "strb r8, [%[output]], #1\n"

/* Pixels of 8 channels, each through all filters while its inputs stay in registers: no rows of them are held in scratch. Two
   channels at a time, as above, have too few products each to make up for what is done once a pair. */
EP_APART static void convolve_few(const ep_conv *layer, const workspace *work, const int8_t *pixels, int8_t *output)
{
    const int32_t channels = layer->output[2], all = layer->stride[0] == 1 && layer->stride[1] == 1;
    const int32_t rows = layer->batches * layer->output[0], width = layer->output[1] * (all ? rows : 1);
    filter_of_eight *const filters = (filter_of_eight *)(void *)work->weights, *const end = filters + channels;
    decode_few(layer, work, filters);
    for (int32_t row = 0; row < (all ? 1 : rows); ++row) {
        const int32_t batch = row / layer->output[0], y = batch * layer->input[0] + row % layer->output[0] * layer->stride[0];
        struct {
            const int8_t *pixel;
            int32_t step;
        } input = {pixels + y * layer->input[1] * 8, layer->stride[1] * 8};
        const int8_t *const last = output + width * channels;
        const filter_of_eight *filter;
        int32_t a, b, c, d;
        __asm__ volatile("1:\n"
                         "ldrd %[a], %[b], %[input]\n"
                         "ldrd %[c], %[d], [%[a]]\n"
                         "add %[a], %[a], %[b]\n"
                         "str %[a], %[input]\n"
                         "sxtb16 %[a], %[c]\n"
                         "sxtb16 %[b], %[c], ror #8\n"
                         "sxtb16 %[c], %[d]\n"
                         "sxtb16 %[d], %[d], ror #8\n"
                         "ldr %[filter], %[filters]\n"
                         "2:\n" EP_OUTPUT EP_OUTPUT EP_OUTPUT EP_OUTPUT
                         "ldr r4, %[end]\n"
                         "cmp %[filter], r4\n"
                         "bne 2b\n"
                         "ldr r4, %[last]\n"
                         "cmp %[output], r4\n"
                         "bne 1b\n"
                         : [output] "+r"(output), [filter] "=&r"(filter), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c),
                           [d] "=&r"(d), [input] "+m"(input)
                         : [filters] "m"(filters), [end] "m"(end), [last] "m"(last)
                         : "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "cc", "memory");
    }
}

#endif

/* all filters over a block of output rows, two at a time */
static void convolve_block(const ep_conv *layer, const workspace *work, int32_t rows, int8_t *output)
{
    for (int32_t c = 0; c < layer->output[2]; c += 2) {
        decode_two(layer, work, c, work->weights);
        if (layer->fast && c + 1 < layer->output[2])
            convolve_fast(layer, work, c, work->rows, rows, output + c);
        else
            convolve_any(layer, work, c, work->rows, rows, output + c);
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
    const int32_t height = layer->output[0], down = work.down, block = prepare(layer, &work);
    const int32_t every = layer->stride[0] / down; /* rows of the input are taken */
    const int32_t reach = (layer->kernel[0] - 1) * layer->dilation[0] + 1;
    const int32_t row_bytes = layer->output[1] * layer->output[2];
#ifdef EP_CONV_ASM
    if (layer->few) {
        convolve_few(layer, &work, input, output);
        return;
    }
#endif
    for (int32_t batch = 0; batch < layer->batches; ++batch) {
        int32_t first = 0, loaded = 0; /* rows counted from the first of the padding; `rows` holds those from `first` */
        for (int32_t y = 0; y < height; y += block) {
            const int32_t end = ep_smaller(y + block, height), kept = loaded - y * down;
            if (kept > 0)
                memmove(work.rows, work.rows + (y * down - first) * work.row, (size_t)(kept * work.row) * sizeof *work.rows);
            first = y * down;
            loaded = kept > 0 ? loaded : first;
            for (; loaded < (end - 1) * down + reach; ++loaded)
                load_row(layer, &work, input, loaded * every - layer->before[0], work.rows + (loaded - first) * work.row);
            convolve_block(layer, &work, end - y, output + y * row_bytes);
        }
        input += layer->input[0] * layer->input[1] * layer->input[2];
        output += height * row_bytes;
    }
}

#endif
