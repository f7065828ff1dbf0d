#include "ep_add.h"

#include "ep_requantize.h"

/* A multiplier of numbers from -2^30 to 2^30. */
typedef struct {
    int32_t multiplier, half, tie, right; /* half: of 2^right. tie: -1, or 0 where right = 0. */
} scale;

static scale scale_of(int32_t multiplier, int32_t right)
{
    const scale made = {multiplier, (int32_t)((UINT32_C(1) << right) >> 1), right ? -1 : 0, right};
    return made;
}

/* x / 2 by the multiplier, ties away from zero */
static inline int32_t scaled(scale by, int32_t x)
{
    const int32_t product = ep_half_product(x, by.multiplier);
    return (product + ((product >> 31) & by.tie) + by.half) >> by.right;
}

void ep_add(const ep_add_layer *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const ep_shape *shape = &layer->shape;
    const int32_t step_a = shape->first[3], step_b = shape->second[3];
    /* all of it doubled for `scaled`, and raised by 2^20 */
    const int32_t zero_a = layer->first_zero * (1 << 21), zero_b = layer->second_zero * (1 << 21);
    const scale by_a = scale_of(layer->first_multiplier, layer->first_shift);
    const scale by_b = scale_of(layer->second_multiplier, layer->second_shift);
    const scale by = scale_of(layer->output_multiplier, layer->output_shift);
    const int32_t zero = layer->output_zero, least = layer->least, most = layer->most;
    EP_FOR_ROWS(shape, a, b, output)
    {
        const int8_t *from_a = a + EP_ROW(shape->first), *from_b = b + EP_ROW(shape->second);
        for (int32_t n = 0; n < count; ++n, from_a += step_a, from_b += step_b) {
            const int32_t x = scaled(by_a, *from_a * (1 << 21) - zero_a);
            const int32_t y = scaled(by_b, *from_b * (1 << 21) - zero_b);
            output[n] = (int8_t)ep_clamp(scaled(by, (x + y) * 2) + zero, least, most);
        }
    }
}
