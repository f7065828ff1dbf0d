#include "ep_dequantize.h"


void ep_dequantize(float scale, int32_t zero, int32_t count, const int8_t *input, float *output)
{
    for (int32_t n = 0; n < count; ++n)
        output[n] = scale * (float)(input[n] - zero);
}
