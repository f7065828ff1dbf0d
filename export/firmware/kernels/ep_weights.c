#include "ep_weights.h"

#include "ep_decode.h"

#if defined(EP_DSP) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)

#define EP_COLUMN(n, r) "ldrsb " r ", [%[columns], #" n "]\nlsl " r ", " r ", #16\n"
#define EP_ROW                                                                                             \
    "ldrsb %[low], [%[table]], #1\n"                                                                       \
    "pkhbt r3, %[low], r3\npkhbt r4, %[low], r4\npkhbt r5, %[low], r5\npkhbt r6, %[low], r6\n"             \
    "pkhbt r8, %[low], r8\npkhbt r9, %[low], r9\npkhbt r10, %[low], r10\npkhbt r12, %[low], r12\n"         \
    "stmia %[pairs], {r3, r4, r5, r6, r8, r9, r10, r12}\n"                                                 \
    "add %[pairs], %[pairs], #64\n"

/* pairs: (16, 16), of which eight columns are written. Their high halves stay in registers. */
EP_APART static void prepare_eight(const int8_t *table, const int8_t *columns, uint32_t *pairs)
{
    const int8_t *const end = table + 16;
    int32_t low;
    __asm__ volatile(EP_COLUMN("0", "r3") EP_COLUMN("1", "r4") EP_COLUMN("2", "r5") EP_COLUMN("3", "r6")
                     EP_COLUMN("4", "r8") EP_COLUMN("5", "r9") EP_COLUMN("6", "r10") EP_COLUMN("7", "r12")
                     "1:\n" EP_ROW EP_ROW "cmp %[table], %[end]\n"
                     "bne 1b\n"
                     : [table] "+r"(table), [pairs] "+r"(pairs), [low] "=&r"(low), [columns] "+r"(columns)
                     : [end] "r"(end)
                     : "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r12", "cc", "memory");
}

#endif

void ep_prepare_table(const int8_t *table, int bits, uint32_t *pairs)
{
    const int32_t count = 1 << bits;
    if (bits > 4)
        return;
#if defined(EP_DSP) && defined(__OPTIMIZE__) && !defined(EP_NO_ASM)
    if (bits == 4) {
        prepare_eight(table, table, pairs);
        prepare_eight(table, table + 8, pairs + 8);
        return;
    }
#endif
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
