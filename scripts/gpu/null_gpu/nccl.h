/* Collectives of the null GPU: what its communicators (nccl.c), their exchange (exchange.c) and their arithmetic
   (reductions.c) share. Numbers of types and reductions are those of NCCL's own header, which is not used: what it
   includes is not installed everywhere. */

#ifndef NULL_GPU_NCCL_H
#define NULL_GPU_NCCL_H

#include "null_gpu.h"

#define MOST_RANKS 16

enum type { INT8, UINT8, INT32, UINT32, INT64, UINT64, FLOAT16, FLOAT32, FLOAT64, BFLOAT16, TYPES };
enum reduction { SUM, PRODUCT, MAXIMUM, MINIMUM, AVERAGE, REDUCTIONS };
enum what { ALL_REDUCE, REDUCE, BROADCAST, ALL_GATHER, GATHER, REDUCE_SCATTER, ALL_TO_ALL, SEND, RECEIVE };

/* One call. `count` is that of one rank's part; `peer` the root, or the other side. */
struct work {
    enum what what;
    const void *from;
    void *to;
    size_t count;
    enum type type;
    enum reduction reduction;
    int peer;
};

/* reductions.c */
size_t size_of(enum type type);
void reduce(void *sum, const void *other, size_t count, enum type type, enum reduction reduction);
void divide(void *sum, size_t count, enum type type, int by);

/* exchange.c: an exchange is NULL where no memory can be shared. The functions give false if it was aborted. */
struct exchange;
struct exchange *open_exchange(const char *name, int rank, int ranks, int device, const bool *aborted);
void close_exchange(struct exchange *exchange);
int device_of(const struct exchange *exchange, int rank);
bool collect(struct exchange *exchange, const struct work *work);
bool pass_all(struct exchange *exchange, const struct work *works, size_t count); /* sends and receives of a group */

#endif
