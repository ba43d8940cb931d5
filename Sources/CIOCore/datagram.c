/* UDP sockets, outside of a loop: whoever uses one polls it (cio_poll_open) and then receives without waiting. Few packets come
 * this way, those of the cluster's nodes, so this needs no buffers of the ring; one system call takes a batch.
 */
#include "ciocore.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int cio_datagram_bind(const struct sockaddr *address, socklen_t length) {
    int descriptor = socket(address->sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -errno;
    int off = 0, result = 0;
    if (address->sa_family == AF_INET6 && setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0) goto failed;
    if (bind(descriptor, address, length) != 0) goto failed;
    return descriptor;
failed:
    result = -errno;
    close(descriptor);
    return result;
}

int cio_datagram_receive(int descriptor, uint8_t *area, size_t size, struct cio_datagram *datagrams, uint32_t count) {
    struct mmsghdr headers[CIO_DATAGRAMS_MAX];
    struct iovec pieces[CIO_DATAGRAMS_MAX];
    if (count > CIO_DATAGRAMS_MAX) count = CIO_DATAGRAMS_MAX;
    memset(headers, 0, sizeof headers);
    for (uint32_t index = 0; index < count; index++) {
        pieces[index] = (struct iovec){.iov_base = area + (size_t)index * size, .iov_len = size};
        headers[index].msg_hdr = (struct msghdr){
            .msg_name = &datagrams[index].from,
            .msg_namelen = sizeof datagrams[index].from,
            .msg_iov = &pieces[index],
            .msg_iovlen = 1,
        };
    }
    int received;
    do received = recvmmsg(descriptor, headers, count, MSG_DONTWAIT, NULL);
    while (received < 0 && errno == EINTR);
    if (received < 0) return -errno;
    for (int index = 0; index < received; index++) {
        datagrams[index].length = headers[index].msg_len;
        datagrams[index].truncated = (headers[index].msg_hdr.msg_flags & MSG_TRUNC) != 0;
    }
    return received;
}

int cio_datagram_send(int descriptor, const void *bytes, size_t length, const struct sockaddr *to, socklen_t to_length) {
    ssize_t sent;
    do sent = sendto(descriptor, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL, to, to_length);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}
