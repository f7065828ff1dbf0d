/* Eight weights from their indices, inline: see ep_weights.h for how they lie. */
#ifndef EP_DECODE_H
#define EP_DECODE_H

#include "ep_dot.h"
#include "ep_weights.h"

/* data: `bits` bytes. out: four pairs as ep_dot_pair takes them. A width known when this is compiled makes it twice as fast. */
EP_INLINE void ep_decode_group(const uint8_t *data, int bits, const ep_tables *tables, uint32_t out[4])
{
    if (bits == 8) {
        const int8_t *values = (const int8_t *)data;
        for (int32_t n = 0; n < 4; ++n)
            out[n] = ep_pair_of(values[2 * n], values[2 * n + 1]);
    } else if (bits == 4) {
        /* the commonest width: a byte names a pair */
        out[0] = tables->pairs[data[0]];
        out[1] = tables->pairs[data[1]];
        out[2] = tables->others[data[2]];
        out[3] = tables->others[data[3]];
    } else if (bits < 4) {
        /* two indices name a pair */
        const int width = 2 * bits;
        const uint32_t mask = (UINT32_C(1) << width) - 1;
        uint32_t word = data[0];
        if (bits > 1)
            word = word << 8 | data[1];
        if (bits > 2)
            word = word << 8 | data[2];
        out[0] = tables->pairs[word >> 3 * width];
        out[1] = tables->pairs[word >> 2 * width & mask];
        out[2] = tables->others[word >> width & mask];
        out[3] = tables->others[word & mask];
    } else {
        /* four indices in the high half of the bytes, four in the low */
        const uint32_t mask = (UINT32_C(1) << bits) - 1;
        const int8_t *first = tables->first, *second = tables->second;
        uint32_t high = (uint32_t)data[0] << 8 | data[1], low;
        if (bits == 5) {
            high = high << 4 | data[2] >> 4;
            low = (data[2] & 15u) << 16 | (uint32_t)data[3] << 8 | data[4];
        } else if (bits == 6) {
            high = high << 8 | data[2];
            low = (uint32_t)data[3] << 16 | (uint32_t)data[4] << 8 | data[5];
        } else {
            high = high << 12 | (uint32_t)data[2] << 4 | data[3] >> 4;
            low = (data[3] & 15u) << 24 | (uint32_t)data[4] << 16 | (uint32_t)data[5] << 8 | data[6];
        }
        out[0] = ep_pair_of(first[high >> 3 * bits], first[high >> 2 * bits & mask]);
        out[1] = ep_pair_of(first[high >> bits & mask], first[high & mask]);
        out[2] = ep_pair_of(second[low >> 3 * bits], second[low >> 2 * bits & mask]);
        out[3] = ep_pair_of(second[low >> bits & mask], second[low & mask]);
    }
}

#endif
