"""What the scan thread waits for: one epoll set, and what each descriptor in it means.

A token is a kind and an index (of a session or a device). Readiness is level-triggered: what one
wake does not take, the next one sees again. A closed descriptor leaves the set by itself.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int count, int timeout_ms)

cdef enum WatchKind:
    WATCH_WAKE = 1  # the main thread has something
    WATCH_TIMER = 7  # something is due
    WATCH_LISTEN = 2
    WATCH_SESSION = 3
    WATCH_READ = 4  # a device's read connection
    WATCH_TRIP = 5  # a device's trip connection
    WATCH_TTY = 6  # a serial bus

cdef inline uint64_t watch_token(uint32_t kind, uint32_t index) noexcept nogil:
    return (<uint64_t>kind << 32) | index

cdef inline bint watch(
    int poll_fd, int op, int fd, bint writable, uint64_t token,
) noexcept nogil:
    """Wait for ``fd`` to be readable, or writable where it is still connecting."""
    cdef epoll_event event
    if poll_fd < 0 or fd < 0:
        return False
    event.events = EPOLLOUT if writable else EPOLLIN
    event.data.u64 = token
    return epoll_ctl(poll_fd, op, fd, &event) == 0
