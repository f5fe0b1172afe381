/* Streams, events, captures and graphs.

   Work is over as soon as it is started, but for collectives (pending.c), and events hold the host's time. What is kept
   exactly is what a capture allows: which streams take part in it, what depends on what, and which calls are refused.

   The dependencies are kept as clocks. Each stream of a capture counts the work that it was given; a row of a clock
   says how much of the work of every other stream comes before a stream's next work. At the end of a capture the
   stream that began it must come after all work of all others. */

#include "null_gpu.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_STREAMS 32 /* of one capture */

typedef long clocks[MOST_STREAMS];

struct capture {
    unsigned long long id;
    enum cudaStreamCaptureMode mode;
    pthread_t thread; /* that began it */
    struct CUstream_st *members[MOST_STREAMS]; /* the first one began it */
    clocks before[MOST_STREAMS];
    int count;
    bool broken; /* by a call that is not allowed; its end fails */
    struct CUgraph_st *graph;
    struct capture *next;
};

struct CUstream_st {
    struct capture *capture; /* or NULL */
    int place;               /* among its members */
    int priority;
    struct pending pending;
};

struct CUevent_st {
    bool recorded;
    double ms;                   /* of the host's clock */
    unsigned long long captured; /* id of the capture that it was recorded in, or 0 */
    clocks before;
    struct pending pending;
};

struct CUgraph_st {
    size_t nodes;
    struct batch *collectives;
};

struct CUgraphExec_st {
    size_t nodes;
    struct batch *collectives;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct capture *captures; /* all that have begun and not ended */
static unsigned long long last_id;
static struct CUstream_st per_thread; /* for cudaStreamPerThread, which PyTorch does not use */
static struct pending of_legacy;      /* of the streams of all devices that have no handle */
static __thread enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
static unsigned long long counts[KINDS];

/* The stream behind a handle; NULL for the legacy one, which no capture can hold. */
static struct CUstream_st *behind(cudaStream_t stream) {
    if (stream == NULL || stream == cudaStreamLegacy)
        return NULL;
    return stream == cudaStreamPerThread ? &per_thread : stream;
}

static struct capture *capture_of(cudaStream_t stream) {
    struct CUstream_st *found = behind(stream);
    return found ? found->capture : NULL;
}

struct pending *pending_of(cudaStream_t stream) {
    struct CUstream_st *found = behind(stream);
    return found ? &found->pending : &of_legacy;
}

static double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

/* ---- what captures refuse */

cudaError_t refused_in_capture(void) {
    cudaError_t error = cudaSuccess;
    pthread_mutex_lock(&lock);
    for (struct capture *one = captures; one && thread_mode != cudaStreamCaptureModeRelaxed; one = one->next) {
        bool own = pthread_equal(one->thread, pthread_self());
        bool of_all = thread_mode == cudaStreamCaptureModeGlobal && one->mode == cudaStreamCaptureModeGlobal;
        if (own ? one->mode != cudaStreamCaptureModeRelaxed : of_all) {
            one->broken = true;
            error = cudaErrorStreamCaptureUnsupported;
        }
    }
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t refused_if_any_captures(void) {
    pthread_mutex_lock(&lock);
    for (struct capture *one = captures; one; one = one->next)
        one->broken = true;
    cudaError_t error = captures ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
    pthread_mutex_unlock(&lock);
    return error;
}

cudaError_t refused_on(cudaStream_t stream) {
    pthread_mutex_lock(&lock);
    struct capture *capture = capture_of(stream);
    if (capture)
        capture->broken = true;
    pthread_mutex_unlock(&lock);
    return capture ? cudaErrorStreamCaptureUnsupported : refused_in_capture();
}

cudaError_t started(enum kind kind, cudaStream_t stream, bool *captured) {
    __atomic_fetch_add(&counts[kind], 1, __ATOMIC_RELAXED);
    cudaError_t error = cudaSuccess;
    pthread_mutex_lock(&lock);
    struct capture *capture = capture_of(stream);
    if (capture && capture->broken) {
        error = cudaErrorStreamCaptureInvalidated;
    } else if (capture) {
        int place = behind(stream)->place;
        capture->before[place][place]++;
        capture->graph->nodes++;
    }
    pthread_mutex_unlock(&lock);
    *captured = capture != NULL;
    if (!capture && (kind == COPIES || kind == FILLS)) /* they happen now */
        wait_until_over(pending_of(stream));
    return error;
}

/* For Python: how often each kind of work was started. */
EXPORTED void null_gpu_counts(unsigned long long *found) {
    for (int kind = 0; kind < KINDS; kind++)
        found[kind] = __atomic_load_n(&counts[kind], __ATOMIC_RELAXED);
}

/* ---- streams */

EXPORTED cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    (*stream)->priority = priority;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

EXPORTED cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }

EXPORTED cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    cudaError_t error = capture_of(stream) ? refused_on(stream) : cudaSuccess;
    if (error)
        return failed(error, __func__);
    if (behind(stream) != &per_thread)
        free(behind(stream));
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = behind(stream) ? behind(stream)->priority : 0;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    cudaError_t error = refused_on(stream);
    if (error)
        return failed(error, __func__);
    wait_until_over(pending_of(stream));
    return cudaSuccess;
}

