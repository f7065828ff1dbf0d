#include "ep_mean.h"

#include "ep_requantize.h"

void ep_mean(const ep_mean_layer *layer, const int8_t *input, int8_t *output)
{
    for (int32_t o = 0; o < layer->outer; ++o, input += layer->reduced * layer->inner)
        for (int32_t i = 0; i < layer->inner; ++i) {
            const int8_t *from = input + i;
            int32_t sum = -layer->zeros;
            for (int32_t r = 0; r < layer->reduced; ++r, from += layer->inner)
                sum += *from;
            sum = ep_requantize(sum, layer->multiplier, layer->shift) + layer->output_zero;
            *output++ = (int8_t)ep_clamp(sum, INT8_MIN, INT8_MAX);
        }
}
