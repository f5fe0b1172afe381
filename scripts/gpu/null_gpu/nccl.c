/* NCCL: communicators whose ranks are processes of one host, each with a device of its own.

   A communicator has a thread that does its work in the order in which it came, once the work before it on the same
   stream is over. So collectives take their time as on a card: the caller goes on at once, streams and events wait, and
   a rank that never comes is noticed by those who look at the clock. What a graph captures is done at each launch. */

#define _GNU_SOURCE
#include "nccl.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define ID_BYTES 128

enum result { OK, CUDA_FAILED, SYSTEM_FAILED, INTERNAL, INVALID_ARGUMENT, INVALID_USAGE };

typedef struct {
    char name[ID_BYTES]; /* 32 hexadecimal digits */
} unique_id;

struct batch { /* what is done together: one call, or those of a group */
    struct batch *next;
    struct ncclComm *communicator;
    struct pending before; /* what must be over first */
    unsigned long number;
    size_t count;
    struct work works[];
};

struct ncclComm {
    unique_id id;
    int rank, ranks, place; /* among those of pending.c */
    int children;           /* splits so far, for the names of further ones */
    struct exchange *exchange;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct batch *first, **last;
    bool closing, aborted;
};

typedef struct ncclComm *communicator;

static __thread char message[512]; /* of the last error */
static __thread int depth;         /* of groups */

struct grouped {
    struct grouped *next;
    communicator communicator;
    cudaStream_t stream;
    struct work work;
};

static __thread struct grouped *group;

static int refused(enum result result, const char *why, int figure) {
    snprintf(message, sizeof message, why, figure);
    fprintf(stderr, "null GPU: NCCL: %s\n", message);
    return result;
}

/* ---- the thread of a communicator */

static void *work_off(void *given) {
    communicator own = given;
    while (true) {
        pthread_mutex_lock(&own->lock);
        while (!own->first && !own->closing && !own->aborted)
            pthread_cond_wait(&own->more, &own->lock);
        struct batch *batch = own->aborted ? NULL : own->first;
        if (batch && !(own->first = batch->next))
            own->last = &own->first;
        pthread_mutex_unlock(&own->lock);
        if (!batch)
            return NULL;
        wait_until_over(&batch->before);
        bool whole = pass_all(own->exchange, batch->works, batch->count);
        for (size_t i = 0; i < batch->count && whole; i++)
            if (batch->works[i].what != SEND && batch->works[i].what != RECEIVE)
                whole = collect(own->exchange, &batch->works[i]);
        is_over(own->place, batch->number);
        free(batch);
    }
}

static struct batch *copied(const struct batch *batch) {
    size_t bytes = sizeof *batch + batch->count * sizeof *batch->works;
    struct batch *other = malloc(bytes);
    memcpy(other, batch, bytes);
    other->next = NULL;
    return other;
}

/* Give a batch to its communicator, after what `streams` has to wait for, which then has to wait for the batch, too. */
static void hand_over(struct batch *batch, struct pending *stream) {
    communicator own = batch->communicator;
    pthread_mutex_lock(&own->lock);
    batch->before = *stream;
    batch->before.upto[own->place] = 0; /* its own order holds anyway */
    batch->number = next_number(own->place);
    stream->upto[own->place] = batch->number;
    *own->last = batch;
    own->last = &batch->next;
    pthread_cond_signal(&own->more);
    pthread_mutex_unlock(&own->lock);
}

struct batch *copy_batches(const struct batch *batches) {
    struct batch *first = NULL, **place = &first;
    for (; batches; batches = batches->next) {
        *place = copied(batches);
        place = &(*place)->next;
    }
    return first;
}

void append_batch(struct batch **all, struct batch *batch) {
    while (*all)
        all = &(*all)->next;
    *all = batch;
}

void free_batches(struct batch *batches) {
    while (batches) {
        struct batch *next = batches->next;
        free(batches);
        batches = next;
    }
}

void launch_batches(const struct batch *batches, struct pending *stream) {
    for (; batches; batches = batches->next)
        hand_over(copied(batches), stream);
}

