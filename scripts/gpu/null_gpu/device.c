/* The cards: devices with the figures of an H100, their contexts, and the driver's own functions.

   The driver is asked by Triton, by Inductor's launcher and, for a few functions, by PyTorch. A function of the driver
   that neither needs is not here. */

#define _GNU_SOURCE
#include "null_gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int attribute(int which) {
    switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return CARD_THREADS;
    case cudaDevAttrMaxBlockDimZ: return CARD_THREADS_Z;
    case cudaDevAttrMaxGridDimX: return (int)CARD_GRID_X;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return CARD_GRID_YZ;
    case cudaDevAttrMaxSharedMemoryPerBlock: return CARD_SHARED;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return CARD_SHARED_ASKED;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return CARD_SHARED_WHOLE;
    case cudaDevAttrReservedSharedMemoryPerBlock: return CARD_SHARED_WHOLE - CARD_SHARED_ASKED;
    case cudaDevAttrTotalConstantMemory: return 65536;
    case cudaDevAttrWarpSize: return CARD_WARP;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return CARD_REGISTERS;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return CARD_THREADS_PER_MULTIPROCESSOR;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return CARD_BLOCKS_PER_MULTIPROCESSOR;
    case cudaDevAttrClockRate: return CARD_CLOCK_KHZ;
    case cudaDevAttrMemoryClockRate: return CARD_MEMORY_CLOCK_KHZ;
    case cudaDevAttrGlobalMemoryBusWidth: return CARD_BUS_BITS;
    case cudaDevAttrL2CacheSize: return CARD_L2;
    case cudaDevAttrMultiProcessorCount: return CARD_MULTIPROCESSORS;
    case cudaDevAttrComputeCapabilityMajor: return CARD_MAJOR;
    case cudaDevAttrComputeCapabilityMinor: return CARD_MINOR;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrCooperativeLaunch: return 1;
    default: return 0; /* everything that a program may try is absent */
    }
}

int blocks_at_once(int threads, size_t shared) {
    int blocks = CARD_THREADS_PER_MULTIPROCESSOR / (threads > 0 ? threads : 1);
    int by_shared = (int)(CARD_SHARED_WHOLE / (shared + CARD_SHARED_WHOLE - CARD_SHARED_ASKED));
    if (blocks > CARD_BLOCKS_PER_MULTIPROCESSOR)
        blocks = CARD_BLOCKS_PER_MULTIPROCESSOR;
    return blocks < by_shared ? blocks : by_shared;
}

/* ---- devices: NULL_GPU_COUNT of them, of which a process sees those that CUDA_VISIBLE_DEVICES numbers */

static int visible[MOST_DEVICES], devices;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static __thread int current;

/* As in CUDA, the list ends before the first entry that is no device. */
static void find_devices(void) {
    const char *count = getenv("NULL_GPU_COUNT"), *list = getenv("CUDA_VISIBLE_DEVICES");
    int all = count && *count ? atoi(count) : 1;
    if (all < 1 || all > MOST_DEVICES) {
        fprintf(stderr, "null GPU: NULL_GPU_COUNT must be 1 to %d, not %s\n", MOST_DEVICES, count);
        abort();
    }
    for (int device = 0; !list && device < all; device++)
        visible[devices++] = device;
    while (list && *list && devices < MOST_DEVICES) {
        char *end;
        long device = strtol(list, &end, 10);
        if (end == list || device < 0 || device >= all)
            break;
        visible[devices++] = (int)device;
        list = *end == ',' ? end + 1 : "";
    }
}

static bool exists(int device) {
    pthread_once(&once, find_devices);
    return device >= 0 && device < devices;
}

int current_device(void) { return current; }
int physical_device(void) { return exists(current) ? visible[current] : 0; }

EXPORTED cudaError_t cudaGetDeviceCount(int *count) {
    exists(0);
    *count = devices;
    return devices ? cudaSuccess : failed(cudaErrorNoDevice, __func__);
}

