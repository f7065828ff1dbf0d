/* MEAN over dimensions that lie together, int8. */
#ifndef EP_MEAN_H
#define EP_MEAN_H

#include <stdint.h>

typedef struct {
    int32_t outer, reduced, inner; /* the input's dimensions before, in and after the mean */
    int32_t zeros;                 /* reduced · the input's zero point */
    int16_t output_zero;
    int8_t shift;
    int32_t multiplier; /* with 1 / reduced in it */
} ep_mean_layer;

/* output[o][i] = clamp(output_zero + requantize(Σ input[o][r][i] - zeros))

   input: (outer, reduced, inner), output: (outer, inner).
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/reduce.h, QuantizedMeanOrSum. */
void ep_mean(const ep_mean_layer *layer, const int8_t *input, int8_t *output);

#endif