/* ---- calls */

static int start(communicator own, cudaStream_t stream, const struct work *works, size_t count) {
    bool captured;
    cudaError_t error = started(COLLECTIVES, stream, &captured);
    if (error)
        return failed(error, "NCCL"), CUDA_FAILED;
    struct batch *batch = calloc(1, sizeof *batch + count * sizeof *works);
    batch->communicator = own;
    batch->count = count;
    memcpy(batch->works, works, count * sizeof *works);
    if (captured)
        keep_in_graph(stream, batch);
    else
        hand_over(batch, pending_of(stream));
    return OK;
}

static int call(communicator own, cudaStream_t stream, struct work work) {
    if (!own)
        return refused(INVALID_ARGUMENT, "no communicator", 0);
    if ((unsigned)work.type >= TYPES)
        return refused(INVALID_ARGUMENT, "type %d has no replacement", work.type);
    if ((unsigned)work.reduction >= REDUCTIONS)
        return refused(INVALID_ARGUMENT, "reduction %d has no replacement", work.reduction);
    if (work.peer < 0 || work.peer >= own->ranks)
        return refused(INVALID_ARGUMENT, "rank %d is none of the communicator", work.peer);
    if (!depth)
        return start(own, stream, &work, 1);
    struct grouped *one = calloc(1, sizeof *one), **place = &group;
    *one = (struct grouped){NULL, own, stream, work};
    while (*place)
        place = &(*place)->next;
    *place = one;
    return OK;
}

int ncclGroupStart(void);
int ncclGroupEnd(void);

EXPORTED int ncclGroupStart(void) {
    depth++;
    return OK;
}

/* Start what the group has for the same communicator and stream as its first call. */
static int start_some(void) {
    communicator own = group->communicator;
    cudaStream_t stream = group->stream;
    size_t count = 0;
    for (struct grouped *one = group; one; one = one->next)
        count += one->communicator == own && one->stream == stream;
    struct work *works = calloc(count, sizeof *works);
    count = 0;
    for (struct grouped **place = &group; *place;) {
        struct grouped *one = *place;
        if (one->communicator == own && one->stream == stream) {
            works[count++] = one->work;
            *place = one->next;
            free(one);
        } else {
            place = &one->next;
        }
    }
    int result = start(own, stream, works, count);
    free(works);
    return result;
}

EXPORTED int ncclGroupEnd(void) {
    int result = OK;
    if (!depth)
        return refused(INVALID_USAGE, "a group ends that has not begun", 0);
    if (--depth)
        return OK;
    while (group) {
        int one = start_some();
        result = result ? result : one;
    }
    return result;
}

int ncclAllReduce(const void *, void *, size_t, int, int, communicator, cudaStream_t);
int ncclReduce(const void *, void *, size_t, int, int, int, communicator, cudaStream_t);
int ncclBroadcast(const void *, void *, size_t, int, int, communicator, cudaStream_t);
int ncclBcast(void *, size_t, int, int, communicator, cudaStream_t);
int ncclAllGather(const void *, void *, size_t, int, communicator, cudaStream_t);
int ncclGather(const void *, void *, size_t, int, int, communicator, cudaStream_t);
int ncclReduceScatter(const void *, void *, size_t, int, int, communicator, cudaStream_t);
int ncclAlltoAll(const void *, void *, size_t, int, communicator, cudaStream_t);
int ncclSend(const void *, size_t, int, int, communicator, cudaStream_t);
int ncclRecv(void *, size_t, int, int, communicator, cudaStream_t);

EXPORTED int ncclAllReduce(const void *from, void *to, size_t count, int type, int reduction, communicator own,
                           cudaStream_t stream) {
    return call(own, stream, (struct work){ALL_REDUCE, from, to, count, type, reduction, 0});
}

EXPORTED int ncclReduce(const void *from, void *to, size_t count, int type, int reduction, int root, communicator own,
                        cudaStream_t stream) {
    return call(own, stream, (struct work){REDUCE, from, to, count, type, reduction, root});
}

