/* What a process asks of the machine: shared memory, randomness, processors, limits. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <unistd.h>

int cio_memory_create(const char *name, size_t size) {
    int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0) return -errno;
    if (size == 0) return descriptor;
    if (ftruncate(descriptor, (off_t)size) != 0 ||
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int result = -errno;
        close(descriptor);
        return result;
    }
    return descriptor;
}

void *cio_memory_map(int descriptor, size_t size) {
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    return address == MAP_FAILED ? NULL : address;
}

void cio_memory_unmap(void *address, size_t size) { (void)munmap(address, size); }

int64_t cio_descriptor_size(int descriptor) {
    struct stat status;
    return fstat(descriptor, &status) == 0 ? (int64_t)status.st_size : -errno;
}

ssize_t cio_descriptor_read_at(int descriptor, void *bytes, size_t length, uint64_t offset) {
    ssize_t got;
    do got = pread(descriptor, bytes, length, (off_t)offset);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

/* ---- Processors ------------------------------------------------------------------------------------------------------ */

/* Reads a small file whole: its length, or -errno. The text is terminated. */
static ssize_t file_read(const char *path, char *text, size_t size) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return -errno;
    ssize_t length = read(descriptor, text, size - 1);
    int error = errno;
    close(descriptor);
    if (length < 0) return -error;
    text[length] = 0;
    return length;
}

static unsigned quota_round(long long quota, long long period) {
    if (quota <= 0 || period <= 0) return 0;
    long long processors = (quota + period - 1) / period;
    return processors > 65535 ? 65535 : (unsigned)processors;
}

/* The quota of one cgroup directory (version 2, then 1), 0 when there is none. */
static unsigned quota_of(const char *directory) {
    char path[600], text[128];
    long long quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (file_read(path, text, sizeof text) > 0) {
        return sscanf(text, "%lld %lld", &quota, &period) == 2 ? quota_round(quota, period) : 0;
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory);
    if (file_read(path, text, sizeof text) <= 0 || sscanf(text, "%lld", &quota) != 1) return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
    if (file_read(path, text, sizeof text) <= 0 || sscanf(text, "%lld", &period) != 1) return 0;
    return quota_round(quota, period);
}

/* The smallest quota on the way from our cgroup up to the root of what is mounted. */
static unsigned quota_smallest(const char *root, char *group) {
    unsigned smallest = 0;
    for (;;) {
        char directory[560];
        snprintf(directory, sizeof directory, "%s%s", root, strcmp(group, "/") == 0 ? "" : group);
        unsigned quota = quota_of(directory);
        if (quota != 0 && (smallest == 0 || quota < smallest)) smallest = quota;
        char *slash = strrchr(group, '/');
        if (slash == NULL || group[0] == 0) return smallest;
        *slash = 0;
    }
}

static unsigned quota_processors(void) {
    char text[4096];
    if (file_read("/proc/self/cgroup", text, sizeof text) <= 0) return 0;
    unsigned smallest = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char *controllers = strchr(line, ':');
        char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (group == NULL) continue;
        *group++ = 0;
        bool unified = controllers[1] == 0;
        if (!unified && strstr(controllers + 1, "cpu") == NULL) continue;
        unsigned quota = quota_smallest(unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu", group);
        if (quota != 0 && (smallest == 0 || quota < smallest)) smallest = quota;
    }
    return smallest;
}

unsigned cio_processor_count(void) {
    cpu_set_t set;
    unsigned count = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0) count = (unsigned)CPU_COUNT(&set);
    if (count == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online > 0 ? (unsigned)online : 1;
    }
    unsigned quota = quota_processors();
    return quota != 0 && quota < count ? quota : count;
}

/* ---- Limits and randomness --------------------------------------------------------------------------------------------- */

uint64_t cio_descriptor_limit_raise(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit raised = {.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    }
    return limit.rlim_cur;
}

void cio_memlock_limit_raise(void) {
    /* Root may lift it for the workers, which become another user and share that user's account of it. */
    struct rlimit none = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    if (setrlimit(RLIMIT_MEMLOCK, &none) == 0) return;
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_MEMLOCK, &limit);
}

int cio_clock_synchronised(void) {
    struct timex facts = {0};
    int state = adjtimex(&facts);
    return state < 0 ? -errno : state != TIME_ERROR;
}

int cio_random(void *bytes, size_t length) {
    uint8_t *next = bytes;
    while (length > 0) {
        ssize_t got = getrandom(next, length, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -errno;
        next += got;
        length -= (size_t)got;
    }
    return 0;
}

const char *cio_started_path(void) { return (const char *)getauxval(AT_EXECFN); }
