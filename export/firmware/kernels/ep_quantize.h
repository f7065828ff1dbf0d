/* QUANTIZE, float to int8. */
#ifndef EP_QUANTIZE_H
#define EP_QUANTIZE_H

#include <stdint.h>

/* output = clamp(zero + input / scale, rounded, ties away from zero)

   input, output: (count).
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/quantize.h. */
void ep_quantize(float scale, int32_t zero, int32_t count, const float *input, int8_t *output);

#endif