EXPORTED int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, communicator own,
                           cudaStream_t stream) {
    return call(own, stream, (struct work){BROADCAST, from, to, count, type, SUM, root});
}

EXPORTED int ncclBcast(void *both, size_t count, int type, int root, communicator own, cudaStream_t stream) {
    return ncclBroadcast(both, both, count, type, root, own, stream);
}

EXPORTED int ncclAllGather(const void *from, void *to, size_t count, int type, communicator own, cudaStream_t stream) {
    return call(own, stream, (struct work){ALL_GATHER, from, to, count, type, SUM, 0});
}

EXPORTED int ncclGather(const void *from, void *to, size_t count, int type, int root, communicator own,
                        cudaStream_t stream) {
    return call(own, stream, (struct work){GATHER, from, to, count, type, SUM, root});
}

EXPORTED int ncclReduceScatter(const void *from, void *to, size_t count, int type, int reduction, communicator own,
                               cudaStream_t stream) {
    return call(own, stream, (struct work){REDUCE_SCATTER, from, to, count, type, reduction, 0});
}

EXPORTED int ncclAlltoAll(const void *from, void *to, size_t count, int type, communicator own, cudaStream_t stream) {
    return call(own, stream, (struct work){ALL_TO_ALL, from, to, count, type, SUM, 0});
}

EXPORTED int ncclSend(const void *from, size_t count, int type, int peer, communicator own, cudaStream_t stream) {
    return call(own, stream, (struct work){SEND, from, NULL, count, type, SUM, peer});
}

EXPORTED int ncclRecv(void *to, size_t count, int type, int peer, communicator own, cudaStream_t stream) {
    return call(own, stream, (struct work){RECEIVE, NULL, to, count, type, SUM, peer});
}

/* ---- communicators */

int ncclGetUniqueId(unique_id *);
int ncclCommInitRank(communicator *, int, unique_id, int);
int ncclCommInitRankConfig(communicator *, int, unique_id, int, void *);
int ncclCommInitRankScalable(communicator *, int, int, int, unique_id *, void *);
int ncclCommSplit(communicator, int, int, communicator *, void *);
int ncclCommFinalize(communicator);
int ncclCommDestroy(communicator);
int ncclCommAbort(communicator);
int ncclCommCount(communicator, int *);
int ncclCommUserRank(communicator, int *);
int ncclCommGetAsyncError(communicator, int *);
int ncclCommRegister(communicator, void *, size_t, void **);
int ncclCommDeregister(communicator, void *);
int ncclMemAlloc(void **, size_t);
int ncclMemFree(void *);
const char *ncclGetLastError(communicator);

EXPORTED int ncclGetUniqueId(unique_id *id) {
    unsigned char noise[16];
    if (getrandom(noise, sizeof noise, 0) != sizeof noise)
        return refused(SYSTEM_FAILED, "no random numbers", 0);
    memset(id, 0, sizeof *id);
    for (size_t i = 0; i < sizeof noise; i++)
        sprintf(id->name + 2 * i, "%02x", noise[i]);
    return OK;
}

/* On a card, too, each rank needs one of its own. */
static int shared_device(const struct exchange *exchange, int ranks) {
    for (int one = 0; one < ranks; one++)
        for (int other = 0; other < one; other++)
            if (device_of(exchange, one) == device_of(exchange, other))
                return device_of(exchange, one);
    return -1;
}

static void destroy(communicator own) {
    pthread_mutex_lock(&own->lock);
    own->closing = true;
    pthread_cond_signal(&own->more);
    pthread_mutex_unlock(&own->lock);
    pthread_join(own->thread, NULL);
    leave_place(own->place);
    free_batches(own->first);
    close_exchange(own->exchange);
    free(own);
}

