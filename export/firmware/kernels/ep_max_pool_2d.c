#include "ep_max_pool_2d.h"

#include "ep_requantize.h"

void ep_max_pool_2d(const ep_max_pool *layer, const int8_t *input, int8_t *output)
{
    const int32_t height = layer->input[0], width = layer->input[1], channels = layer->input[2];
    for (int32_t batch = 0; batch < layer->batches; ++batch, input += height * width * channels)
        for (int32_t y = 0; y < layer->output[0]; ++y)
            for (int32_t x = 0; x < layer->output[1]; ++x) {
                const int32_t above = y * layer->stride[0] - layer->before[0];
                const int32_t left = x * layer->stride[1] - layer->before[1];
                const int32_t top = ep_larger(above, 0), bottom = ep_smaller(above + layer->window[0], height);
                const int32_t start = ep_larger(left, 0), end = ep_smaller(left + layer->window[1], width);
                for (int32_t c = 0; c < channels; ++c) {
                    int32_t most = INT8_MIN;
                    for (int32_t row = top; row < bottom; ++row) {
                        const int8_t *from = input + (row * width + start) * channels + c;
                        for (int32_t n = end - start; n > 0; --n, from += channels)
                            most = ep_larger(most, *from);
                    }
                    *output++ = (int8_t)ep_clamp(most, layer->least, layer->most);
                }
            }
}
