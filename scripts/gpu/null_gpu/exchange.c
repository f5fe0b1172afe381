/* The ranks of a communicator exchange data: processes of one host, through memory that they share.

   Every rank has a slot, and every pair of ranks a box for each direction. A collective goes in rounds: each rank puts a
   piece into its slot, all meet, each takes what it needs from the slots, all meet again. Sums are made in the order of
   the ranks, so all ranks have the same bits. What is sent from one rank to one other goes through their box.

   A rank that waits for one that never comes waits until its communicator is aborted, as on a card. */

#define _GNU_SOURCE
#include "nccl.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SLOT ((size_t)4 << 20)
#define BOX ((size_t)1 << 20)
#define PAGE ((size_t)4096)

struct box {
    unsigned long put, taken; /* pieces */
};

struct shared {
    int arrived;
    int waiting, round; /* of the meeting */
    int devices[MOST_RANKS];
    struct box boxes[MOST_RANKS][MOST_RANKS]; /* from, to */
};

struct exchange {
    struct shared *shared;
    char *slots, *boxes;
    size_t whole;
    int rank, ranks;
    const bool *aborted;
};

static size_t up_to_page(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }
static int read_now(const int *value) { return __atomic_load_n(value, __ATOMIC_ACQUIRE); }
static bool aborted(const struct exchange *x) { return __atomic_load_n(x->aborted, __ATOMIC_ACQUIRE); }

struct exchange *open_exchange(const char *name, int rank, int ranks, int device, const bool *given_up) {
    char path[64];
    size_t head = up_to_page(sizeof(struct shared)), slots = ranks * SLOT, boxes = (size_t)ranks * ranks * BOX;
    snprintf(path, sizeof path, "/null_gpu_%.32s", name);
    int file = shm_open(path, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, (off_t)(head + slots + boxes)))
        return NULL;
    char *start = mmap(NULL, head + slots + boxes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (start == MAP_FAILED)
        return NULL;
    struct exchange *x = calloc(1, sizeof *x);
    *x = (struct exchange){(struct shared *)start, start + head, start + head + slots, head + slots + boxes,
                           rank, ranks, given_up};
    x->shared->devices[rank] = device;
    if (__atomic_add_fetch(&x->shared->arrived, 1, __ATOMIC_ACQ_REL) == ranks)
        shm_unlink(path); /* all have it: it goes when the last of them ends, however that ends */
    while (read_now(&x->shared->arrived) < ranks && !aborted(x))
        usleep(200);
    return x;
}

void close_exchange(struct exchange *x) {
    munmap(x->shared, x->whole);
    free(x);
}

int device_of(const struct exchange *x, int rank) { return x->shared->devices[rank]; }

/* Wait until all ranks are here; false if the communicator was aborted meanwhile. */
static bool meet(struct exchange *x) {
    int round = read_now(&x->shared->round);
    if (__atomic_add_fetch(&x->shared->waiting, 1, __ATOMIC_ACQ_REL) == x->ranks) {
        x->shared->waiting = 0;
        __atomic_store_n(&x->shared->round, round + 1, __ATOMIC_RELEASE);
        return true;
    }
    while (read_now(&x->shared->round) == round) {
        if (aborted(x))
            return false;
        usleep(20);
    }
    return true;
}

static char *slot(const struct exchange *x, int rank) { return x->slots + rank * SLOT; }
static char *box(const struct exchange *x, int from, int to) { return x->boxes + (size_t)(from * x->ranks + to) * BOX; }

/* As the host reads and writes the card (memory.c), for which a small result counts as a whole. */
static void move(void *to, const void *from, size_t piece, const struct work *work) {
    if (work->count * size_of(work->type) <= RESULT_BYTES)
        copy(to, from, piece);
    else
        memmove(to, from, piece);
}

/* ---- rounds: all ranks put a piece, and some take */

typedef void take(struct exchange *x, const struct work *work, char *to, size_t at, size_t bytes);

/* All pieces of `bytes` at `from` of each rank that `puts`, taken to `to` by those that `takes`. */
static bool rounds(struct exchange *x, const struct work *work, const char *from, char *to, size_t bytes, take *taking) {
    size_t at = 0;
    do {
        size_t piece = bytes - at < SLOT ? bytes - at : SLOT;
        if (from)
            move(slot(x, x->rank), from + at, piece, work);
        if (!meet(x))
            return false;
        if (to)
            taking(x, work, to, at, piece);
        if (!meet(x))
            return false;
        at += piece;
    } while (at < bytes);
    return true;
}

