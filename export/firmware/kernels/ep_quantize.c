#include "ep_quantize.h"

#include "ep_requantize.h"

void ep_quantize(float scale, int32_t zero, int32_t count, const float *input, int8_t *output)
{
    for (int32_t n = 0; n < count; ++n) {
        const float x = input[n] / scale;
        /* beyond this all results are clamped alike, and what is no number counts as 0 */
        const float held = x > 1024.0f ? 1024.0f : x < -1024.0f ? -1024.0f : x == x ? x : 0.0f;
        const int32_t whole = (int32_t)held; /* towards zero */
        const float rest = held - (float)whole;
        const int32_t rounded = whole + (rest >= 0.5f) - (rest <= -0.5f);
        output[n] = (int8_t)ep_clamp(rounded + zero, INT8_MIN, INT8_MAX);
    }
}