EXPORTED cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaSetDevice(int device) {
    if (!exists(device))
        return failed(cudaErrorInvalidDevice, __func__);
    current = device;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

/* Compilers look up what they have compiled by the card's name, too. */
static const char *card_name(void) {
    const char *asked = getenv("NULL_GPU_NAME");
    return asked && *asked ? asked : CARD_NAME;
}

EXPORTED cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    size_t left, whole;
    if (!exists(device))
        return failed(cudaErrorInvalidDevice, __func__);
    cudaMemGetInfo(&left, &whole);
    memset(found, 0, sizeof *found);
    snprintf(found->uuid.bytes, sizeof found->uuid.bytes, "null GPU %d", visible[device]);
    found->pciBusID = visible[device];
    snprintf(found->name, sizeof found->name, "%s", card_name());
    found->totalGlobalMem = whole;
    found->sharedMemPerBlock = CARD_SHARED;
    found->sharedMemPerBlockOptin = CARD_SHARED_ASKED;
    found->sharedMemPerMultiprocessor = CARD_SHARED_WHOLE;
    found->reservedSharedMemPerBlock = CARD_SHARED_WHOLE - CARD_SHARED_ASKED;
    found->regsPerBlock = found->regsPerMultiprocessor = CARD_REGISTERS;
    found->warpSize = CARD_WARP;
    found->memPitch = 2147483647;
    found->maxThreadsPerBlock = CARD_THREADS;
    found->maxThreadsDim[0] = found->maxThreadsDim[1] = CARD_THREADS;
    found->maxThreadsDim[2] = CARD_THREADS_Z;
    found->maxGridSize[0] = (int)CARD_GRID_X;
    found->maxGridSize[1] = found->maxGridSize[2] = CARD_GRID_YZ;
    found->totalConstMem = 65536;
    found->major = CARD_MAJOR;
    found->minor = CARD_MINOR;
    found->textureAlignment = 512;
    found->multiProcessorCount = CARD_MULTIPROCESSORS;
    found->maxThreadsPerMultiProcessor = CARD_THREADS_PER_MULTIPROCESSOR;
    found->maxBlocksPerMultiProcessor = CARD_BLOCKS_PER_MULTIPROCESSOR;
    found->memoryBusWidth = CARD_BUS_BITS;
    found->l2CacheSize = CARD_L2;
    found->canMapHostMemory = found->concurrentKernels = found->unifiedAddressing = found->cooperativeLaunch = 1;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) {
    (void)device;
    *value = attribute(which);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaDeviceGetPCIBusId(char *text, int room, int device) {
    snprintf(text, room, "0000:%02x:00.0", exists(device) ? visible[device] : 0);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int other) {
    (void)device, (void)other;
    *can = 0;
    return cudaSuccess;
}

/* This library is also what programs open as the driver, so its functions are looked up in itself. */
EXPORTED cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                                      unsigned long long flags,
                                                      enum cudaDriverEntryPointQueryResult *result) {
    (void)version, (void)flags;
    char second[128];
    snprintf(second, sizeof second, "%s_v2", name);
    void *found = dlsym(RTLD_DEFAULT, name);
    if (!found)
        found = dlsym(RTLD_DEFAULT, second);
    *function = found;
    if (result)
        *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return found ? cudaSuccess : failed(cudaErrorSymbolNotFound, name);
}

/* ---- the driver: device and context */

static char contexts[MOST_DEVICES]; /* their addresses are the handles of the devices' contexts */

