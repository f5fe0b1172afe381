/* Errors: the last one of each thread, names, and texts as programs look for them. */

#include "null_gpu.h"

#include <stdio.h>
#include <stdlib.h>

static __thread cudaError_t last = cudaSuccess;

struct known {
    int number;
    const char *name, *text;
};

/* Numbers of the runtime and of the driver agree for all of these. */
static const struct known KNOWN[] = {
    {0, "cudaSuccess", "no error"},
    {1, "cudaErrorInvalidValue", "invalid argument"},
    {2, "cudaErrorMemoryAllocation", "out of memory"},
    {9, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {100, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {101, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {200, "cudaErrorInvalidKernelImage", "device kernel image is invalid"},
    {400, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {401, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {500, "cudaErrorSymbolNotFound", "named symbol not found"},
    {600, "cudaErrorNotReady", "device not ready"},
    {801, "cudaErrorNotSupported", "operation not supported"},
    {900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {901, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
    {902, "cudaErrorStreamCaptureMerge", "operation would result in a merge of separate capture sequences"},
    {903, "cudaErrorStreamCaptureUnmatched", "capture was not ended in the same stream as it began"},
    {904, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {905, "cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"},
    {906, "cudaErrorStreamCaptureImplicit", "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "cudaErrorStreamCaptureWrongThread", "attempt to terminate a thread-local capture sequence from another thread"},
};

static const struct known *find(int error) {
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (KNOWN[i].number == error)
            return &KNOWN[i];
    return NULL;
}

const char *error_name(int error) {
    const struct known *known = find(error);
    return known ? known->name : "unknown to the null GPU";
}

const char *error_text(int error) {
    const struct known *known = find(error);
    return known ? known->text : "unrecognized error code";
}

cudaError_t failed(cudaError_t error, const char *function) {
    last = error;
    if (getenv("NULL_GPU_TRACE"))
        fprintf(stderr, "null GPU: %s: %s (%d)\n", function, error_text(error), error);
    return error;
}

CUresult driver(cudaError_t error) {
    if (error)
        last = cudaSuccess;
    return (CUresult)error;
}

int not_replaced(const char *function) {
    fprintf(stderr, "null GPU: %s has no replacement; the caller gets 'operation not supported'\n", function);
    last = cudaErrorNotSupported;
    return cudaErrorNotSupported;
}

EXPORTED cudaError_t cudaGetLastError(void) {
    cudaError_t error = last;
    last = cudaSuccess;
    return error;
}

EXPORTED cudaError_t cudaPeekAtLastError(void) { return last; }
EXPORTED const char *cudaGetErrorString(cudaError_t error) { return error_text(error); }
EXPORTED const char *cudaGetErrorName(cudaError_t error) { return error_name(error); }

EXPORTED CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error_text(error);
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuGetErrorName(CUresult error, const char **name) {
    *name = error_name(error);
    return CUDA_SUCCESS;
}
