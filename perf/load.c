// Load for one measurement: one thread, epoll, and the same client code for every system under test.
//
//     load --port PORT --mode MODE [--connections N] [--seconds S] [--warmup S] [--bytes N] [--path PATH] [--host NAME] [--rate N]
//
// echo   each connection sends --bytes and waits until they came back, again and again
// up     each connection sends the pattern (pattern.h); at the end the service says how many bytes came, and how many misplaced
// down   each connection takes the pattern
// http   each connection asks for --path, whose response has a body of --bytes; connections are kept
// close  as http, with a new connection for each request
//
// With --rate (echo, http, close) so many exchanges a second begin at times laid down before, whoever is late, and a latency counts from
// the time when its exchange should have begun: a system that stalls can't hide it by slowing the load down. Without it the
// next exchange begins when the last has ended.
//
// It prints "begin" when the measurement begins (connections made, warmed up), "end" when it ends, and then one JSON object.
// Every byte that comes is checked or counted; a connection that fails, a wrong status, length or byte ends it with status 1.
#include "load.h"

struct settings settings = {.mode = MODE_NONE, .connections = 1, .bytes = 64, .seconds = 2, .warmup = 0.5, .host = "perf.example", .path = "/small"};
struct totals totals;

static int poll_descriptor;
static struct connection *connections;
static uint8_t *buffer;      // of BUFFER_BYTES; what is received, for a moment
static char request[512];    // what every connection sends first, or for every exchange
static size_t request_count;
static bool measuring;
static uint64_t schedule_begin, schedule_issued;   // with a rate: exchange n is due at begin + n / rate
static uint32_t *idle, idle_first, idle_count;     // connections without an exchange: a ring, with a rate only
static uint32_t source_address;                    // of the last connection in mode close

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

uint64_t now_nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

static bool is_http(void) { return settings.mode == MODE_HTTP || settings.mode == MODE_CLOSE; }

static void watch(struct connection *connection, uint32_t events) {
    if (connection->watched == events) return;
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)(connection - connections)};
    int operation = connection->watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(poll_descriptor, operation, connection->descriptor, &event) < 0) fail("epoll_ctl: %s", strerror(errno));
    connection->watched = events;
}

static void connection_start(struct connection *connection) {
    int on = 1;
    connection->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->descriptor < 0) fail("socket: %s", strerror(errno));
    setsockopt(connection->descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (settings.mode == MODE_CLOSE) {
        // Ports wait a minute after their connection: many source addresses keep them from running out.
        source_address = (source_address + 1) % SOURCE_ADDRESSES;
        struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + source_address)};
        setsockopt(connection->descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(connection->descriptor, (struct sockaddr *)&source, sizeof source) < 0) fail("bind: %s", strerror(errno));
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(settings.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(connection->descriptor, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) fail("connect: %s", strerror(errno));
    connection->watched = 0;
    connection->state = STATE_CONNECTING;
    watch(connection, EPOLLOUT);
}


// ---- One exchange ----

static void send_bytes(struct connection *connection) {
    const uint8_t *bytes = is_http() ? (uint8_t *)request : pattern_at(connection->offset);
    size_t count = is_http() ? request_count : settings.bytes;
    while (connection->sent < count) {
        ssize_t sent = send(connection->descriptor, bytes + connection->sent, count - connection->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) return watch(connection, EPOLLIN | EPOLLOUT);
        if (sent < 0) fail("send: %s", strerror(errno));
        connection->sent += (size_t)sent;
    }
    watch(connection, EPOLLIN);
}

static void exchange_begin(struct connection *connection, uint64_t due) {
    connection->state = STATE_EXCHANGE;
    connection->begun = due;
    connection->sent = connection->received = connection->head_count = 0;
    connection->body_expected = NO_HEAD;
    if (settings.mode == MODE_CLOSE) return connection_start(connection);
    send_bytes(connection);
}

// Idle connections begin the exchanges that are due.
static void begin_due(void) {
    uint64_t now = now_nanoseconds();
    while (idle_count > 0) {
        uint64_t due = schedule_begin + (uint64_t)((double)schedule_issued * NANOSECONDS / settings.rate);
        if (due > now) return;
        struct connection *connection = &connections[idle[idle_first]];
        idle_first = (idle_first + 1) % settings.connections;
        idle_count -= 1;
        schedule_issued += 1;
        exchange_begin(connection, due);
    }
}

static void exchange_next(struct connection *connection) {
    if (settings.rate > 0) {
        connection->state = STATE_IDLE;
        idle[(idle_first + idle_count) % settings.connections] = (uint32_t)(connection - connections);
        idle_count += 1;
        return;
    }
    exchange_begin(connection, now_nanoseconds());
}

static void exchange_end(struct connection *connection) {
    if (!connection->is_ready) {
        connection->is_ready = true;
        totals.connected += 1;
    }
    if (measuring) {
        histogram_add(now_nanoseconds() - connection->begun);
        totals.exchanges += 1;
    }
    if (settings.mode == MODE_CLOSE) close(connection->descriptor);
    exchange_next(connection);
}