/* That something is not ready is no error, and not kept as one. */
EXPORTED cudaError_t cudaStreamQuery(cudaStream_t stream) {
    cudaError_t error = refused_on(stream);
    if (error)
        return failed(error, __func__);
    return all_over(pending_of(stream)) ? cudaSuccess : cudaErrorNotReady;
}

EXPORTED cudaError_t cudaDeviceSynchronize(void) {
    cudaError_t error = refused_if_any_captures();
    if (error)
        return failed(error, __func__);
    wait_for_everything();
    return cudaSuccess;
}

EXPORTED CUresult cuStreamSynchronize(CUstream stream) { return driver(cudaStreamSynchronize(stream)); }
EXPORTED CUresult cuCtxSynchronize(void) { return driver(cudaDeviceSynchronize()); }

EXPORTED cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *given) {
    bool captured;
    cudaError_t error = started(KERNELS, stream, &captured);
    if (error)
        return failed(error, __func__);
    if (captured)
        return cudaSuccess;
    wait_until_over(pending_of(stream));
    function(given);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *given,
                                           unsigned flags) {
    (void)flags;
    cudaError_t error = capture_of(stream) ? refused_on(stream) : cudaSuccess;
    if (error)
        return failed(error, __func__);
    wait_until_over(pending_of(stream));
    function(stream, cudaSuccess, given);
    return cudaSuccess;
}

/* ---- events */

EXPORTED cudaError_t cudaEventCreate(cudaEvent_t *event) {
    *event = calloc(1, sizeof **event);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    (void)flags;
    return cudaEventCreate(event);
}

EXPORTED cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    cudaError_t error = cudaSuccess;
    pthread_mutex_lock(&lock);
    struct capture *capture = capture_of(stream);
    if (capture && capture->broken) {
        error = cudaErrorStreamCaptureInvalidated;
    } else {
        bool inside = capture && flags != cudaEventRecordExternal; /* an external one is a node, done by the graph */
        event->recorded = true;
        event->ms = now_ms();
        event->captured = inside ? capture->id : 0;
        if (inside)
            memcpy(event->before, capture->before[behind(stream)->place], sizeof event->before);
        else
            event->pending = *pending_of(stream);
    }
    pthread_mutex_unlock(&lock);
    return error ? failed(error, __func__) : cudaSuccess;
}

EXPORTED cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

EXPORTED cudaError_t cudaEventQuery(cudaEvent_t event) {
    cudaError_t error = event->captured ? cudaErrorCapturedEvent : refused_in_capture();
    if (error)
        return failed(error, __func__);
    return all_over(&event->pending) ? cudaSuccess : cudaErrorNotReady;
}

