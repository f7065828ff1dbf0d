#include "ep_pad.h"

#include <string.h>

void ep_pad(const ep_pad_layer *layer, const int8_t *input, int8_t *output)
{
    const int32_t *size = layer->input, *before = layer->before, *after = layer->after;
    const int32_t width = before[3] + size[3] + after[3];
    for (int32_t a = -before[0]; a < size[0] + after[0]; ++a)
        for (int32_t b = -before[1]; b < size[1] + after[1]; ++b)
            for (int32_t c = -before[2]; c < size[2] + after[2]; ++c, output += width) {
                memset(output, layer->value, (size_t)width);
                if (a >= 0 && a < size[0] && b >= 0 && b < size[1] && c >= 0 && c < size[2]) {
                    memcpy(output + before[3], input, (size_t)size[3]);
                    input += size[3];
                }
            }
}
