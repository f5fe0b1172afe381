/* Memory of the cards and pinned memory of the host.

   All are ranges of addresses that are reserved once and given out from their start to their end, never twice. So
   whether an address is on the card is one comparison, which needs no lock, and memory that was given back is no longer
   mapped: whoever reads or writes it dies of a segmentation fault. Pages exist when they are first touched, and kernels
   touch none. What a kernel would read or write outside of its tensors is not seen. */

#define _GNU_SOURCE
#include "null_gpu.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STEP ((size_t)2 << 20) /* allocations are aligned to it, as cudaMalloc's large ones are */

struct block {
    char *start;
    size_t bytes, mapped;
};

struct range {
    size_t whole;
    char *start; /* set once */
    size_t next; /* first byte that was never given out */
    struct block *blocks;
    size_t count, room;
};

#define WHOLE ((size_t)8 << 40)

static struct range devices[MOST_DEVICES], pinned;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static size_t total, used[MOST_DEVICES]; /* bytes of a card */

/* The lock is held. */
static void reserve(struct range *range) {
    if (range->start)
        return;
    range->whole = WHOLE;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *start = mmap(NULL, range->whole, PROT_NONE, flags, -1, 0);
    if (start == MAP_FAILED) {
        fprintf(stderr, "null GPU: cannot reserve %zu GB of addresses; raise `ulimit -v`\n", range->whole >> 30);
        abort();
    }
    range->start = start;
}

static void prepare(void) {
    const char *asked = getenv("NULL_GPU_MEMORY_GB");
    total = (size_t)((asked ? atof(asked) : CARD_MEMORY_GB) * 1e9);
}

