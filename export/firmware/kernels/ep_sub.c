#include "ep_sub.h"

#include "ep_requantize.h"

/* (x - zero) · 2^20 by its multiplier: all of it stays below 2^29, so the product needs no saturation */
static inline int32_t scaled(int32_t x, int32_t zero, int32_t multiplier, int32_t shift)
{
    return ep_requantize_narrow((x - zero) * (1 << 20), multiplier, -shift);
}

void ep_sub(const ep_sub_layer *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const ep_shape *shape = &layer->shape;
    const int32_t step_a = shape->first[3], step_b = shape->second[3];
    const int32_t zero_a = layer->first_zero, zero_b = layer->second_zero, zero = layer->output_zero;
    const int32_t multiplier_a = layer->first_multiplier, shift_a = layer->first_shift;
    const int32_t multiplier_b = layer->second_multiplier, shift_b = layer->second_shift;
    const int32_t multiplier = layer->output_multiplier, shift = layer->output_shift;
    const int32_t least = layer->least, most = layer->most;
    EP_FOR_ROWS(shape, a, b, output)
    {
        const int8_t *from_a = a + EP_ROW(shape->first), *from_b = b + EP_ROW(shape->second);
        for (int32_t n = 0; n < count; ++n, from_a += step_a, from_b += step_b) {
            const int32_t x = scaled(*from_a, zero_a, multiplier_a, shift_a);
            const int32_t y = scaled(*from_b, zero_b, multiplier_b, shift_b);
            const int32_t sum = ep_requantize_narrow(x - y, multiplier, -shift) + zero;
            output[n] = (int8_t)ep_clamp(sum, least, most);
        }
    }
}
