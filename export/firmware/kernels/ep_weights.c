#include "ep_weights.h"

#include "ep_decode.h"

void ep_prepare_table(const int8_t *table, int bits, uint32_t *pairs)
{
    const int32_t count = 1 << bits;
    if (bits > 4)
        return;
    /* two or four columns at a time: their halves stay in registers */
    for (int32_t b = 0; b < count; b += 4) {
        const uint32_t second[4] = {ep_pair_of(0, table[b]), ep_pair_of(0, table[b + 1]),
                                    count > 2 ? ep_pair_of(0, table[b + 2]) : 0, count > 2 ? ep_pair_of(0, table[b + 3]) : 0};
        uint32_t *to = pairs + b;
        for (int32_t a = 0; a < count; ++a, to += count) {
            const uint32_t first = ep_pair_of(table[a], 0);
            to[0] = first + second[0];
            to[1] = first + second[1];
            if (count == 2)
                continue;
            to[2] = first + second[2];
            to[3] = first + second[3];
        }
    }
}

EP_INLINE void decode(const uint8_t *data, int32_t groups, int bits, const ep_tables *tables, uint32_t *out)
{
    for (; groups > 0; --groups, data += bits, out += 4)
        ep_decode_group(data, bits, tables, out);
}

void ep_decode(const ep_weights *weights, int32_t start, int32_t groups, const ep_tables *tables, uint32_t *values)
{
    const uint8_t *data = weights->data + start * weights->bits;
    switch (weights->bits) {
    case 1:
        decode(data, groups, 1, tables, values);
        break;
    case 2:
        decode(data, groups, 2, tables, values);
        break;
    case 3:
        decode(data, groups, 3, tables, values);
        break;
    case 4:
        decode(data, groups, 4, tables, values);
        break;
    case 5:
        decode(data, groups, 5, tables, values);
        break;
    case 6:
        decode(data, groups, 6, tables, values);
        break;
    case 7:
        decode(data, groups, 7, tables, values);
        break;
    default:
        decode(data, groups, 8, tables, values);
    }
}

int8_t ep_weight_at(const ep_weights *weights, int32_t index, int32_t channel)
{
    const int bits = weights->bits;
    uint32_t code = 0;
    if (bits == 8)
        return (int8_t)weights->data[index];
    for (int32_t place = index * bits; place < (index + 1) * bits; ++place)
        code = code << 1 | (weights->data[place >> 3] >> (7 - (place & 7)) & 1u);
    return weights->tables[code + (uint32_t)(channel * weights->stride)];
}
