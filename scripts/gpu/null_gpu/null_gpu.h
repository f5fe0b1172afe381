/* What the files of the null GPU share: figures of the card it plays, and what a call is checked and counted by. */

#ifndef NULL_GPU_H
#define NULL_GPU_H

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>

/* Everything is compiled with hidden visibility but for the functions that replace CUDA's. */
#define EXPORTED __attribute__((visibility("default")))

/* An H100 as `cudaGetDeviceProperties` describes it. */
#define MOST_DEVICES 8
#define CARD_NAME "Null GPU (as H100)"
#define CARD_MEMORY_GB 79.1
#define CARD_MAJOR 9
#define CARD_MINOR 0
#define CARD_MULTIPROCESSORS 132
#define CARD_WARP 32
#define CARD_THREADS 1024
#define CARD_THREADS_Z 64
#define CARD_GRID_X 2147483647u
#define CARD_GRID_YZ 65535u
#define CARD_THREADS_PER_MULTIPROCESSOR 2048
#define CARD_BLOCKS_PER_MULTIPROCESSOR 32
#define CARD_REGISTERS 65536
#define CARD_SHARED 49152         /* bytes a block may have without asking */
#define CARD_SHARED_ASKED 232448  /* bytes a block may have after `cudaFuncSetAttribute` */
#define CARD_SHARED_WHOLE 233472  /* bytes of a multiprocessor */
#define CARD_L2 52428800
#define CARD_BUS_BITS 5120
#define CARD_CLOCK_KHZ 1980000
#define CARD_MEMORY_CLOCK_KHZ 2619000

/* Copies and fills of up to so many bytes happen; larger ones inside the card are skipped: they cost time and memory,
   and what they move means nothing. */
#define SMALL_BYTES (64u << 10)

/* What the host reads of up to so many bytes may be a result that decides about its further way. */
#define RESULT_BYTES 256u

/* Calls that start work, since the process began. */
enum kind { KERNELS, PRODUCTS, COPIES, FILLS, GRAPHS, COLLECTIVES, KINDS };

/* errors.c: every error passes through `failed`, which keeps it for `cudaGetLastError` and shows it if
   NULL_GPU_TRACE is set. An error of the driver passes on through `driver`: the runtime does not keep those. */
cudaError_t failed(cudaError_t error, const char *function);
CUresult driver(cudaError_t error);
const char *error_name(int error);
const char *error_text(int error);
int not_replaced(const char *function); /* for the functions that builder.py generates */

/* device.c */
int attribute(int which); /* of cudaDeviceAttr and CUdevice_attribute, whose numbers are the same */
int blocks_at_once(int threads, size_t shared);
int current_device(void);  /* of this thread */
int physical_device(void); /* the same, as the host counts them */

/* memory.c */
bool on_device(const void *address);
void copy(void *to, const void *from, size_t bytes);
void fill(void *to, int value, size_t bytes);

/* streams.c: all of these return the error that real CUDA has there, or cudaSuccess. */
cudaError_t refused_in_capture(void);   /* for calls that the documentation calls potentially unsafe */
cudaError_t refused_if_any_captures(void); /* for calls that wait for the whole device */
cudaError_t refused_on(cudaStream_t stream); /* for calls that wait for a stream or ask about it */
/* Work of a kind on a stream; `captured` says that it was put into a graph, so that it must not happen now. */
cudaError_t started(enum kind kind, cudaStream_t stream, bool *captured);

struct pending *pending_of(cudaStream_t stream); /* what its next work waits for */

/* pending.c: work that takes its time. A place is that of a communicator; its work is numbered. */
#define MOST_COMMUNICATORS 32
struct pending {
    unsigned long upto[MOST_COMMUNICATORS];
};
int take_place(void); /* -1: all are taken */
void leave_place(int place);
unsigned long next_number(int place);
void is_over(int place, unsigned long number);
void join_pending(struct pending *own, const struct pending *other);
bool all_over(const struct pending *pending);
void wait_until_over(const struct pending *pending);
void wait_for_everything(void);

/* nccl.c and streams.c: collectives in graphs. */
struct batch;
void keep_in_graph(cudaStream_t stream, struct batch *batch);
struct batch *copy_batches(const struct batch *batches);
void free_batches(struct batch *batches);
void launch_batches(const struct batch *batches, struct pending *stream);
void append_batch(struct batch **all, struct batch *batch);

/* launches.c */
cudaError_t launched(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream);
void allow_shared(const void *kernel, size_t bytes);

#endif