static void take_reduced(struct exchange *x, const struct work *work, char *to, size_t at, size_t bytes) {
    char *sum = malloc(bytes + 1);
    memcpy(sum, slot(x, 0), bytes);
    size_t count = bytes / size_of(work->type);
    for (int rank = 1; rank < x->ranks; rank++)
        reduce(sum, slot(x, rank), count, work->type, work->reduction);
    if (work->reduction == AVERAGE)
        divide(sum, count, work->type, x->ranks);
    move(to + at, sum, bytes, work);
    free(sum);
}

static void take_from_root(struct exchange *x, const struct work *work, char *to, size_t at, size_t bytes) {
    move(to + at, slot(x, work->peer), bytes, work);
}

static void take_all(struct exchange *x, const struct work *work, char *to, size_t at, size_t bytes) {
    for (int rank = 0; rank < x->ranks; rank++)
        move(to + rank * work->count * size_of(work->type) + at, slot(x, rank), bytes, work);
}

bool collect(struct exchange *x, const struct work *work) {
    const char *from = work->from;
    char *to = work->to;
    size_t bytes = work->count * size_of(work->type);
    bool here = x->rank == work->peer, go_on = true;
    switch (work->what) {
    case ALL_REDUCE: return rounds(x, work, from, to, bytes, take_reduced);
    case REDUCE: return rounds(x, work, from, here ? to : NULL, bytes, take_reduced);
    case BROADCAST: return rounds(x, work, here ? from : NULL, to, bytes, take_from_root);
    case ALL_GATHER: return rounds(x, work, from, to, bytes, take_all);
    case GATHER: return rounds(x, work, from, here ? to : NULL, bytes, take_all);
    case REDUCE_SCATTER:
    case ALL_TO_ALL: /* the part of one rank after the other */
        for (int rank = 0; rank < x->ranks && go_on; rank++)
            go_on = rounds(x, work, from + rank * bytes, rank == x->rank ? to : NULL, bytes,
                           work->what == ALL_TO_ALL ? take_all : take_reduced);
        return go_on;
    default: abort(); /* SEND and RECEIVE have a way of their own */
    }
}

/* ---- sending and receiving: all of a group side by side, so that two ranks may send to each other first */

struct passage {
    const struct work *work;
    size_t at, bytes;
};

/* Move one piece if the box allows it. */
static bool pass(struct exchange *x, struct passage *one) {
    const struct work *work = one->work;
    bool sends = work->what == SEND;
    int from = sends ? x->rank : work->peer, to = sends ? work->peer : x->rank;
    struct box *state = &x->shared->boxes[from][to];
    unsigned long put = __atomic_load_n(&state->put, __ATOMIC_ACQUIRE);
    unsigned long taken = __atomic_load_n(&state->taken, __ATOMIC_ACQUIRE);
    size_t piece = one->bytes - one->at < BOX ? one->bytes - one->at : BOX;
    if (sends ? put != taken : put == taken)
        return false;
    if (sends)
        move(box(x, from, to), (const char *)work->from + one->at, piece, work);
    else
        move((char *)work->to + one->at, box(x, from, to), piece, work);
    __atomic_add_fetch(sends ? &state->put : &state->taken, 1, __ATOMIC_ACQ_REL);
    one->at += piece;
    return true;
}

static bool is_first(const struct passage *all, size_t place) {
    for (size_t i = 0; i < place; i++)
        if (all[i].at < all[i].bytes && all[i].work->what == all[place].work->what &&
            all[i].work->peer == all[place].work->peer)
            return false;
    return true;
}

bool pass_all(struct exchange *x, const struct work *works, size_t count) {
    struct passage *all = calloc(count + 1, sizeof *all);
    size_t left = 0, passages = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes = works[i].count * size_of(works[i].type);
        if ((works[i].what == SEND || works[i].what == RECEIVE) && bytes)
            all[passages++] = (struct passage){&works[i], 0, bytes};
    }
    do {
        bool moved = false;
        left = 0;
        for (size_t i = 0; i < passages; i++) {
            if (all[i].at < all[i].bytes && is_first(all, i))
                moved |= pass(x, &all[i]);
            left += all[i].at < all[i].bytes;
        }
        if (left && !moved) {
            if (aborted(x))
                break;
            usleep(20);
        }
    } while (left);
    free(all);
    return !left;
}