/* Map further pages of a range; NULL where there are none. The lock is held. */
static void *take(struct range *range, size_t bytes) {
    size_t mapped = ((bytes ? bytes : 1) + STEP - 1) / STEP * STEP;
    if (mapped > range->whole - range->next)
        return NULL;
    if (range->count == range->room) {
        size_t room = range->room ? 2 * range->room : 256;
        struct block *more = realloc(range->blocks, room * sizeof *more);
        if (!more)
            return NULL;
        range->blocks = more;
        range->room = room;
    }
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    char *start = mmap(range->start + range->next, mapped, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    madvise(start, mapped, MADV_NOHUGEPAGE); /* else a small copy takes two megabytes */
    range->next += mapped;
    range->blocks[range->count++] = (struct block){start, bytes, mapped};
    return start;
}

/* Unmap what `take` gave; its bytes, or SIZE_MAX where it gave no such thing. The lock is held. */
static size_t give_back(struct range *range, const void *address) {
    for (size_t i = 0; i < range->count; i++) {
        struct block block = range->blocks[i];
        if (block.start != address)
            continue;
        mmap(block.start, block.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        range->blocks[i] = range->blocks[--range->count];
        return block.bytes;
    }
    return SIZE_MAX;
}

static bool within(const struct range *range, const void *address) {
    const char *place = address;
    return range->start && place >= range->start && place < range->start + range->whole;
}

/* The device that an address belongs to; -1: none. */
static int device_at(const void *address) {
    for (int device = 0; device < MOST_DEVICES; device++)
        if (within(&devices[device], address))
            return device;
    return -1;
}

bool on_device(const void *address) { return device_at(address) >= 0; }

/* ---- results: what the host reads back of what a kernel should have written

   Memory that was used before holds anything, and a host that takes it for the size of a result asks for absurd tensors.
   So what is small enough to be such a result is read as zeros, unless exactly these bytes were copied to the card. The
   table forgets what falls on a taken place. */

static struct {
    const void *address;
    size_t bytes;
} told[1 << 16];

static size_t place(const void *address) { return (size_t)((uintptr_t)address * 0x9E3779B97F4A7C15u >> 48); }

static void remember(const void *address, size_t bytes, bool known) {
    size_t at = place(address);
    pthread_mutex_lock(&lock);
    if (known) {
        told[at].address = address;
        told[at].bytes = bytes;
    } else if (told[at].address == address) {
        told[at].address = NULL;
    }
    pthread_mutex_unlock(&lock);
}

static bool is_known(const void *address, size_t bytes) {
    size_t at = place(address);
    pthread_mutex_lock(&lock);
    bool known = told[at].address == address && told[at].bytes == bytes;
    pthread_mutex_unlock(&lock);
    return known;
}

void copy(void *to, const void *from, size_t bytes) {
    bool in = on_device(to), out = on_device(from);
    if (!bytes || (bytes > SMALL_BYTES && in && out))
        return;
    bool known = !out || bytes > RESULT_BYTES || is_known(from, bytes);
    if (known || in)
        memmove(to, from, bytes);
    else
        memset(to, 0, bytes);
    if (in && bytes <= RESULT_BYTES)
        remember(to, bytes, known);
}

void fill(void *to, int value, size_t bytes) {
    if (bytes && bytes <= SMALL_BYTES)
        memset(to, value, bytes);
    if (bytes && bytes <= RESULT_BYTES)
        remember(to, bytes, true);
}

/* ---- allocations; `device` is -1 for pinned memory */

static cudaError_t allocate(void **address, size_t bytes, int device, const char *function) {
    cudaError_t error = refused_in_capture();
    if (error)
        return failed(error, function);
    pthread_once(&once, prepare);
    pthread_mutex_lock(&lock);
    struct range *range = device < 0 ? &pinned : &devices[device];
    reserve(range);
    *address = device >= 0 && bytes > total - used[device] ? NULL : take(range, bytes);
    if (*address && device >= 0)
        used[device] += bytes;
    pthread_mutex_unlock(&lock);
    return *address ? cudaSuccess : failed(cudaErrorMemoryAllocation, function);
}

/* As on a card this waits for all that is not over. */
static cudaError_t release(void *address, int device, const char *function) {
    if (!address)
        return cudaSuccess;
    cudaError_t error = refused_in_capture();
    if (error)
        return failed(error, function);
    wait_for_everything();
    pthread_mutex_lock(&lock);
    size_t bytes = give_back(device < 0 ? &pinned : &devices[device], address);
    if (bytes != SIZE_MAX && device >= 0)
        used[device] -= bytes;
    pthread_mutex_unlock(&lock);
    return bytes == SIZE_MAX ? failed(cudaErrorInvalidValue, function) : cudaSuccess;
}

EXPORTED cudaError_t cudaMalloc(void **address, size_t bytes) {
    return allocate(address, bytes, current_device(), __func__);
}

EXPORTED cudaError_t cudaFree(void *address) { return release(address, device_at(address), __func__); }
EXPORTED cudaError_t cudaFreeHost(void *address) { return release(address, -1, __func__); }

EXPORTED cudaError_t cudaHostAlloc(void **address, size_t bytes, unsigned flags) {
    (void)flags;
    return allocate(address, bytes, -1, __func__);
}

EXPORTED cudaError_t cudaMallocHost(void **address, size_t bytes) {
    return allocate(address, bytes, -1, __func__);
}

EXPORTED cudaError_t cudaMemGetInfo(size_t *left, size_t *whole) {
    pthread_once(&once, prepare);
    pthread_mutex_lock(&lock);
    *left = total - used[current_device()];
    *whole = total;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address) {
    memset(found, 0, sizeof *found);
    int device = device_at(address);
    bool of_device = device >= 0, of_pinned = within(&pinned, address);
    found->type = of_device   ? cudaMemoryTypeDevice
                  : of_pinned ? cudaMemoryTypeHost
                              : cudaMemoryTypeUnregistered;
    found->device = of_device ? device : of_pinned ? current_device() : -2; /* -2: no device, as CUDA has it */
    found->devicePointer = of_device || of_pinned ? (void *)address : NULL;
    found->hostPointer = of_device ? NULL : (void *)address;
    return cudaSuccess;
}

EXPORTED CUresult cuPointerGetAttribute(void *value, CUpointer_attribute which, CUdeviceptr address) {
    if (which == CU_POINTER_ATTRIBUTE_DEVICE_POINTER) { /* what Triton asks of every argument */
        *(CUdeviceptr *)value = address;
        return on_device((void *)address) || within(&pinned, (void *)address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    if (which == CU_POINTER_ATTRIBUTE_MEMORY_TYPE) {
        *(unsigned *)value = on_device((void *)address) ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
        return CUDA_SUCCESS;
    }
    return driver(not_replaced("cuPointerGetAttribute of this kind"));
}

/* ---- copies and fills: when they are called, or never where a graph captures them */

EXPORTED cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                     cudaStream_t stream) {
    (void)kind;
    bool captured;
    cudaError_t error = started(COPIES, stream, &captured);
    if (error)
        return failed(error, __func__);
    if (!captured)
        copy(to, from, bytes);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    cudaError_t error = refused_in_capture();
    return error ? failed(error, __func__) : cudaMemcpyAsync(to, from, bytes, kind, NULL);
}

EXPORTED cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes,
                                         cudaStream_t stream) {
    (void)to_device, (void)from_device;
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

EXPORTED cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                                       size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    (void)kind;
    bool captured;
    cudaError_t error = started(COPIES, stream, &captured);
    if (error)
        return failed(error, __func__);
    bool skipped = captured || (width * height > SMALL_BYTES && on_device(to) && on_device(from));
    for (size_t row = 0; row < height && !skipped; row++)
        copy((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    bool captured;
    cudaError_t error = started(FILLS, stream, &captured);
    if (error)
        return failed(error, __func__);
    if (!captured)
        fill(to, value, bytes);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    cudaError_t error = refused_in_capture();
    return error ? failed(error, __func__) : cudaMemsetAsync(to, value, bytes, NULL);
}

/* Constants and variables of kernels: no kernel reads them, so all of them are one area. */
EXPORTED cudaError_t cudaGetSymbolAddress(void **address, const void *symbol) {
    static char area[1 << 20];
    (void)symbol;
    *address = area;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaMemcpyToSymbol(const void *symbol, const void *from, size_t bytes, size_t offset,
                                        enum cudaMemcpyKind kind) {
    (void)symbol, (void)from, (void)bytes, (void)offset, (void)kind;
    return cudaSuccess;
}

EXPORTED CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    return driver(cudaMemcpyAsync((void *)to, from, bytes, cudaMemcpyHostToDevice, stream));
}

EXPORTED CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return driver(cudaMemcpyAsync(to, (const void *)from, bytes, cudaMemcpyDeviceToHost, stream));
}

EXPORTED CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    return driver(cudaMemsetAsync((void *)to, value, bytes, stream));
}

EXPORTED CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
    bool captured;
    cudaError_t error = started(FILLS, stream, &captured);
    if (error)
        return driver(failed(error, __func__));
    for (size_t i = 0; i < count && !captured && 4 * count <= SMALL_BYTES; i++)
        ((unsigned *)to)[i] = value;
    return CUDA_SUCCESS;
}