EXPORTED cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    cudaError_t error = event->captured ? cudaErrorCapturedEvent : refused_in_capture();
    if (error)
        return failed(error, __func__);
    wait_until_over(&event->pending);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t first, cudaEvent_t second) {
    if (first->captured || second->captured)
        return failed(cudaErrorCapturedEvent, __func__);
    if (!first->recorded || !second->recorded)
        return failed(cudaErrorInvalidResourceHandle, __func__);
    if (!all_over(&first->pending) || !all_over(&second->pending))
        return cudaErrorNotReady;
    double passed = second->ms - first->ms;
    *ms = passed > 1e-3 ? passed : 1e-3; /* never zero: programs divide by it */
    return cudaSuccess;
}

static struct capture *capture_with(unsigned long long id) {
    for (struct capture *one = captures; one; one = one->next)
        if (one->id == id)
            return one;
    return NULL;
}

static void join(struct capture *capture, struct CUstream_st *stream) {
    stream->capture = capture;
    stream->place = capture->count;
    capture->members[capture->count++] = stream;
}

/* What a stream's wait for an event means for captures. The lock is held. */
static cudaError_t wait_for(struct CUstream_st *stream, cudaEvent_t event, unsigned flags) {
    struct capture *own = stream ? stream->capture : NULL;
    struct capture *other = capture_with(event->captured);
    cudaError_t error = cudaSuccess;
    if (own && own->broken)
        return cudaErrorStreamCaptureInvalidated;
    if (!other) { /* of no capture, or of one that is over */
        bool crosses = own && event->recorded && flags != cudaEventWaitExternal;
        error = crosses ? cudaErrorStreamCaptureIsolation : cudaSuccess;
    } else if (other->broken) {
        error = cudaErrorStreamCaptureInvalidated;
    } else if (!stream) {
        error = cudaErrorStreamCaptureImplicit;
    } else if (own && own != other) {
        error = cudaErrorStreamCaptureMerge;
    } else if (!own && other->count == MOST_STREAMS) {
        fprintf(stderr, "null GPU: a capture of more than %d streams\n", MOST_STREAMS);
        error = cudaErrorNotSupported;
    } else {
        if (!own)
            join(other, stream);
        long *clock = other->before[stream->place];
        for (int i = 0; i < MOST_STREAMS; i++)
            if (clock[i] < event->before[i])
                clock[i] = event->before[i];
    }
    if (error && own)
        own->broken = true;
    if (error && other)
        other->broken = true;
    return error;
}

EXPORTED cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    pthread_mutex_lock(&lock);
    cudaError_t error = wait_for(behind(stream), event, flags);
    if (!error && !event->captured && !capture_of(stream))
        join_pending(pending_of(stream), &event->pending);
    pthread_mutex_unlock(&lock);
    return error ? failed(error, __func__) : cudaSuccess;
}

/* ---- captures */

EXPORTED cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
    enum cudaStreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return cudaSuccess;
}

static cudaError_t begin(cudaStream_t handle, struct CUgraph_st *graph, enum cudaStreamCaptureMode mode) {
    struct CUstream_st *stream = behind(handle);
    if (!stream)
        return cudaErrorStreamCaptureUnsupported;
    if (stream->capture)
        return cudaErrorIllegalState;
    struct capture *capture = calloc(1, sizeof *capture);
    capture->id = ++last_id;
    capture->mode = mode;
    capture->thread = pthread_self();
    capture->graph = graph ? graph : calloc(1, sizeof *capture->graph);
    capture->next = captures;
    captures = capture;
    join(capture, stream);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                                   const cudaGraphNode_t *nodes, const cudaGraphEdgeData *edges,
                                                   size_t count, enum cudaStreamCaptureMode mode) {
    (void)nodes, (void)edges, (void)count;
    pthread_mutex_lock(&lock);
    cudaError_t error = begin(stream, graph, mode);
    pthread_mutex_unlock(&lock);
    return error ? failed(error, __func__) : cudaSuccess;
}

