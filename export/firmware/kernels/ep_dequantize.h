/* DEQUANTIZE, int8 to float. */
#ifndef EP_DEQUANTIZE_H
#define EP_DEQUANTIZE_H

#include <stdint.h>

/* output = scale · (input - zero)

   input, output: (count).
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/dequantize.h. */
void ep_dequantize(float scale, int32_t zero, int32_t count, const int8_t *input, float *output);

#endif
