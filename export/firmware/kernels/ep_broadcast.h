/* Two tensors walked together, either repeated along dimensions where it has one element. */
#ifndef EP_BROADCAST_H
#define EP_BROADCAST_H

#include <stdint.h>

typedef struct {
    int32_t size[4];   /* of the output; the generator joins dimensions that lie together */
    int32_t first[4];  /* elements from one to the next along each dimension; 0: repeated */
    int32_t second[4];
} ep_shape;

/* for every row of the output: a, b and out at its start, `step_a`, `step_b` from element to element, `count` of them */
#define EP_FOR_ROWS(shape, a, b, out)                                                        \
    for (int32_t i = 0, count = (shape)->size[3]; i < (shape)->size[0]; ++i)                 \
        for (int32_t j = 0; j < (shape)->size[1]; ++j)                                       \
            for (int32_t k = 0; k < (shape)->size[2]; ++k, (out) += count)

#define EP_ROW(steps) ((i) * (steps)[0] + (j) * (steps)[1] + (k) * (steps)[2])

#endif
