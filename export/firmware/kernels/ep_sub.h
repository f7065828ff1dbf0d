/* SUB, int8. */
#ifndef EP_SUB_H
#define EP_SUB_H

#include <stdint.h>

#include "ep_two_terms.h"

/* output = clamp(output_zero + M(M1((a - zero) · 2^20) - M2((b - zero) · 2^20))), M(x) = high_product(x) / 2^shift

   a, b: as `shape` says, output: (size). `output` may lie where an input of the same shape does.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/sub.h. */
void ep_sub(const ep_two_terms *layer, const int8_t *a, const int8_t *b, int8_t *output);

#endif
