/* PAD and PADV2, int8. */
#ifndef EP_PAD_H
#define EP_PAD_H

#include <stdint.h>

typedef struct {
    int32_t input[4];
    int32_t before[4], after[4];
    int8_t value;
} ep_pad_layer;

/* input: (input), output: (before + input + after), `value` around it.
   Source: tflite-micro, tensorflow/lite/kernels/internal/reference/pad.h. */
void ep_pad(const ep_pad_layer *layer, const int8_t *input, int8_t *output);

#endif