// Takes `count` bytes of a response. The body may come with the head; more than the response is a failure.
static void take_response(struct connection *connection, const uint8_t *bytes, size_t count) {
    if (connection->body_expected == NO_HEAD) {
        size_t room = HEAD_BYTES_MAX - 1 - connection->head_count, copied = count < room ? count : room;
        memcpy(connection->head + connection->head_count, bytes, copied);
        connection->head[connection->head_count + copied] = 0;
        char *end = strstr(connection->head, "\r\n\r\n");
        if (end == NULL && copied < count) fail("the response's head has more than %d bytes", HEAD_BYTES_MAX);
        if (end == NULL) {
            connection->head_count += copied;
            return;
        }
        size_t used = (size_t)(end + 4 - connection->head) - connection->head_count;
        end[2] = 0;
        if (strncmp(connection->head, "HTTP/1.1 200 ", 13) != 0) fail("an answer that is no 200: %s%s", connection->head, end + 4);
        char *length = strcasestr(connection->head, "\r\ncontent-length:");
        if (length == NULL) fail("a response without Content-Length");
        connection->body_expected = strtoull(length + 17, NULL, 10);
        if (connection->body_expected != settings.bytes) fail("a body of %zu bytes instead of %zu", connection->body_expected, settings.bytes);
        bytes += used;
        count -= used;
    }
    if (connection->received + count > connection->body_expected) fail("bytes after the response");
    bool is_pattern = strncmp(settings.path, "/bytes/", 7) == 0;
    if (is_pattern && count > 0 && !pattern_fits(bytes, count, connection->received)) fail("a wrong byte near %zu of a body", connection->received);
    connection->received += count;
    if (measuring) totals.bytes += count;
    if (connection->received == connection->body_expected) exchange_end(connection);
}

static void exchange_read(struct connection *connection) {
    ssize_t count = recv(connection->descriptor, buffer, BUFFER_BYTES, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0) fail("recv: %s", strerror(errno));
    if (count == 0) fail("the connection ended after %zu bytes of an answer", connection->received);
    if (connection->state != STATE_EXCHANGE) fail("%zd bytes that nobody asked for", count);
    if (is_http()) return take_response(connection, buffer, (size_t)count);
    size_t place = connection->received;
    if (place + (size_t)count > settings.bytes) fail("more came back than was sent");
    if (memcmp(buffer, pattern_at(connection->offset + place), (size_t)count) != 0) fail("a wrong byte came back");
    connection->received += (size_t)count;
    if (measuring) totals.bytes += (uint64_t)count;
    if (connection->received < settings.bytes) return;
    connection->offset += settings.bytes;
    exchange_end(connection);
}

// ---- Bulk ----

static void bulk_write(struct connection *connection) {
    ssize_t sent = send(connection->descriptor, pattern_at(connection->offset), SEND_BYTES, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) fail("send: %s", strerror(errno));
    connection->offset += (uint64_t)sent;
    if (measuring) totals.bytes += (uint64_t)sent;
}

static void bulk_read(struct connection *connection) {
    ssize_t count = recv(connection->descriptor, buffer, BUFFER_BYTES, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) fail("a stream broke after %llu bytes: %s", (unsigned long long)connection->offset, count < 0 ? strerror(errno) : "its end");
    if (!pattern_fits(buffer, (size_t)count, connection->offset)) fail("a wrong byte near %llu of a stream", (unsigned long long)connection->offset);
    connection->offset += (uint64_t)count;
    if (measuring) totals.bytes += (uint64_t)count;
}

// Ends the streams of mode up, and compares what the service got with what was sent.
static void bulk_confirm(void) {
    for (uint32_t index = 0; index < settings.connections; index += 1) {
        struct connection *connection = &connections[index];
        struct timeval limit = {.tv_sec = 20};
        fcntl(connection->descriptor, F_SETFL, 0);
        setsockopt(connection->descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        shutdown(connection->descriptor, SHUT_WR);
    }
    for (uint32_t index = 0; index < settings.connections; index += 1) {
        char text[64] = "";
        size_t count = 0;
        ssize_t more;
        while (count < sizeof text - 1 && (more = recv(connections[index].descriptor, text + count, sizeof text - 1 - count, 0)) > 0) {
            count += (size_t)more;
            text[count] = 0;
            if (strchr(text, '\n') != NULL) break;
        }
        unsigned long long received = 0, misplaced = 1;
        if (sscanf(text, "%llu %llu\n", &received, &misplaced) != 2) fail("no answer at the end of an upload");
        if (received != connections[index].offset || misplaced != 0) {
            fail("%llu bytes sent, %llu received, %llu pieces misplaced", (unsigned long long)connections[index].offset, received, misplaced);
        }
    }
}

// ---- Connections ----

// Echo and bulk begin with an upgrade, which every HTTP proxy turns into a tunnel, and which plain TCP carries too.
static void upgrade_read(struct connection *connection) {
    ssize_t count = recv(connection->descriptor, connection->head + connection->head_count, 1, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) fail("the connection ended before it was upgraded");
    // Byte by byte, so that what follows the head stays in the socket. It happens once a connection.
    connection->head_count += 1;
    connection->head[connection->head_count] = 0;
    if (connection->head_count >= HEAD_BYTES_MAX - 1) fail("the answer to the upgrade is too long");
    if (connection->head_count < 4 || memcmp(connection->head + connection->head_count - 4, "\r\n\r\n", 4) != 0) return;
    if (strncmp(connection->head, "HTTP/1.1 101 ", 13) != 0) fail("the upgrade was refused: %.60s", connection->head);
    if (settings.mode == MODE_ECHO) return exchange_begin(connection, now_nanoseconds());
    totals.connected += 1;
    connection->state = STATE_BULK;
    watch(connection, settings.mode == MODE_UP ? EPOLLOUT : EPOLLIN);
}

static void connection_made(struct connection *connection) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(connection->descriptor, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) fail("connect: %s", strerror(error));
    if (settings.mode == MODE_CLOSE) {
        connection->state = STATE_EXCHANGE;
        return send_bytes(connection);
    }
    if (settings.mode == MODE_HTTP) return exchange_begin(connection, now_nanoseconds());
    if (send(connection->descriptor, request, request_count, MSG_NOSIGNAL) != (ssize_t)request_count) fail("send: %s", strerror(errno));
    connection->head_count = 0;
    connection->state = STATE_UPGRADE;
    watch(connection, EPOLLIN);
}

