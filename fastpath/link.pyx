# cython: cdivision=True
"""Non-blocking TCP connections of the scan thread; every call returns at once.

A frame that the kernel does not take whole ends the connection: half a request on the wire is
worse than none. Reconnects wait with a backoff that doubles and a jitter of a quarter.
"""

from libc.errno cimport EAGAIN, ECONNREFUSED, EINPROGRESS, EINTR, ETIMEDOUT, errno
from libc.string cimport memcmp, memcpy, memmove, memset
from posix.unistd cimport close

from fastpath.line cimport line_send
from fastpath.watch cimport EPOLL_CTL_ADD, EPOLL_CTL_MOD, watch

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    int AF_INET, AF_INET6, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC
    int SOL_SOCKET, SO_ERROR, SO_KEEPALIVE, MSG_NOSIGNAL, MSG_DONTWAIT
    int socket(int domain, int type, int protocol)
    int connect(int fd, const sockaddr* address, socklen_t length)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)
    int getsockname(int fd, sockaddr* address, socklen_t* length)
    int getpeername(int fd, sockaddr* address, socklen_t* length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)
    ssize_t send(int fd, const void* data, size_t length, int flags)
    ssize_t recv(int fd, void* data, size_t length, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    int IPPROTO_TCP
    uint16_t htons(uint16_t value)

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY, TCP_USER_TIMEOUT

cdef int64_t BACKOFF_NS_MIN = 50_000_000
cdef unsigned int USER_TIMEOUT_MS = 2_000

cdef const uint8_t* V4_MAPPED = <const uint8_t*>b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"


cdef void link_init(Link* link) noexcept nogil:
    memset(link, 0, sizeof(Link))
    link.fd = -1
    link.poll_fd = -1
    link.state = LINK_CLOSED


cdef void link_watch(Link* link, int poll_fd, uint64_t token) noexcept nogil:
    """Be watched under this token from now on, open or not."""
    link.poll_fd = poll_fd
    link.token = token
    watch(poll_fd, EPOLL_CTL_MOD, link.fd, link.state == LINK_CONNECTING, token)


cdef void link_connect(
    Link* link, const uint8_t* address, uint16_t port, int64_t timeout_ns, int64_t now_ns,
) noexcept nogil:
    """Begin to connect; CONNECTING or OPEN afterwards, CLOSED with ``error`` where it failed."""
    cdef sockaddr_in v4
    cdef sockaddr_in6 v6
    cdef const sockaddr* to
    cdef socklen_t length
    cdef int one = 1
    if memcmp(address, V4_MAPPED, 12) == 0:
        memset(&v4, 0, sizeof(v4))
        v4.sin_family = AF_INET
        v4.sin_port = htons(port)
        memcpy(&v4.sin_addr, address + 12, 4)
        to = <const sockaddr*>&v4
        length = sizeof(v4)
        link.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    else:
        memset(&v6, 0, sizeof(v6))
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(port)
        memcpy(&v6.sin6_addr, address, 16)
        to = <const sockaddr*>&v6
        length = sizeof(v6)
        link.fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    link.rx_have = 0
    if link.fd < 0:
        link.error = errno
        return
    setsockopt(link.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    setsockopt(link.fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one))
    setsockopt(link.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &USER_TIMEOUT_MS, sizeof(USER_TIMEOUT_MS))
    link.deadline_ns = now_ns + timeout_ns
    if connect(link.fd, to, length) == 0:
        link.state = LINK_OPEN
        link.opened_ns = now_ns
        watch(link.poll_fd, EPOLL_CTL_ADD, link.fd, False, link.token)
    elif errno == EINPROGRESS or errno == EINTR:
        link.state = LINK_CONNECTING
        watch(link.poll_fd, EPOLL_CTL_ADD, link.fd, True, link.token)
    else:
        link.error = errno
        close(link.fd)
        link.fd = -1


cdef bint _to_itself(int fd) noexcept nogil:
    """A dead port of this machine, met by TCP's simultaneous open: it would echo every write."""
    cdef sockaddr_in6 own, peer
    cdef socklen_t own_bytes = sizeof(own)
    cdef socklen_t peer_bytes = sizeof(peer)
    memset(&own, 0, sizeof(own))
    memset(&peer, 0, sizeof(peer))
    if getsockname(fd, <sockaddr*>&own, &own_bytes) != 0:
        return False
    if getpeername(fd, <sockaddr*>&peer, &peer_bytes) != 0:
        return False
    return own_bytes == peer_bytes and memcmp(&own, &peer, own_bytes) == 0


cdef bint link_finish(Link* link, int64_t now_ns) noexcept nogil:
    """A connecting socket became writable: is it open? The caller closes it where it is not."""
    cdef int error = 0
    cdef socklen_t length = sizeof(error)
    if getsockopt(link.fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0:
        error = errno
    if error == 0 and _to_itself(link.fd):
        error = ECONNREFUSED
    if error != 0:
        link.error = error
        return False
    link.state = LINK_OPEN
    link.opened_ns = now_ns
    watch(link.poll_fd, EPOLL_CTL_MOD, link.fd, False, link.token)
    return True


cdef void link_close(
    Link* link, int error, int64_t now_ns, int64_t backoff_ns_max, uint64_t* random,
) noexcept nogil:
    """Close and set the time of the next try; ``random`` is the caller's xorshift state."""
    cdef uint64_t x = random[0]
    if link.line != NULL:
        link.state = LINK_LINE_DOWN
        link.error = error
        return
    if link.fd >= 0:
        close(link.fd)
    link.fd = -1
    link.rx_have = 0
    if error != 0:
        link.error = error
    # A connection that stood for a while starts over with the short wait.
    if link.state == LINK_OPEN and now_ns - link.opened_ns > 2_000_000_000:
        link.backoff_ns = 0
    link.state = LINK_CLOSED
    link.backoff_ns = min(max(2 * link.backoff_ns, BACKOFF_NS_MIN), backoff_ns_max)
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    random[0] = x
    link.next_try_ns = now_ns + link.backoff_ns - <int64_t>(
        x % <uint64_t>(link.backoff_ns // 4 + 1))


cdef bint link_send(Link* link, const uint8_t* frame, int length) noexcept nogil:
    """Send a whole frame now; False where the kernel did not take all of it (then close)."""
    cdef ssize_t sent
    if link.state != LINK_OPEN:
        return link.state == LINK_LINE and line_send(link.line, frame, length)
    sent = send(link.fd, frame, length, MSG_NOSIGNAL | MSG_DONTWAIT)
    if sent == length:
        return True
    link.error = errno if sent < 0 else ETIMEDOUT
    return False


cdef int link_receive(Link* link) noexcept nogil:
    """Bytes added to ``rx``; 0 nothing there now; -1 the peer is gone or sends too much."""
    cdef ssize_t got
    if link.rx_have >= LINK_RX_BYTES:
        link.error = 0
        return -1
    got = recv(link.fd, link.rx + link.rx_have, LINK_RX_BYTES - link.rx_have, MSG_DONTWAIT)
    if got > 0:
        link.rx_have += <int>got
        return <int>got
    if got < 0 and (errno == EAGAIN or errno == EINTR):
        return 0
    link.error = errno if got < 0 else 0
    return -1


cdef void link_consume(Link* link, int length) noexcept nogil:
    """Drop the first ``length`` bytes of ``rx``."""
    if length >= link.rx_have:
        link.rx_have = 0
    else:
        link.rx_have -= length
        memmove(link.rx, link.rx + length, link.rx_have)
