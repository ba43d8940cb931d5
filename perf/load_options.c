// The command line of the load, what it asks for, and how its results are written.
//
// Latencies go into a histogram with 64 steps to each power of two, so a percentile is right to 1.6 % whatever its size.
#include "load.h"

#include <getopt.h>

enum { STEP_BITS = 6, STEPS = 1 << STEP_BITS, BUCKETS = (64 - STEP_BITS + 1) * STEPS };

static uint64_t histogram[BUCKETS];
static uint64_t latency_max;

static size_t bucket_of(uint64_t value) {
    if (value < STEPS) return (size_t)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - STEP_BITS;
    return ((size_t)shift << STEP_BITS) + (size_t)(value >> shift);
}

static uint64_t bucket_end(size_t bucket) {
    if (bucket < 2 * STEPS) return bucket + 1;
    size_t shift = (bucket >> STEP_BITS) - 1;
    return ((bucket & (STEPS - 1)) + STEPS + 1) << shift;
}

void histogram_add(uint64_t nanoseconds) {
    if (nanoseconds > latency_max) latency_max = nanoseconds;
    histogram[bucket_of(nanoseconds)] += 1;
}

static double percentile_microseconds(double part) {
    uint64_t wanted = (uint64_t)(part * (double)totals.exchanges), seen = 0;
    for (size_t bucket = 0; bucket < BUCKETS; bucket += 1) {
        seen += histogram[bucket];
        if (seen > wanted) return (double)(bucket_end(bucket) < latency_max ? bucket_end(bucket) : latency_max) / 1000;
    }
    return (double)latency_max / 1000;
}

void totals_print(double seconds) {
    printf("{\"seconds\": %.6f, \"exchanges\": %llu, \"bytes\": %llu", seconds, (unsigned long long)totals.exchanges,
           (unsigned long long)totals.bytes);
    if (totals.exchanges > 0) {
        printf(", \"p50\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f", percentile_microseconds(0.5), percentile_microseconds(0.99),
               percentile_microseconds(0.999), (double)latency_max / 1000);
    }
    puts("}");
}

size_t settings_request(char *text, size_t capacity) {
    const char *path = settings.mode == MODE_ECHO ? "/echo" : settings.mode == MODE_UP ? "/sink" : settings.mode == MODE_DOWN ? "/source" : settings.path;
    const char *connection = settings.mode == MODE_HTTP    ? ""
                           : settings.mode == MODE_CLOSE ? "Connection: close\r\n"
                                                         : "Connection: Upgrade\r\nUpgrade: perf\r\n";
    int count = snprintf(text, capacity, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, settings.host, connection);
    if (count < 0 || (size_t)count >= capacity) fail("the path is too long");
    return (size_t)count;
}

static enum mode mode_named(const char *name) {
    static const char *const names[] = {"", "echo", "up", "down", "http", "close"};
    for (size_t index = 1; index < sizeof names / sizeof *names; index += 1) {
        if (strcmp(names[index], name) == 0) return (enum mode)index;
    }
    fail("no mode is called %s", name);
}

void settings_read(int argument_count, char **arguments) {
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},    {"mode", required_argument, NULL, 'm'},  {"connections", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 's'}, {"warmup", required_argument, NULL, 'w'}, {"bytes", required_argument, NULL, 'b'},
        {"path", required_argument, NULL, 'a'},    {"host", required_argument, NULL, 'h'},  {"rate", required_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argument_count, arguments, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': settings.port = (uint16_t)strtoul(optarg, NULL, 10); break;
        case 'm': settings.mode = mode_named(optarg); break;
        case 'c': settings.connections = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 's': settings.seconds = strtod(optarg, NULL); break;
        case 'w': settings.warmup = strtod(optarg, NULL); break;
        case 'b': settings.bytes = strtoull(optarg, NULL, 10); break;
        case 'a': settings.path = optarg; break;
        case 'h': settings.host = optarg; break;
        case 'r': settings.rate = strtod(optarg, NULL); break;
        default: fail("see the head of load.c for the options");
        }
    }
    if (settings.port == 0 || settings.mode == MODE_NONE) fail("--port and --mode are needed");
    if (settings.connections == 0 || settings.connections > CONNECTIONS_MAX) fail("1 to %d connections", CONNECTIONS_MAX);
    if (settings.mode == MODE_ECHO && settings.bytes > PATTERN_BYTES) fail("messages of at most %d bytes", PATTERN_BYTES);
    if (settings.rate < 0 || ((settings.mode == MODE_UP || settings.mode == MODE_DOWN) && settings.rate > 0)) fail("no rate for this mode");
}
