/* MAX_POOL_2D, int8. */
#ifndef EP_MAX_POOL_2D_H
#define EP_MAX_POOL_2D_H

#include <stdint.h>

typedef struct {
    int16_t batches;
    int16_t input[3];  /* height, width, channels */
    int16_t output[2]; /* height, width */
    int16_t window[2]; /* height, width */
    int16_t stride[2]; /* down, right */
    int16_t before[2]; /* padding above, left */
    int16_t least, most;
} ep_max_pool;

/* output = clamp(largest of the window's elements inside the input)

   input: (batches, input), output: (batches, output, channels).
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/integer_ops/pooling.h. */
void ep_max_pool_2d(const ep_max_pool *layer, const int8_t *input, int8_t *output);

#endif
