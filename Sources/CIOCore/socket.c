/* Sockets outside of a loop: listening, pairs, options, names, and plain writes to inherited descriptors. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int cio_socket_listen(const struct sockaddr *address, socklen_t length, bool v6_only, bool share_port) {
    int descriptor = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -errno;
    int on = 1, only = v6_only, result = 0;
    if (setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) goto failed;
    if (address->sa_family == AF_INET6 &&
        setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) != 0) goto failed;
    if (share_port && setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0) goto failed;
    if (bind(descriptor, address, length) != 0) goto failed;
    if (listen(descriptor, SOMAXCONN) != 0) goto failed;
    return descriptor;
failed:
    result = -errno;
    close(descriptor);
    return result;
}

void cio_socket_nonblocking(int descriptor) {
    int flags = fcntl(descriptor, F_GETFL);
    if (flags >= 0) (void)fcntl(descriptor, F_SETFL, flags | O_NONBLOCK);
}

int cio_socket_share_port(int descriptor, bool share) {
    int value = share;
    return setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &value, sizeof value) == 0 ? 0 : -errno;
}

int cio_socket_drop_handshakes(int descriptor) {
    /* A socket filter sees a TCP segment from its header on; byte 13 holds the flags. */
    enum { FLAGS_AT = 13, SYN = 0x02, ACK = 0x10 };
    static const struct sock_filter rows[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS_AT),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
    };
    struct sock_fprog program = {.len = sizeof rows / sizeof rows[0], .filter = (struct sock_filter *)rows};
    return setsockopt(descriptor, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0 ? 0 : -errno;
}

int cio_socket_accept(int descriptor) {
    int accepted;
    do accepted = accept4(descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    while (accepted < 0 && accept_error_is_transient(-errno));
    return accepted < 0 ? -errno : accepted;
}

/* Removes the socket file at the address if nobody listens on it; -EADDRINUSE if somebody does, or if it is no socket. */
static int stale_remove(const struct sockaddr_un *address, socklen_t length) {
    struct stat status;
    if (lstat(address->sun_path, &status) != 0) return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(status.st_mode)) return -EADDRINUSE;
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe < 0) return -errno;
    int result = connect(probe, (const struct sockaddr *)address, length) == 0 ? 0 : -errno;
    close(probe);
    if (result != -ECONNREFUSED) return -EADDRINUSE;
    return unlink(address->sun_path) == 0 || errno == ENOENT ? 0 : -errno;
}

int cio_socket_listen_unix(const char *path, mode_t mode) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t size = strlen(path);
    if (size == 0 || size >= sizeof address.sun_path) return -ENAMETOOLONG;
    memcpy(address.sun_path, path, size);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1);
    int result = stale_remove(&address, length);
    if (result < 0) return result;
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -errno;
    /* The mode is set before the name appears, so that it is never wider than asked for; chmod then adds what the umask
     * took away. */
    if (fchmod(descriptor, mode) != 0) goto failed;
    if (bind(descriptor, (const struct sockaddr *)&address, length) != 0) goto failed;
    if (chmod(path, mode) != 0 || listen(descriptor, SOMAXCONN) != 0) {
        result = -errno;
        unlink(path);
        close(descriptor);
        return result;
    }
    return descriptor;
failed:
    result = -errno;
    close(descriptor);
    return result;
}

int cio_socket_pair(int type, int descriptors[2]) {
    return socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, descriptors) == 0 ? 0 : -errno;
}

int cio_socket_peer(int descriptor, struct sockaddr_storage *address, socklen_t *length) {
    *length = sizeof *address;
    return getpeername(descriptor, (struct sockaddr *)address, length) == 0 ? 0 : -errno;
}

int cio_socket_name(int descriptor, struct sockaddr_storage *address, socklen_t *length) {
    *length = sizeof *address;
    return getsockname(descriptor, (struct sockaddr *)address, length) == 0 ? 0 : -errno;
}