EXPORTED CUresult cuInit(unsigned flags) { return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
EXPORTED CUresult cuDriverGetVersion(int *version) { return driver(cudaDriverGetVersion(version)); }
EXPORTED CUresult cuDeviceGetCount(int *count) { return driver(cudaGetDeviceCount(count)); }

EXPORTED CUresult cuDeviceGet(CUdevice *device, int number) {
    *device = number;
    return exists(number) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORTED CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
    return driver(cudaDeviceGetAttribute(value, (enum cudaDeviceAttr)which, device));
}

EXPORTED CUresult cuDeviceGetName(char *name, int room, CUdevice device) {
    (void)device;
    snprintf(name, room, "%s", card_name());
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuCtxGetCurrent(CUcontext *found) {
    *found = (CUcontext)&contexts[current];
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuCtxSetCurrent(CUcontext context) {
    return context ? driver(cudaSetDevice((int)((char *)context - contexts))) : CUDA_SUCCESS;
}

EXPORTED CUresult cuCtxGetDevice(CUdevice *device) { return driver(cudaGetDevice(device)); }

EXPORTED CUresult cuCtxGetLimit(size_t *value, CUlimit limit) {
    (void)limit;
    *value = 0;
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
    (void)limit, (void)value;
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuDevicePrimaryCtxRetain(CUcontext *found, CUdevice device) {
    *found = (CUcontext)&contexts[device];
    return exists(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORTED CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    (void)device;
    *flags = 0;
    *active = 1;
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuStreamGetCtx(CUstream stream, CUcontext *found) {
    (void)stream;
    return cuCtxGetCurrent(found);
}

/* ---- the driver: modules and kernels, as Triton loads and launches them */

/* Loading waits for the card, so a capture refuses it. What is loaded must be a binary for the card, not text. */
static CUresult load(CUmodule *module, bool binary, const char *function) {
    cudaError_t error = refused_in_capture();
    if (!error && !binary)
        error = cudaErrorInvalidKernelImage;
    if (error)
        return driver(failed(error, function));
    *module = malloc(1);
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    return load(module, !memcmp(image, "\177ELF", 4), __func__);
}

EXPORTED CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options,
                                     void **values) {
    (void)count, (void)options, (void)values;
    return cuModuleLoadData(module, image);
}

EXPORTED CUresult cuModuleLoad(CUmodule *module, const char *path) {
    char start[4] = "";
    FILE *file = fopen(path, "rb");
    bool binary = file && fread(start, 1, 4, file) == 4 && !memcmp(start, "\177ELF", 4);
    if (file)
        fclose(file);
    return load(module, binary, __func__);
}

EXPORTED CUresult cuModuleUnload(CUmodule module) {
    free(module);
    return CUDA_SUCCESS;
}

/* A kernel is never freed: programs may hold it longer than its module. */
EXPORTED CUresult cuModuleGetFunction(CUfunction *kernel, CUmodule module, const char *name) {
    (void)module, (void)name;
    *kernel = malloc(1);
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction kernel) {
    struct cudaFuncAttributes found;
    cudaFuncGetAttributes(&found, kernel);
    *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? found.maxThreadsPerBlock
             : which == CU_FUNC_ATTRIBUTE_NUM_REGS            ? found.numRegs
                                                              : 0;
    return CUDA_SUCCESS;
}

/* Attributes that a driver does not know it refuses; then Triton falls back to those of older drivers. */
EXPORTED CUresult cuFuncSetAttribute(CUfunction kernel, CUfunction_attribute which, int value) {
    switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        return driver(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, value));
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED: return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
}

EXPORTED CUresult cuFuncSetCacheConfig(CUfunction kernel, CUfunc_cache preference) {
    (void)kernel, (void)preference;
    return CUDA_SUCCESS;
}

EXPORTED CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction kernel, int threads,
                                                              size_t shared) {
    return driver(cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, threads, shared));
}

/* For the driver a wrong configuration is an invalid value. */
static CUresult launch(CUfunction kernel, dim3 grid, dim3 block, unsigned shared, CUstream stream,
                       const char *function) {
    cudaError_t error = launched(kernel, grid, block, shared, stream);
    if (error == cudaErrorInvalidConfiguration)
        error = cudaErrorInvalidValue;
    return error ? driver(failed(error, function)) : CUDA_SUCCESS;
}

EXPORTED CUresult cuLaunchKernel(CUfunction kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                 unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                                 CUstream stream, void **arguments, void **extra) {
    (void)arguments, (void)extra;
    return launch(kernel, (dim3){grid_x, grid_y, grid_z}, (dim3){block_x, block_y, block_z}, shared, stream, __func__);
}

EXPORTED CUresult cuLaunchCooperativeKernel(CUfunction kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                                            CUstream stream, void **arguments) {
    return cuLaunchKernel(kernel, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, arguments, NULL);
}

EXPORTED CUresult cuLaunchKernelEx(const CUlaunchConfig *how, CUfunction kernel, void **arguments, void **extra) {
    (void)arguments, (void)extra;
    return launch(kernel, (dim3){how->gridDimX, how->gridDimY, how->gridDimZ},
                  (dim3){how->blockDimX, how->blockDimY, how->blockDimZ}, how->sharedMemBytes, how->hStream, __func__);
}
