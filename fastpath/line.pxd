"""A serial line of the scan thread: its bytes and its quiet times, one exchange at a time."""

from libc.stdint cimport int64_t, uint8_t

from fastpath.types cimport DeviceDef

cdef enum:
    LINE_RX_BYTES = 512  # the longest reply behind the longest echo

cdef struct Line:
    int fd  # -1: none
    int error  # errno of the last failure
    uint8_t broken  # the descriptor is of no more use and goes back to the main thread
    uint8_t busy  # an exchange is running
    uint8_t echo  # RtuEcho
    uint8_t late  # the reply of an expired request may still come
    int skip  # bytes of echo before the reply
    int seen  # bytes of rx that were looked at
    int rx_have
    int adu_length
    int frame_length
    int64_t char_ns  # one character with its start, parity and stop bits
    int64_t quiet_ns  # between two frames
    int64_t free_ns  # nothing is sent before
    int64_t silent_ns  # no reply could be told from a late one before
    int64_t noisy_ns  # noise keeps nobody waiting beyond this
    int64_t sent_ns
    int64_t deadline_ns
    uint8_t adu[264]  # the request as an MBAP frame
    uint8_t frame[256]  # as it went out
    uint8_t rx[LINE_RX_BYTES]

cdef void line_init(Line* line) noexcept nogil
cdef void line_set(Line* line, const DeviceDef* device) noexcept nogil
cdef void line_open(Line* line, int fd, int64_t now_ns) noexcept nogil
cdef bint line_send(Line* line, const uint8_t* adu, int length) noexcept nogil
cdef void line_expect(Line* line, int64_t timeout_ns, int64_t now_ns) noexcept nogil
cdef int line_receive(Line* line, int64_t now_ns) noexcept nogil
cdef int line_discard(Line* line, int64_t patience_ns, int64_t now_ns) noexcept nogil
cdef int line_look(Line* line) noexcept nogil
cdef int line_reply(const Line* line, int length, uint8_t* adu_out) noexcept nogil
cdef void line_end(Line* line, int64_t silence_ns, int64_t now_ns) noexcept nogil
