#include "ep_concatenation.h"

#include <string.h>

void ep_concatenation(int32_t rows, int32_t bytes, int32_t apart, const void *input, void *output)
{
    const uint8_t *from = input;
    uint8_t *to = output;
    for (; rows > 0; --rows, from += bytes, to += apart)
        memcpy(to, from, (size_t)bytes);
}
