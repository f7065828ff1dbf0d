#include "ep_add.h"

void ep_add(const ep_two_terms *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    ep_join_terms(layer, a, b, 1, output);
}
