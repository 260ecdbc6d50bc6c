"""Non-blocking TCP connections of the scan thread; every call returns at once."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from fastpath.line cimport Line

cdef enum:
    LINK_RX_BYTES = 1040  # four ADUs of 260 bytes

cdef enum LinkState:
    LINK_CLOSED = 1
    LINK_CONNECTING = 2
    LINK_OPEN = 3
    LINK_LINE = 4  # a serial line carries it; who sends when, the bus decides
    LINK_LINE_DOWN = 5

cdef struct Link:
    int fd  # -1: none
    int state
    int error  # errno of the last failure
    int rx_have
    int poll_fd  # the epoll set that it is watched by, -1: none
    uint64_t token
    int64_t next_try_ns  # closed: not before
    int64_t backoff_ns
    int64_t deadline_ns  # connecting: give up at
    int64_t opened_ns
    Line* line  # NULL: a connection of its own
    uint8_t rx[LINK_RX_BYTES]

cdef void link_init(Link* link) noexcept nogil
cdef void link_watch(Link* link, int poll_fd, uint64_t token) noexcept nogil
cdef void link_connect(
    Link* link, const uint8_t* address, uint16_t port, int64_t timeout_ns, int64_t now_ns,
) noexcept nogil
cdef bint link_finish(Link* link, int64_t now_ns) noexcept nogil
cdef void link_close(
    Link* link, int error, int64_t now_ns, int64_t backoff_ns_max, uint64_t* random) noexcept nogil
cdef bint link_send(Link* link, const uint8_t* frame, int length) noexcept nogil
cdef int link_receive(Link* link) noexcept nogil
cdef void link_consume(Link* link, int length) noexcept nogil
