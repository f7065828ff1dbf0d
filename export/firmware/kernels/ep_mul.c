#include "ep_mul.h"

#include "ep_requantize.h"

void ep_mul(const ep_mul_layer *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const ep_shape *shape = &layer->shape;
    const int32_t step_a = shape->first[3], step_b = shape->second[3];
    EP_FOR_ROWS(shape, a, b, output)
    {
        const int8_t *from_a = a + EP_ROW(shape->first), *from_b = b + EP_ROW(shape->second);
        for (int32_t n = 0; n < count; ++n, from_a += step_a, from_b += step_b) {
            const int32_t product = (*from_a - layer->first_zero) * (*from_b - layer->second_zero);
            const int32_t x = ep_requantize(product, layer->multiplier, layer->shift) + layer->output_zero;
            output[n] = (int8_t)ep_clamp(x, layer->least, layer->most);
        }
    }
}
