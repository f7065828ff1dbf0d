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

/* 8 indices of 1-4 bits in `bits` bytes: two of them name a pair */
static void decode_pairs(const uint8_t *data, int32_t groups, int bits, const uint32_t *pairs, const uint32_t *others,
                         uint32_t *out)
{
    const int width = 2 * bits;
    const uint32_t mask = (UINT32_C(1) << width) - 1;
    for (; groups > 0; --groups, out += 4) {
        uint32_t word = 0;
        for (int n = 0; n < bits; ++n)
            word = word << 8 | *data++;
        out[0] = pairs[word >> 3 * width & mask];
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

/* 8 indices of 5-7 bits in `bits` bytes */
static void decode_singles(const uint8_t *data, int32_t groups, int bits, const int8_t *first, const int8_t *second,
                           uint32_t *out)
{
    const uint32_t mask = (UINT32_C(1) << bits) - 1;
    for (; groups > 0; --groups) {
        uint32_t word = 0;
        int held = 0;
        for (int pair = 0; pair < 4; ++pair) {
            const int8_t *table = pair < 2 ? first : second;
            while (held < 2 * bits) {
                word = word << 8 | *data++;
                held += 8;
            }
            held -= 2 * bits;
            *out++ = pair_of(table[word >> (held + bits) & mask], table[word >> held & mask]);
        }
    }
}

void ep_decode(const ep_weights *weights, int32_t start, int32_t groups, const int8_t *first, const int8_t *second,
               const uint32_t *pairs, const uint32_t *others, uint32_t *values)
{
    const int bits = weights->bits;
    const uint8_t *data = weights->data + start * bits;
    if (bits == 8)
        decode_plain(data, groups, values);
    else if (bits == 4)
        decode_bytes(data, groups, pairs, others, values);
    else if (bits < 4)
        decode_pairs(data, groups, bits, pairs, others, values);
    else
        decode_singles(data, groups, bits, first, second, values);
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
