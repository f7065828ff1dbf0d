/* TRANSPOSE_CONV, int8. */
#ifndef EP_TRANSPOSE_CONV_H
#define EP_TRANSPOSE_CONV_H

#include <stdint.h>

#include "ep_weights.h"

typedef struct {
    int16_t batches;
    int16_t input[3];  /* height, width, channels */
    int16_t output[3]; /* height, width, channels */
    int16_t kernel[2]; /* height, width */
    int16_t stride[2]; /* down, right */
    int16_t before[2]; /* padding above, left */
    int16_t depth;     /* input channels, rounded up to a multiple of 8 */
    int16_t input_zero, output_zero, least, most;
    ep_weights weights; /* (output channels, kernel height, kernel width, depth) */
    const int32_t *bias;       /* (output channels) */
    const int32_t *multiplier; /* (output channels) */
    const int8_t *shift;       /* (output channels) */
} ep_transpose;

/* output[y][x][c] = clamp(output_zero + requantize(bias[c] + Σ w[c][i][j][k] · (input[…][k] - input_zero)))
   over all (i, j) from which some input pixel reaches (y, x)

   input: (batches, input), output: (batches, output). scratch: as many bytes as transpose_conv.py says, on a border of 4.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/integer_ops/transpose_conv.h. */
void ep_transpose_conv(const ep_transpose *layer, const int8_t *input, int8_t *output, void *scratch);

#endif
