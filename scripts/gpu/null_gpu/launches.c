/* Launches of kernels and matrix products: checked, counted, and nothing else. */

#include "null_gpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- shared memory that kernels have asked for */

struct asked {
    const void *kernel;
    size_t bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct asked *all_asked;
static size_t count;

static struct asked *find(const void *kernel) {
    for (size_t i = 0; i < count; i++)
        if (all_asked[i].kernel == kernel)
            return &all_asked[i];
    return NULL;
}

void allow_shared(const void *kernel, size_t bytes) {
    pthread_mutex_lock(&lock);
    struct asked *found = find(kernel);
    if (!found && bytes > CARD_SHARED) {
        all_asked = realloc(all_asked, (count + 1) * sizeof *all_asked);
        found = &all_asked[count++];
        found->kernel = kernel;
    }
    if (found)
        found->bytes = bytes;
    pthread_mutex_unlock(&lock);
}

static size_t allowed_shared(const void *kernel) {
    pthread_mutex_lock(&lock);
    struct asked *found = find(kernel);
    size_t bytes = found ? found->bytes : CARD_SHARED;
    pthread_mutex_unlock(&lock);
    return bytes;
}

/* ---- launches */

cudaError_t launched(const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    bool grid_fits = grid.x && grid.y && grid.z && grid.x <= CARD_GRID_X && grid.y <= CARD_GRID_YZ && grid.z <= CARD_GRID_YZ;
    size_t threads = (size_t)block.x * block.y * block.z;
    bool block_fits = threads && threads <= CARD_THREADS && block.z <= CARD_THREADS_Z;
    if (!grid_fits || !block_fits)
        return cudaErrorInvalidConfiguration;
    if (shared > CARD_SHARED && shared > allowed_shared(kernel))
        return cudaErrorInvalidValue;
    bool captured;
    return started(KERNELS, stream, &captured);
}

EXPORTED cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                                      cudaStream_t stream) {
    (void)arguments;
    cudaError_t error = launched(kernel, grid, block, shared, stream);
    return error ? failed(error, __func__) : cudaSuccess;
}

EXPORTED cudaError_t cudaLaunchCooperativeKernel(const void *kernel, dim3 grid, dim3 block, void **arguments,
                                                 size_t shared, cudaStream_t stream) {
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

EXPORTED cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *how, const void *kernel, void **arguments) {
    return cudaLaunchKernel(kernel, how->gridDim, how->blockDim, arguments, how->dynamicSmemBytes, how->stream);
}

/* What `kernel<<<grid, block, shared, stream>>>(...)` is compiled to: the configuration is put aside, and the kernel's
   own function on the host takes it up again and launches. */

struct configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};

static __thread struct configuration pushed;

cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void **, size_t, cudaStream_t);
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, cudaStream_t);
cudaError_t __cudaPopCallConfiguration(dim3 *, dim3 *, size_t *, void *);
cudaError_t __cudaGetKernel(cudaKernel_t *, const void *);
void **__cudaRegisterFatBinary(void *);
char __cudaInitModule(void **);

EXPORTED unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    pushed = (struct configuration){grid, block, shared, stream};
    return 0;
}

EXPORTED cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    *(cudaStream_t *)stream = pushed.stream;
    return cudaSuccess;
}

EXPORTED cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                                        cudaStream_t stream) {
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

EXPORTED cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return cudaSuccess;
}

EXPORTED void **__cudaRegisterFatBinary(void *binary) {
    static void *handle[1];
    (void)binary;
    return handle;
}

EXPORTED char __cudaInitModule(void **handle) {
    (void)handle;
    return 1;
}

EXPORTED cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute which, int value) {
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || value > CARD_SHARED_ASKED)
        return failed(cudaErrorInvalidValue, __func__);
    allow_shared(kernel, value);
    return cudaSuccess;
}

/* Registers and static shared memory of a kernel stand in its binary, which is not read: a block of up to 1024 threads
   always fits. */
