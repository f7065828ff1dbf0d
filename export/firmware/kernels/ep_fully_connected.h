/* FULLY_CONNECTED, int8. */
#ifndef EP_FULLY_CONNECTED_H
#define EP_FULLY_CONNECTED_H

#include "ep_weights.h"

typedef struct {
    int32_t batches;
    int32_t inputs, outputs; /* of one row */
    int16_t output_zero, least, most;
    int16_t fast;       /* whether all sums and shifts are as ep_apply takes them, and nothing but int8 clamps */
    ep_weights weights; /* (outputs / 2, inputs / 4, 2 outputs, 4), the middle two of each four exchanged unless int8 */
    const int32_t *bias;       /* (outputs), the input's zero point · Σ w taken off */
    const int32_t *multiplier; /* (outputs) */
    const int8_t *shift;       /* (outputs) */
} ep_dense;

/* output[c] = clamp(output_zero + requantize(bias[c] + Σ w[c][k] · input[k]))

   input: (batches, inputs), output: (batches, outputs). scratch: as many bytes as fully_connected.py says, on a border of 4.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/integer_ops/fully_connected.h. */
void ep_fully_connected(const ep_dense *layer, const int8_t *input, int8_t *output, void *scratch);

#endif
