/* ADD, int8. */
#ifndef EP_ADD_H
#define EP_ADD_H

#include <stdint.h>

#include "ep_broadcast.h"

typedef struct {
    ep_shape shape;
    int16_t first_zero, second_zero, output_zero, least, most;
    int8_t first_shift, second_shift, output_shift; /* to the right */
    int32_t first_multiplier, second_multiplier, output_multiplier;
} ep_add_layer;

/* output = clamp(output_zero + M(M1((a - zero) · 2^20) + M2((b - zero) · 2^20))), M(x) = high_product(x) / 2^shift

   a, b: as `shape` says, output: (size). `output` may lie where an input of the same shape does.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/integer_ops/add.h. */
void ep_add(const ep_add_layer *layer, const int8_t *a, const int8_t *b, int8_t *output);

#endif
