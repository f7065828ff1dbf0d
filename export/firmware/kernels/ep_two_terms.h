/* What ADD and SUB share: all but a sign. */
#ifndef EP_TWO_TERMS_H
#define EP_TWO_TERMS_H

#include "ep_broadcast.h"
#include "ep_dot.h" /* EP_INLINE: GCC would call it for each sign */
#include "ep_requantize.h"

typedef struct {
    ep_shape shape;
    int16_t first_zero, second_zero, output_zero, least, most;
    int8_t first_shift, second_shift, output_shift; /* to the right */
    int32_t first_multiplier, second_multiplier, output_multiplier;
} ep_two_terms;

/* sign: of the second term, 1 or -1 */
EP_INLINE void ep_join_terms(const ep_two_terms *layer, const int8_t *a, const int8_t *b, int32_t sign, int8_t *output)
{
    const ep_shape *shape = &layer->shape;
    const int32_t step_a = shape->first[3], step_b = shape->second[3];
    /* all of it doubled for `ep_multiplied`, and raised by 2^20 */
    const int32_t zero_a = layer->first_zero * (1 << 21), zero_b = layer->second_zero * (1 << 21);
    const ep_factor by_a = ep_factor_of(layer->first_multiplier, layer->first_shift);
    const ep_factor by_b = ep_factor_of(layer->second_multiplier, layer->second_shift);
    const ep_factor by = ep_factor_of(layer->output_multiplier, layer->output_shift);
    const int32_t zero = layer->output_zero, least = layer->least, most = layer->most;
    EP_FOR_ROWS(shape, a, b, output)
    {
        const int8_t *from_a = a + EP_ROW(shape->first), *from_b = b + EP_ROW(shape->second);
        for (int32_t n = 0; n < count; ++n, from_a += step_a, from_b += step_b) {
            const int32_t x = ep_multiplied(by_a, *from_a * (1 << 21) - zero_a);
            const int32_t y = ep_multiplied(by_b, *from_b * (1 << 21) - zero_b);
            output[n] = (int8_t)ep_clamp(ep_multiplied(by, (x + sign * y) * 2) + zero, least, most);
        }
    }
}

#endif
