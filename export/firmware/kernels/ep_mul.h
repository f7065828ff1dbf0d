/* MUL, int8. */
#ifndef EP_MUL_H
#define EP_MUL_H

#include <stdint.h>

#include "ep_broadcast.h"

typedef struct {
    ep_shape shape;
    int16_t first_zero, second_zero, output_zero, least, most;
    int8_t shift;
    int32_t multiplier;
} ep_mul_layer;

/* output = clamp(output_zero + requantize((a - zero) · (b - zero)))

   a, b: as `shape` says, output: (size). `output` may lie where an input of the same shape does.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/integer_ops/mul.h. */
void ep_mul(const ep_mul_layer *layer, const int8_t *a, const int8_t *b, int8_t *output);

#endif
