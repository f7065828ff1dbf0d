#include "ep_softmax.h"

#include "ep_requantize.h"

/* x · 2^n, saturated */
static int32_t raised(int32_t x, int n)
{
    const int32_t most = INT32_MAX >> n;
    return x > most ? INT32_MAX : x < -most - 1 ? INT32_MIN : ep_shift_left(x, n);
}

/* exp(a) as Q0.31, a <= 0 as Q5.26: a Taylor series on (-1/4, 0] times a factor for every bit above */
static int32_t exponential(int32_t a)
{
    static const int32_t factors[] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int32_t quarter = 1 << 24;
    const int32_t rest = (a & (quarter - 1)) - quarter;
    const int32_t x = ep_shift_left(rest, 5) + (1 << 28); /* Q0.31, about -1/8 */
    const int32_t x2 = ep_high_product(x, x), x3 = ep_high_product(x2, x), x4 = ep_high_product(x2, x2);
    const int32_t sixth = ep_high_product(ep_sum(ep_shift_right(x4, 2), x3), 715827883);
    const int32_t tail = ep_shift_right(ep_sum(sixth, x2), 1);
    int32_t result = ep_sum(1895147668, ep_high_product(1895147668, ep_sum(x, tail)));
    const int32_t remainder = rest - a;
    for (int n = 0; n < 7; ++n)
        if (remainder & (1 << (24 + n)))
            result = ep_high_product(result, factors[n]);
    return a == 0 ? INT32_MAX : result;
}

/* 1 / (1 + a) as Q0.31, a in [0, 1) as Q0.31: three steps of Newton's method */
static int32_t reciprocal(int32_t a)
{
    const int32_t half = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = ep_sum(1515870810, ep_high_product(half, -1010580540)); /* Q2.29: 48/17 - 32/17 · half */
    for (int n = 0; n < 3; ++n) {
        const int32_t missing = ep_sum(1 << 29, -ep_high_product(half, x));
        x = ep_sum(x, raised(ep_high_product(x, missing), 2));
    }
    return raised(x, 1);
}

static int32_t scaled(const ep_softmax_layer *layer, int32_t difference)
{
    return exponential(ep_high_product(ep_shift_left(difference, layer->left), layer->multiplier));
}

void ep_softmax(const ep_softmax_layer *layer, const int8_t *input, int8_t *output)
{
    for (int32_t row = 0; row < layer->rows; ++row, input += layer->depth, output += layer->depth) {
        int32_t largest = INT8_MIN, sum = 0, zeros = 0, factor; /* sum: Q12.19 */
        for (int32_t n = 0; n < layer->depth; ++n)
            largest = input[n] > largest ? input[n] : largest;
        for (int32_t n = 0; n < layer->depth; ++n)
            if (input[n] - largest >= layer->least)
                sum = ep_sum(sum, ep_shift_right(scaled(layer, input[n] - largest), 12));
        for (uint32_t bits = (uint32_t)sum; bits && !(bits >> 31); bits <<= 1)
            ++zeros;
        factor = reciprocal((int32_t)(((uint32_t)sum << zeros) - (UINT32_C(1) << 31)));
        for (int32_t n = 0; n < layer->depth; ++n) {
            const int32_t difference = input[n] - largest;
            int32_t x = INT8_MIN;
            if (difference >= layer->least)
                x += ep_shift_right(ep_high_product(factor, scaled(layer, difference)), 12 - zeros + 31 - 8);
            output[n] = (int8_t)ep_clamp(x, INT8_MIN, INT8_MAX);
        }
    }
}
