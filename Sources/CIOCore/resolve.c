/* Looking names up: getaddrinfo blocks, so a few helper threads call it and wake the loop when they have an answer.
 *
 * The queues live in a block of their own, counted by the loop and by each thread, because a look-up may outlive the
 * loop: a thread that comes back to a closed block frees its result and goes. Threads end when nothing waits, so a
 * process that resolves nothing has none.
 *
 * Invariants: everything in `struct resolver` is touched under its mutex; a request belongs to the queue, then to the
 * thread that took it. A cancelled look-up still runs to its end; its answer finds no handle and is dropped.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RESOLVER_THREADS_MAX 4
#define RESOLVER_WAITING_MAX 1024
#define RESOLVER_STACK_BYTES (512u * 1024u)

struct resolve_request {
    struct resolve_request *next;
    cio_handle handle;
    char *host; /* both point behind the struct; an empty one becomes NULL for getaddrinfo */
    char *port;
};

struct resolve_result {
    struct resolve_result *next;
    cio_handle handle;
    int32_t code;
    uint32_t length;
    uint8_t data[];
};

struct resolver {
    pthread_mutex_t mutex;
    int references; /* the loop and each thread */
    int threads;
    int waiting;
    bool closed;
    int wake_descriptor; /* its own duplicate, so that it outlives the loop's */
    struct resolve_request *first_request, *last_request;
    struct resolve_result *first_result, *last_result;
};

static void results_free(struct resolve_result *result) {
    while (result != NULL) {
        struct resolve_result *next = result->next;
        free(result);
        result = next;
    }
}

/* Drops one reference, with the mutex held; unlocks. */
static void resolver_release(struct resolver *resolver) {
    bool last = --resolver->references == 0;
    pthread_mutex_unlock(&resolver->mutex);
    if (!last) return;
    for (struct resolve_request *request = resolver->first_request; request != NULL;) {
        struct resolve_request *next = request->next;
        free(request);
        request = next;
    }
    results_free(resolver->first_result);
    close(resolver->wake_descriptor);
    pthread_mutex_destroy(&resolver->mutex);
    free(resolver);
}

static struct resolve_result *result_of_failure(cio_handle handle, int code) {
    const char *text = gai_strerror(code);
    size_t length = strlen(text);
    struct resolve_result *result = calloc(1, sizeof *result + length + 1);
    if (result == NULL) return NULL;
    result->handle = handle;
    result->code = code < 0 ? -code : code; /* glibc's EAI_ codes are negative */
    result->length = (uint32_t)length;
    memcpy(result->data, text, length);
    return result;
}

/* Whether the address behind those of a result is one of them: glibc gives 127.0.0.1 twice for a localhost that is ::1 as well, on a
 * machine without IPv6, and whoever listens on all of them would find the second one taken by himself. */
static bool is_repeated(const struct resolve_result *result) {
    for (uint32_t place = 0; place < result->length; place += (uint32_t)sizeof(struct sockaddr_storage)) {
        if (memcmp(result->data + place, result->data + result->length, sizeof(struct sockaddr_storage)) == 0) return true;
    }
    return false;
}

static struct resolve_result *request_run(const struct resolve_request *request) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    const char *host = request->host[0] == 0 ? NULL : request->host;
    int code = getaddrinfo(host, request->port, &hints, &list);
    if (code == EAI_NONAME || code == EAI_ADDRFAMILY || code == EAI_NODATA) {
        /* AI_ADDRCONFIG refuses loopback literals on a machine without any other address of that family. */
        hints.ai_flags = AI_NUMERICSERV;
        int again = getaddrinfo(host, request->port, &hints, &list);
        if (again == 0) code = 0;
    }
    if (code != 0) return result_of_failure(request->handle, code);
    size_t count = 0;
    for (struct addrinfo *entry = list; entry != NULL; entry = entry->ai_next) count++;
    struct resolve_result *result = calloc(1, sizeof *result + count * sizeof(struct sockaddr_storage));
    if (result != NULL) {
        result->handle = request->handle;
        for (struct addrinfo *entry = list; entry != NULL; entry = entry->ai_next) {
            if (entry->ai_addrlen > sizeof(struct sockaddr_storage)) continue;
            memcpy(result->data + result->length, entry->ai_addr, entry->ai_addrlen);
            if (is_repeated(result)) memset(result->data + result->length, 0, sizeof(struct sockaddr_storage));
            else result->length += (uint32_t)sizeof(struct sockaddr_storage);
        }
    }
    freeaddrinfo(list);
    return result;
}