static void connection_event(struct connection *connection, uint32_t events) {
    switch (connection->state) {
    case STATE_CONNECTING: return connection_made(connection);
    case STATE_UPGRADE: return upgrade_read(connection);
    case STATE_BULK: return settings.mode == MODE_UP ? bulk_write(connection) : bulk_read(connection);
    case STATE_IDLE: return exchange_read(connection);
    case STATE_EXCHANGE:
        if (connection->sent < (is_http() ? request_count : settings.bytes) && (events & EPOLLOUT)) send_bytes(connection);
        if (events & ~(uint32_t)EPOLLOUT) exchange_read(connection);
    }
}

// Runs events until `until`, or until so many connections are ready, if that is above 0.
static void run(uint64_t until, uint32_t until_connected) {
    struct epoll_event events[EVENTS_MAX];
    for (;;) {
        uint64_t now = now_nanoseconds();
        if (now >= until) return;
        uint64_t wait = until - now;
        if (settings.rate > 0 && schedule_begin > 0) {
            begin_due();
            uint64_t due = schedule_begin + (uint64_t)((double)schedule_issued * NANOSECONDS / settings.rate);
            now = now_nanoseconds();
            if (idle_count > 0) wait = due > now ? (due - now < wait ? due - now : wait) : 0;
        }
        struct timespec limit = {.tv_sec = (time_t)(wait / NANOSECONDS), .tv_nsec = (long)(wait % NANOSECONDS)};
        int count = epoll_pwait2(poll_descriptor, events, EVENTS_MAX, &limit, NULL);
        for (int index = 0; index < count; index += 1) connection_event(&connections[events[index].data.u32], events[index].events);
        if (until_connected > 0 && totals.connected >= until_connected) return;
    }
}

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

int main(int argument_count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    settings_read(argument_count, arguments);
    poll_descriptor = epoll_create1(EPOLL_CLOEXEC);
    buffer = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    connections = calloc(settings.connections, sizeof *connections);
    idle = calloc(settings.connections, sizeof *idle);
    if (poll_descriptor < 0 || buffer == MAP_FAILED || connections == NULL || idle == NULL || pattern_make() < 0) fail("out of memory");
    request_count = settings_request(request, sizeof request);
    if (settings.mode == MODE_CLOSE) {
        for (uint32_t index = 0; index < settings.connections; index += 1) exchange_next(&connections[index]);
    } else {
        uint64_t limit = now_nanoseconds() + 30 * (uint64_t)NANOSECONDS;
        for (uint32_t index = 0; index < settings.connections; index += 1) {
            connection_start(&connections[index]);
            // A few at a time, each ready before the next ones: how a system takes a burst is another question.
            if (index % CONNECTED_TOGETHER == CONNECTED_TOGETHER - 1 || index == settings.connections - 1) run(limit, index + 1);
        }
        if (totals.connected < settings.connections) fail("%u of %u connections were made in 30 s", totals.connected, settings.connections);
    }
    schedule_begin = now_nanoseconds();
    run(schedule_begin + (uint64_t)(settings.warmup * NANOSECONDS), 0);
    say("begin");
    uint64_t begun = now_nanoseconds();
    measuring = true;
    run(begun + (uint64_t)(settings.seconds * NANOSECONDS), 0);
    measuring = false;
    uint64_t ended = now_nanoseconds();
    say("end");
    if (settings.mode == MODE_UP) bulk_confirm();
    if (totals.exchanges + totals.bytes == 0) fail("nothing came within %.1f s", settings.seconds);
    totals_print((double)(ended - begun) / NANOSECONDS);
}
