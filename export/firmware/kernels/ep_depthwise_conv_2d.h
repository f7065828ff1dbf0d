/* DEPTHWISE_CONV_2D, int8. */
#ifndef EP_DEPTHWISE_CONV_2D_H
#define EP_DEPTHWISE_CONV_2D_H

#include "ep_weights.h"

typedef struct {
    int16_t batches;
    int16_t input[3];    /* height, width, channels */
    int16_t output[3];   /* height, width, channels = multiplier of input channels */
    int16_t kernel[2];   /* height, width */
    int16_t stride[2];   /* down, right */
    int16_t dilation[2]; /* down, right */
    int16_t before[2];   /* padding above, left */
    int16_t multiple;    /* output channels of one input channel */
    int16_t block;       /* output rows computed from one loading of input rows */
    int16_t input_zero, output_zero, least, most;
    int16_t fast;        /* whether all sums and shifts are as ep_apply takes them, and nothing but int8 clamps */
    ep_weights weights;  /* (output channels / 8, kernel height, kernel width, 8): `laid_out` in depthwise_conv_2d.py */
    const int32_t *bias;       /* (output channels), input_zero · Σ w taken off */
    const int32_t *multiplier; /* (output channels) */
    const int8_t *shift;       /* (output channels) */
} ep_depthwise;

/* output[y][x][c] = clamp(output_zero + requantize(bias[c] + Σ w[i][j][c] · input[…][c / multiple])), input_zero where there is no input

   input: (batches, input), output: (batches, output). scratch: as many bytes as depthwise_conv_2d.py says, on a border
   of 8. A block's input rows are kept, so `output` may lie where `input` does if no block of output rows
   reaches past the input rows read for it and the channels are the input's.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/integer_ops/depthwise_conv.h. */
void ep_depthwise_conv_2d(const ep_depthwise *layer, const int8_t *input, int8_t *output, void *scratch);

#endif
