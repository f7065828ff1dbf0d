#include "ep_weights.h"

static inline uint32_t pair_of(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xffffu) | (uint32_t)high << 16;
}

void ep_prepare_table(const int8_t *table, int bits, uint32_t *pairs)
{
    const int count = 1 << bits;
    if (bits > 4)
        return;
    for (int a = 0; a < count; ++a)
        for (int b = 0; b < count; ++b)
            *pairs++ = pair_of(table[a], table[b]);
}

/* 8 int8 as they are */
static void decode_plain(const uint8_t *data, int32_t groups, uint32_t *out)
{
    const int8_t *values = (const int8_t *)data;
    for (int32_t n = 0; n < 4 * groups; ++n, values += 2)
        *out++ = pair_of(values[0], values[1]);
}

/* 8 indices of 1-3 bits in `bits` bytes: two of them name a pair */
static inline void decode_pairs(const uint8_t *data, int32_t groups, int bits, const uint32_t *pairs,
                                const uint32_t *others, uint32_t *out)
{
    const int width = 2 * bits;
    const uint32_t mask = (UINT32_C(1) << width) - 1;
    for (; groups > 0; --groups, data += bits, out += 4) {
        uint32_t word = data[0];
        if (bits > 1)
            word = word << 8 | data[1];
        if (bits > 2)
            word = word << 8 | data[2];
        out[0] = pairs[word >> 3 * width];
        out[1] = pairs[word >> 2 * width & mask];
        out[2] = others[word >> width & mask];
        out[3] = others[word & mask];
    }
}

/* the commonest width: a byte names a pair */
static void decode_bytes(const uint8_t *data, int32_t groups, const uint32_t *pairs, const uint32_t *others, uint32_t *out)
{
    for (; groups > 0; --groups, data += 4, out += 4) {
        out[0] = pairs[data[0]];
        out[1] = pairs[data[1]];
        out[2] = others[data[2]];
        out[3] = others[data[3]];
    }
}

/* 8 indices of 5-7 bits in `bits` bytes: four in the high half of them, four in the low */
static inline void decode_singles(const uint8_t *data, int32_t groups, int bits, const int8_t *first, const int8_t *second,
                                  uint32_t *out)
{
    const uint32_t mask = (UINT32_C(1) << bits) - 1;
    for (; groups > 0; --groups, data += bits, out += 4) {
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
        out[0] = pair_of(first[high >> 3 * bits], first[high >> 2 * bits & mask]);
        out[1] = pair_of(first[high >> bits & mask], first[high & mask]);
        out[2] = pair_of(second[low >> 3 * bits], second[low >> 2 * bits & mask]);
        out[3] = pair_of(second[low >> bits & mask], second[low & mask]);
    }
}

void ep_decode(const ep_weights *weights, int32_t start, int32_t groups, const int8_t *first, const int8_t *second,
               const uint32_t *pairs, const uint32_t *others, uint32_t *values)
{
    const uint8_t *data = weights->data + start * weights->bits;
    /* a width known when this is compiled makes each loop twice as fast */
    switch (weights->bits) {
    case 1:
        decode_pairs(data, groups, 1, pairs, others, values);
        break;
    case 2:
        decode_pairs(data, groups, 2, pairs, others, values);
        break;
    case 3:
        decode_pairs(data, groups, 3, pairs, others, values);
        break;
    case 4:
        decode_bytes(data, groups, pairs, others, values);
        break;
    case 5:
        decode_singles(data, groups, 5, first, second, values);
        break;
    case 6:
        decode_singles(data, groups, 6, first, second, values);
        break;
    case 7:
        decode_singles(data, groups, 7, first, second, values);
        break;
    default:
        decode_plain(data, groups, values);
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
