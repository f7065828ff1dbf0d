#include "ep_lookup.h"


void ep_lookup(const int8_t *table, int32_t count, const int8_t *input, int8_t *output)
{
    table += 128;
    for (int32_t n = 0; n < count; ++n)
        output[n] = table[input[n]];
}