static void *resolver_thread(void *context) {
    struct resolver *resolver = context;
    pthread_mutex_lock(&resolver->mutex);
    while (!resolver->closed && resolver->first_request != NULL) {
        struct resolve_request *request = resolver->first_request;
        resolver->first_request = request->next;
        if (request->next == NULL) resolver->last_request = NULL;
        resolver->waiting--;
        pthread_mutex_unlock(&resolver->mutex);
        struct resolve_result *result = request_run(request);
        if (result == NULL) result = result_of_failure(request->handle, EAI_MEMORY);
        free(request);
        pthread_mutex_lock(&resolver->mutex);
        if (result == NULL) continue;
        if (resolver->last_result != NULL) resolver->last_result->next = result;
        else resolver->first_result = result;
        resolver->last_result = result;
        uint64_t one = 1;
        ssize_t ignored = write(resolver->wake_descriptor, &one, sizeof one);
        (void)ignored;
    }
    resolver->threads--;
    resolver_release(resolver);
    return NULL;
}

static struct resolver *resolver_of(cio_loop *loop) {
    if (loop->resolver != NULL) return loop->resolver;
    struct resolver *resolver = calloc(1, sizeof *resolver);
    if (resolver == NULL) return NULL;
    resolver->wake_descriptor = fcntl(loop->wake_descriptor, F_DUPFD_CLOEXEC, 0);
    if (resolver->wake_descriptor < 0 || pthread_mutex_init(&resolver->mutex, NULL) != 0) {
        if (resolver->wake_descriptor >= 0) close(resolver->wake_descriptor);
        free(resolver);
        return NULL;
    }
    resolver->references = 1;
    loop->resolver = resolver;
    return resolver;
}

/* Starts one more thread, with every signal blocked in it and the mutex held: 0 or -errno. */
static int thread_start(struct resolver *resolver) {
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    int error = pthread_attr_init(&attributes);
    if (error != 0) return -error;
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, RESOLVER_STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    resolver->references++;
    resolver->threads++;
    error = pthread_create(&thread, &attributes, resolver_thread, resolver);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error == 0) return 0;
    resolver->references--;
    resolver->threads--;
    return -error;
}

int cio_resolve(cio_loop *loop, const char *host, const char *port, uint64_t tag, cio_handle *handle) {
    struct resolver *resolver = resolver_of(loop);
    if (resolver == NULL) return -ENOMEM;
    size_t host_size = strlen(host) + 1, port_size = strlen(port) + 1;
    struct resolve_request *request = calloc(1, sizeof *request + host_size + port_size);
    if (request == NULL) return -ENOMEM;
    request->host = (char *)(request + 1);
    request->port = request->host + host_size;
    memcpy(request->host, host, host_size);
    memcpy(request->port, port, port_size);
    struct slot *slot;
    int result = slot_take(loop, SLOT_RESOLVE, -1, tag, &slot);
    if (result < 0) {
        free(request);
        return result;
    }
    request->handle = slot_handle(loop, slot);
    pthread_mutex_lock(&resolver->mutex);
    if (resolver->waiting >= RESOLVER_WAITING_MAX) result = -EAGAIN;
    else if (resolver->threads < RESOLVER_THREADS_MAX) result = thread_start(resolver);
    /* Without a new thread an old one takes it, if there is one. */
    if (result < 0 && result != -EAGAIN && resolver->threads > 0) result = 0;
    if (result < 0) {
        pthread_mutex_unlock(&resolver->mutex);
        slot_free(loop, slot);
        free(request);
        return result;
    }
    if (resolver->last_request != NULL) resolver->last_request->next = request;
    else resolver->first_request = request;
    resolver->last_request = request;
    resolver->waiting++;
    pthread_mutex_unlock(&resolver->mutex);
    *handle = slot_handle(loop, slot);
    return 0;
}

void resolver_collect(cio_loop *loop) {
    struct resolver *resolver = loop->resolver;
    if (resolver == NULL) return;
    pthread_mutex_lock(&resolver->mutex);
    while (resolver->first_result != NULL && loop_has_room(loop)) {
        struct resolve_result *result = resolver->first_result;
        resolver->first_result = result->next;
        if (result->next == NULL) resolver->last_result = NULL;
        result->next = loop->results;
        loop->results = result;
        struct slot *slot = slot_find(loop, result->handle, SLOT_RESOLVE);
        if (slot == NULL) continue;
        struct cio_event *event = event_add(loop, slot, CIO_EVENT_RESOLVED, result->code);
        event->data = result->data;
        event->length = result->length;
    }
    bool more = resolver->first_result != NULL;
    pthread_mutex_unlock(&resolver->mutex);
    if (more) cio_loop_wake(loop);
}

void resolver_results_free(cio_loop *loop) {
    results_free(loop->results);
    loop->results = NULL;
}

void resolver_destroy(cio_loop *loop) {
    struct resolver *resolver = loop->resolver;
    if (resolver == NULL) return;
    loop->resolver = NULL;
    pthread_mutex_lock(&resolver->mutex);
    resolver->closed = true;
    resolver_release(resolver);
}