EXPORTED cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
    return cudaStreamBeginCaptureToGraph(stream, NULL, NULL, NULL, 0, mode);
}

/* Whether a capture may end here, and well. */
static cudaError_t end_of(const struct capture *capture, const struct CUstream_st *stream) {
    if (capture->broken)
        return cudaErrorStreamCaptureInvalidated;
    for (int i = 1; i < capture->count; i++)
        if (capture->before[0][i] < capture->before[i][i])
            return cudaErrorStreamCaptureUnjoined;
    return capture->members[0] == stream ? cudaSuccess : cudaErrorStreamCaptureUnmatched;
}

static cudaError_t end(cudaStream_t stream, cudaGraph_t *graph) {
    struct capture *capture = capture_of(stream);
    *graph = NULL;
    if (!capture)
        return cudaErrorIllegalState;
    if (capture->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(capture->thread, pthread_self()))
        return cudaErrorStreamCaptureWrongThread;
    cudaError_t error = end_of(capture, behind(stream));
    if (!error)
        *graph = capture->graph;
    for (int i = 0; i < capture->count; i++)
        capture->members[i]->capture = NULL;
    struct capture **place = &captures;
    while (*place != capture)
        place = &(*place)->next;
    *place = capture->next;
    free(capture); /* a graph that failed stays: whoever asked for it during the capture may still hold it */
    return error;
}

EXPORTED cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    pthread_mutex_lock(&lock);
    cudaError_t error = end(stream, graph);
    pthread_mutex_unlock(&lock);
    return error ? failed(error, __func__) : cudaSuccess;
}

EXPORTED cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                              unsigned long long *id, cudaGraph_t *graph,
                                              const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                              size_t *count) {
    pthread_mutex_lock(&lock);
    struct capture *capture = capture_of(stream);
    *status = !capture          ? cudaStreamCaptureStatusNone
              : capture->broken ? cudaStreamCaptureStatusInvalidated
                                : cudaStreamCaptureStatusActive;
    if (id)
        *id = capture ? capture->id : 0;
    if (graph)
        *graph = capture ? capture->graph : NULL;
    if (nodes)
        *nodes = NULL;
    if (edges)
        *edges = NULL;
    if (count)
        *count = 0;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    return cudaStreamGetCaptureInfo(stream, status, NULL, NULL, NULL, NULL, NULL);
}

EXPORTED CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    return driver(cudaStreamIsCapturing(stream, (enum cudaStreamCaptureStatus *)status));
}

/* ---- graphs: what is kept of them is how many nodes they have, and their collectives */

void keep_in_graph(cudaStream_t stream, struct batch *batch) {
    pthread_mutex_lock(&lock);
    struct capture *capture = capture_of(stream);
    if (capture)
        append_batch(&capture->graph->collectives, batch);
    pthread_mutex_unlock(&lock);
}

EXPORTED cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count) {
    if (nodes) /* their handles: PyTorch asks for the count alone */
        return (cudaError_t)not_replaced("cudaGraphGetNodes with a list");
    *count = graph->nodes;
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *ready, cudaGraph_t graph,
                                                   unsigned long long flags) {
    (void)flags;
    *ready = calloc(1, sizeof **ready);
    (*ready)->nodes = graph->nodes;
    (*ready)->collectives = copy_batches(graph->collectives);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ready, cudaGraph_t graph, unsigned long long flags) {
    return cudaGraphInstantiateWithFlags(ready, graph, flags);
}

EXPORTED cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t stream) {
    bool captured;
    cudaError_t error = capture_of(stream) ? refused_on(stream) : started(GRAPHS, stream, &captured);
    if (error)
        return failed(error, __func__);
    launch_batches(ready->collectives, pending_of(stream));
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    free_batches(graph->collectives);
    free(graph);
    return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) {
    free_batches(ready->collectives);
    free(ready);
    return cudaSuccess;
}