EXPORTED cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = CARD_THREADS;
    found->numRegs = CARD_REGISTERS / CARD_THREADS;
    found->ptxVersion = found->binaryVersion = 10 * CARD_MAJOR + CARD_MINOR;
    found->maxDynamicSharedSizeBytes = (int)allowed_shared(kernel);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel,
                                                                            int threads, size_t shared,
                                                                            unsigned flags) {
    (void)kernel, (void)flags;
    *blocks = blocks_at_once(threads, shared);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads,
                                                                   size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads, shared, 0);
}

/* ---- cuBLAS: a handle knows its stream; every product counts as one launch, which it is not always */

struct products {
    cudaStream_t stream;
    int math_mode, pointer_mode;
};

int started_product(struct products *handle) { /* for the products that builder.py generates */
    bool captured;
    cudaError_t error = started(PRODUCTS, handle->stream, &captured);
    return error ? 13 /* CUBLAS_STATUS_EXECUTION_FAILED */ : 0;
}

EXPORTED int cublasCreate_v2(struct products **handle) {
    *handle = calloc(1, sizeof **handle);
    return 0;
}

EXPORTED int cublasDestroy_v2(struct products *handle) {
    free(handle);
    return 0;
}

EXPORTED int cublasSetStream_v2(struct products *handle, cudaStream_t stream) {
    handle->stream = stream;
    return 0;
}

EXPORTED int cublasGetStream_v2(struct products *handle, cudaStream_t *stream) {
    *stream = handle->stream;
    return 0;
}

EXPORTED int cublasSetMathMode(struct products *handle, int mode) {
    handle->math_mode = mode;
    return 0;
}

EXPORTED int cublasGetMathMode(struct products *handle, int *mode) {
    *mode = handle->math_mode;
    return 0;
}

EXPORTED int cublasSetPointerMode_v2(struct products *handle, int mode) {
    handle->pointer_mode = mode;
    return 0;
}

EXPORTED int cublasGetPointerMode_v2(struct products *handle, int *mode) {
    *mode = handle->pointer_mode;
    return 0;
}

EXPORTED int cublasLtCreate(struct products **handle) { return cublasCreate_v2(handle); }
EXPORTED size_t cublasLtGetVersion(void) { return 10000 * (CUDART_VERSION / 1000); }

EXPORTED int cublasGetVersion_v2(struct products *handle, int *version) {
    (void)handle;
    *version = (int)cublasLtGetVersion();
    return 0;
}

EXPORTED const char *cublasGetStatusString(int status) { return status ? "failed on the null GPU" : "success"; }
EXPORTED const char *cublasGetStatusName(int status) { return status ? "CUBLAS_STATUS_EXECUTION_FAILED" : "CUBLAS_STATUS_SUCCESS"; }

/* One algorithm, without a workspace. The result is that of cublasLt.h: algorithm, workspace, status, waves, reserved. */
EXPORTED int cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c, void *d,
                                            void *preference, int most, void *results, int *found) {
    (void)handle, (void)product, (void)a, (void)b, (void)c, (void)d, (void)preference;
    struct result {
        unsigned long long algorithm[8];
        size_t workspace;
        int status;
        float waves;
        int reserved[4];
    };
    if (most > 0)
        memset(results, 0, sizeof(struct result));
    *found = most > 0;
    return 0;
}

EXPORTED int cublasLtMatmul(void *handle, void *product, void *alpha, void *a, void *of_a, void *b, void *of_b,
                            void *beta, void *c, void *of_c, void *d, void *of_d, void *algorithm, void *workspace,
                            size_t bytes, cudaStream_t stream) {
    (void)handle, (void)product, (void)alpha, (void)a, (void)of_a, (void)b, (void)of_b, (void)beta, (void)c, (void)of_c;
    (void)d, (void)of_d, (void)algorithm, (void)workspace, (void)bytes;
    struct products on_stream = {.stream = stream};
    return started_product(&on_stream);
}
