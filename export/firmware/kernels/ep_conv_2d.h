/* CONV_2D, int8. */
#ifndef EP_CONV_2D_H
#define EP_CONV_2D_H

#include "ep_weights.h"

typedef struct {
    int16_t batches;
    int16_t input[3];    /* height, width, channels */
    int16_t output[3];   /* height, width, channels */
    int16_t kernel[2];   /* height, width */
    int16_t stride[2];   /* down, right */
    int16_t dilation[2]; /* down, right */
    int16_t before[2];   /* padding above, left */
    int16_t pitch;       /* int16 from pixel to pixel in a row of scratch: input channels, rounded up by the generator */
    int16_t block;       /* output rows computed from one decoding of the weights */
    int16_t int8_block;  /* the same where the rows of scratch are int8 (MVE) */
    int8_t few;          /* whether it is 1×1 of 8 channels, fast, scratch holds all filters, and outputs pass no inputs */
    int8_t input_zero, output_zero, least, most;
    int8_t fast;         /* whether all sums and shifts are as ep_apply takes them, and nothing but int8 clamps */
    /* (output channels / 2, kernel height, kernel width · pitch / 4, 2 channels, 4): see `laid_out` in conv_2d.py */
    ep_weights weights;
    const int32_t *bias;       /* (output channels), input_zero · Σ w taken off */
    const int32_t *multiplier; /* (output channels) */
    const int8_t *shift;       /* (output channels) */
} ep_conv;

/* output[y][x][c] = clamp(output_zero + requantize(bias[c] + Σ w[c][i][j][k] · input[…][k])), input_zero where there is no input

   input: (batches, input), output: (batches, output). scratch: as many bytes as conv_2d.py says, on a border of 4.
   A block's input rows are kept in scratch, so `output` may lie where `input` does if no block of output rows
   reaches past the input rows read for it.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/integer_ops/conv.h. */
void ep_conv_2d(const ep_conv *layer, const int8_t *input, int8_t *output, void *scratch);

#endif
