/* SOFTMAX, int8. */
#ifndef EP_SOFTMAX_H
#define EP_SOFTMAX_H

#include <stdint.h>

typedef struct {
    int32_t rows, depth;
    int32_t multiplier; /* of differences to the largest, by beta and scale, to 5 integer bits */
    int32_t left;
    int32_t least;      /* differences below give 0 */
} ep_softmax_layer;

/* output = 256 · exp(x - largest) / Σ exp(x - largest) - 128, in the reference's fixed point

   input, output: (rows, depth); they may be the same.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/softmax.h; gemmlowp, fixedpoint/fixedpoint.h. */
void ep_softmax(const ep_softmax_layer *layer, const int8_t *input, int8_t *output);

#endif