int cio_machine_addresses(struct sockaddr_storage *addresses, uint32_t count) {
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0) return -errno;
    uint32_t found = 0;
    for (const struct ifaddrs *entry = list; entry != NULL && found < count; entry = entry->ifa_next) {
        if (entry->ifa_addr == NULL || (entry->ifa_flags & IFF_UP) == 0) continue;
        size_t length = 0;
        if (entry->ifa_addr->sa_family == AF_INET) length = sizeof(struct sockaddr_in);
        if (entry->ifa_addr->sa_family == AF_INET6) length = sizeof(struct sockaddr_in6);
        if (length == 0) continue;
        memset(&addresses[found], 0, sizeof addresses[found]);
        memcpy(&addresses[found++], entry->ifa_addr, length);
    }
    freeifaddrs(list);
    return (int)found;
}

/* Sets a TCP option; a socket that is not TCP says EOPNOTSUPP, which is no failure here. */
static int tcp_option(int descriptor, int option, unsigned value) {
    if (setsockopt(descriptor, IPPROTO_TCP, option, &value, sizeof value) == 0) return 0;
    return errno == EOPNOTSUPP || errno == ENOPROTOOPT ? 0 : -errno;
}

int cio_socket_nodelay(int descriptor) { return tcp_option(descriptor, TCP_NODELAY, 1); }

int cio_socket_unsent_max(int descriptor, unsigned bytes) { return tcp_option(descriptor, TCP_NOTSENT_LOWAT, bytes); }

int cio_socket_keepalive(int descriptor, int idle, int interval, int count, unsigned user_timeout_ms) {
    int on = 1;
    if (setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) != 0) return -errno;
    int result = tcp_option(descriptor, TCP_KEEPIDLE, (unsigned)idle);
    if (result == 0) result = tcp_option(descriptor, TCP_KEEPINTVL, (unsigned)interval);
    if (result == 0) result = tcp_option(descriptor, TCP_KEEPCNT, (unsigned)count);
    if (result == 0) result = tcp_option(descriptor, TCP_USER_TIMEOUT, user_timeout_ms);
    return result;
}

int cio_socket_unacknowledged(int descriptor) {
    int count = 0;
    return ioctl(descriptor, SIOCOUTQ, &count) == 0 ? count : -errno;
}

int cio_socket_credentials(int descriptor, pid_t *pid, uid_t *uid, gid_t *gid) {
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return -errno;
    *pid = credentials.pid;
    *uid = credentials.uid;
    *gid = credentials.gid;
    return 0;
}

int cio_descriptor_kind(int descriptor) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) return -errno;
    if (S_ISREG(status.st_mode)) return 5;
    if (!S_ISSOCK(status.st_mode)) return 0;
    int type = 0, listening = 0;
    socklen_t length = sizeof type;
    if (getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &length) != 0) return -errno;
    length = sizeof listening;
    if (getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0) listening = 0;
    switch (type) {
    case SOCK_STREAM: return listening ? 4 : 1;
    case SOCK_SEQPACKET: return 2;
    case SOCK_DGRAM: return 3;
    default: return 0;
    }
}

void cio_descriptor_close(int descriptor) {
    /* Linux gives the number free even when close says EINTR; a second close could hit someone else's descriptor. */
    (void)close(descriptor);
}

ssize_t cio_descriptor_write(int descriptor, const void *bytes, size_t length) {
    const uint8_t *next = bytes;
    size_t left = length;
    while (left > 0) {
        ssize_t written = write(descriptor, next, left);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return left == length ? -errno : (ssize_t)(length - left);
        next += written;
        left -= (size_t)written;
    }
    return (ssize_t)length;
}

ssize_t cio_descriptor_write_ready(int descriptor, const void *bytes, size_t length) {
    struct pollfd entry = {.fd = descriptor, .events = POLLOUT};
    int ready = poll(&entry, 1, 0);
    if (ready < 0) return -errno;
    if (ready == 0 || (entry.revents & POLLOUT) == 0) return (entry.revents & (POLLERR | POLLNVAL)) ? -EPIPE : -EAGAIN;
    ssize_t written;
    do written = write(descriptor, bytes, length);
    while (written < 0 && errno == EINTR);
    return written < 0 ? -errno : written;
}