EXPORTED int ncclCommInitRankConfig(communicator *made, int ranks, unique_id id, int rank, void *how) {
    (void)how;
    if (ranks < 1 || ranks > MOST_RANKS || rank < 0 || rank >= ranks)
        return refused(INVALID_ARGUMENT, "a communicator has up to 16 ranks here, not %d", ranks);
    int place = take_place();
    if (place < 0)
        return refused(SYSTEM_FAILED, "a process has up to %d communicators here", MOST_COMMUNICATORS);
    communicator own = calloc(1, sizeof *own);
    own->id = id;
    own->rank = rank;
    own->ranks = ranks;
    own->place = place;
    own->last = &own->first;
    pthread_mutex_init(&own->lock, NULL);
    pthread_cond_init(&own->more, NULL);
    own->exchange = open_exchange(id.name, rank, ranks, physical_device(), &own->aborted);
    if (!own->exchange) {
        leave_place(place);
        free(own);
        return refused(SYSTEM_FAILED, "no shared memory for %d ranks", ranks);
    }
    pthread_create(&own->thread, NULL, work_off, own);
    int device = shared_device(own->exchange, ranks);
    if (device >= 0) {
        destroy(own);
        return refused(INVALID_USAGE, "Duplicate GPU detected: several ranks are on device %d", device);
    }
    *made = own;
    return OK;
}

EXPORTED int ncclCommInitRank(communicator *made, int ranks, unique_id id, int rank) {
    return ncclCommInitRankConfig(made, ranks, id, rank, NULL);
}

EXPORTED int ncclCommInitRankScalable(communicator *made, int ranks, int rank, int ids, unique_id *id, void *how) {
    (void)ids;
    return ncclCommInitRankConfig(made, ranks, *id, rank, how);
}

/* Those of one color, in the order of their keys; the name of the new one follows from what all of them know. */
EXPORTED int ncclCommSplit(communicator own, int color, int key, communicator *made, void *how) {
    int wanted[2] = {color, key}, all[MOST_RANKS][2], rank = 0, ranks = 0;
    struct pending stream = {0};
    struct work work = {ALL_GATHER, wanted, all, 2, INT32, SUM, 0};
    struct batch *batch = calloc(1, sizeof *batch + sizeof work);
    batch->communicator = own;
    batch->count = 1;
    batch->works[0] = work;
    hand_over(batch, &stream);
    wait_until_over(&stream);
    for (int other = 0; other < own->ranks; other++) {
        bool of_color = all[other][0] == color;
        ranks += of_color;
        rank += of_color && (all[other][1] < key || (all[other][1] == key && other < own->rank));
    }
    unique_id id = own->id;
    snprintf(id.name, sizeof id.name, "%.16s%08x%08x", own->id.name, (unsigned)++own->children, (unsigned)color);
    *made = NULL;
    return color < 0 ? OK : ncclCommInitRankConfig(made, ranks, id, rank, how);
}

EXPORTED int ncclCommDestroy(communicator own) { return own ? (destroy(own), OK) : OK; }

EXPORTED int ncclCommFinalize(communicator own) {
    (void)own; /* destroying waits for what is left */
    return OK;
}

EXPORTED int ncclCommAbort(communicator own) {
    if (!own)
        return OK;
    __atomic_store_n(&own->aborted, true, __ATOMIC_RELEASE);
    return ncclCommDestroy(own);
}

EXPORTED int ncclCommCount(communicator own, int *ranks) {
    *ranks = own->ranks;
    return OK;
}

EXPORTED int ncclCommUserRank(communicator own, int *rank) {
    *rank = own->rank;
    return OK;
}

EXPORTED int ncclCommGetAsyncError(communicator own, int *error) {
    (void)own;
    *error = OK;
    return OK;
}

EXPORTED int ncclCommRegister(communicator own, void *buffer, size_t bytes, void **handle) {
    (void)own, (void)bytes;
    *handle = buffer;
    return OK;
}

EXPORTED int ncclCommDeregister(communicator own, void *handle) {
    (void)own, (void)handle;
    return OK;
}

EXPORTED int ncclMemAlloc(void **address, size_t bytes) { return cudaMalloc(address, bytes) ? CUDA_FAILED : OK; }
EXPORTED int ncclMemFree(void *address) { return cudaFree(address) ? CUDA_FAILED : OK; }

EXPORTED const char *ncclGetLastError(communicator own) {
    (void)own;
    return message;
}
