/* CONCATENATION: one input at its place in the output. */
#ifndef EP_CONCATENATION_H
#define EP_CONCATENATION_H

#include <stdint.h>

/* Copy `rows` pieces of `bytes`, `apart` bytes apart in the output.

   input: (rows, bytes), output: (rows, apart) from the input's place in the first row.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/concatenation.h. */
void ep_concatenation(int32_t rows, int32_t bytes, int32_t apart, const void *input, void *output);

#endif
