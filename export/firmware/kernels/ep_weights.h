/* Weights as they lie in flash: int8, or a palette of indices into tables of int8 values.

   Indices are packed most significant bit first, eight at a time in `bits` bytes. The generator lays them out in the
   order a kernel reads them, so that decoding is one pass over consecutive bytes. */
#ifndef EP_WEIGHTS_H
#define EP_WEIGHTS_H

#include <stdint.h>

/* on a border of 4 bytes, where one load may read two words */
#ifdef __GNUC__
#define EP_ALIGNED __attribute__((aligned(4)))
#else
#define EP_ALIGNED
#endif

typedef struct {
    const uint8_t *data;  /* packed indices, or the int8 values themselves, EP_ALIGNED, if bits = 8 */
    const int8_t *tables; /* (channels or 1, 2^bits) values; unused if bits = 8 */
    uint8_t bits;         /* 1-8 */
    uint8_t stride;       /* entries from one channel's table to the next; 0: all channels share one */
} ep_weights;

/* What reads eight weights: the first four by `first` or `pairs`, the others by `second` or `others`, the tables of two
   channels or the same of a shared one. pairs: what two indices of up to 4 bits name; first: what one of more names. */
typedef struct {
    const int8_t *first, *second;
    const uint32_t *pairs, *others;
} ep_tables;

/* words of room ep_prepare_table takes, at most */
#define EP_TABLE_WORDS(bits) ((bits) > 4 ? 0 : 1 << (2 * (bits)))

/* pairs: (4^bits) two values, as ep_dot_pair takes them, for every two indices. Does nothing for more than 4 bits. */
void ep_prepare_table(const int8_t *table, int bits, uint32_t *pairs);

/* Decode `groups` × 8 weights from the first of which `start` groups lie before.
   values: (groups, 4) pairs as ep_dot_pair takes them. */
void ep_decode(const ep_weights *weights, int32_t start, int32_t groups, const ep_tables *tables, uint32_t *values);

/* one weight of number `index`, the slow way */
int8_t ep_weight_at(const ep_weights *weights, int32_t index, int32_t channel);

#endif
