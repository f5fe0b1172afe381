/* Work that is not over when it is started: that of the communicators, each of which has a thread.

   A communicator numbers its work and does it in this order. So all that a stream or an event has to wait for is one
   number for each communicator, and they pass on as streams wait for events. All other work is over at once: before
   a copy or a fill happens, the host waits for what its stream has to wait for, where a card would let the copy wait. */

#include "null_gpu.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t progress = PTHREAD_COND_INITIALIZER;
static unsigned long issued[MOST_COMMUNICATORS], done[MOST_COMMUNICATORS];
static bool taken[MOST_COMMUNICATORS];

int take_place(void) {
    int found = -1;
    pthread_mutex_lock(&lock);
    for (int place = 0; place < MOST_COMMUNICATORS && found < 0; place++)
        if (!taken[place])
            found = place;
    if (found >= 0)
        taken[found] = true;
    pthread_mutex_unlock(&lock);
    return found;
}

/* The numbers of a place go on with its next communicator: streams may still hold old ones. */
void leave_place(int place) {
    pthread_mutex_lock(&lock);
    taken[place] = false;
    done[place] = issued[place];
    pthread_cond_broadcast(&progress);
    pthread_mutex_unlock(&lock);
}

unsigned long next_number(int place) {
    pthread_mutex_lock(&lock);
    unsigned long number = ++issued[place];
    pthread_mutex_unlock(&lock);
    return number;
}

void is_over(int place, unsigned long number) {
    pthread_mutex_lock(&lock);
    done[place] = number;
    pthread_cond_broadcast(&progress);
    pthread_mutex_unlock(&lock);
}

void join_pending(struct pending *own, const struct pending *other) {
    for (int place = 0; place < MOST_COMMUNICATORS; place++)
        if (own->upto[place] < other->upto[place])
            own->upto[place] = other->upto[place];
}

static bool over(const unsigned long *upto) {
    for (int place = 0; place < MOST_COMMUNICATORS; place++)
        if (done[place] < upto[place])
            return false;
    return true;
}

bool all_over(const struct pending *pending) {
    pthread_mutex_lock(&lock);
    bool found = over(pending->upto);
    pthread_mutex_unlock(&lock);
    return found;
}

static void wait_upto(const unsigned long *upto) {
    pthread_mutex_lock(&lock);
    while (!over(upto))
        pthread_cond_wait(&progress, &lock);
    pthread_mutex_unlock(&lock);
}

void wait_until_over(const struct pending *pending) { wait_upto(pending->upto); }
void wait_for_everything(void) { wait_upto(issued); }
