# cython: cdivision=True
"""A serial line of the scan thread: its bytes and its quiet times, one exchange at a time.

A link that lies on a line gives its MBAP frames here and gets the replies back as such. Between
two frames the line is quiet for 3.5 characters, and above 19,200 baud for 1.75 ms (Modbus over
Serial Line V1.02, 2.5.1.1). Whatever comes while nothing was asked is read and dropped.
"""

from libc.errno cimport EAGAIN, EINTR, EIO, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from fastpath.rtu cimport (
    ECHO_UNKNOWN, rtu_decode, rtu_encode, rtu_look, rtu_reply_bytes,
)
from fastpath.types cimport _PARITY_NONE, DeviceDef

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* data, size_t n)
    ssize_t write(int fd, const void* data, size_t n)

cdef int64_t SECOND_NS = 1_000_000_000
cdef int64_t QUIET_NS_FAST = 1_750_000
cdef uint32_t BAUD_FAST = 19_200


cdef void line_init(Line* line) noexcept nogil:
    memset(line, 0, sizeof(Line))
    line.fd = -1


cdef void line_set(Line* line, const DeviceDef* device) noexcept nogil:
    """The times that follow from speed and format."""
    cdef int64_t bits = 1 + device.data_bits + device.stop_bits
    if device.parity != _PARITY_NONE:
        bits += 1
    line.char_ns = bits * SECOND_NS // max(<int64_t>device.baud, 1)
    line.quiet_ns = QUIET_NS_FAST
    if device.baud <= BAUD_FAST:
        line.quiet_ns = 7 * line.char_ns // 2


cdef void line_open(Line* line, int fd, int64_t now_ns) noexcept nogil:
    """A fresh descriptor; what it does with our own bytes is to be found out."""
    line.fd = fd
    line.error = 0
    line.broken = 0
    line.busy = 0
    line.late = 0
    line.echo = ECHO_UNKNOWN
    line.free_ns = now_ns + line.quiet_ns
    line.noisy_ns = line.free_ns
    line.silent_ns = line.free_ns


cdef bint line_send(Line* line, const uint8_t* adu, int length) noexcept nogil:
    """Send a whole request now; False where the kernel did not take all of it (then broken)."""
    cdef ssize_t sent
    if line.fd < 0 or line.busy:
        return False
    line.frame_length = rtu_encode(line.frame, adu, length)
    if line.frame_length == 0:
        return False
    sent = write(line.fd, line.frame, line.frame_length)
    if sent != line.frame_length:
        line.error = errno if sent < 0 else EIO
        line.broken = 1
        return False
    memcpy(line.adu, adu, length)
    line.adu_length = length
    line.rx_have = 0
    line.seen = 0
    line.skip = 0
    line.busy = 1
    return True


cdef void line_expect(Line* line, int64_t timeout_ns, int64_t now_ns) noexcept nogil:
    """The request went out at ``now_ns``: until when its reply counts."""
    cdef int64_t characters = line.frame_length + rtu_reply_bytes(line.adu)
    line.sent_ns = now_ns
    line.deadline_ns = now_ns + timeout_ns + characters * line.char_ns


cdef int line_receive(Line* line, int64_t now_ns) noexcept nogil:
    """Bytes added to ``rx``; 0 nothing there now; -1 the tty is gone (then broken)."""
    cdef int room = LINE_RX_BYTES - line.rx_have
    cdef ssize_t got
    if room == 0:
        return 0
    got = read(line.fd, line.rx + line.rx_have, room)
    if got > 0:
        line.rx_have += <int>got
        line.free_ns = now_ns + line.quiet_ns
        return <int>got
    if got < 0 and (errno == EAGAIN or errno == EINTR):
        return 0
    line.error = errno if got < 0 else EIO
    line.broken = 1
    return -1


cdef int line_discard(Line* line, int64_t patience_ns, int64_t now_ns) noexcept nogil:
    """Drop what came unasked; as ``line_receive``. The quiet time starts anew.

    A line that never gets quiet delays what is to be sent by ``patience_ns`` and no more.
    """
    cdef bint quiet = now_ns >= line.free_ns
    cdef int got
    line.rx_have = 0
    got = line_receive(line, now_ns)
    line.rx_have = 0
    if got > 0 and quiet:
        line.noisy_ns = now_ns + patience_ns
    return got


cdef int line_look(Line* line) noexcept nogil:
    """Verdict on the bytes so far: ``rtu_look``, byte for byte, however they were cut."""
    cdef int verdict = 0
    while verdict == 0 and line.seen < line.rx_have:
        line.seen += 1
        verdict = rtu_look(
            line.adu, line.frame, line.frame_length, line.rx, line.seen, &line.echo, &line.skip)
    return verdict


cdef int line_reply(const Line* line, int length, uint8_t* adu_out) noexcept nogil:
    """The whole reply of ``length`` bytes as an MBAP frame (room for 264 bytes); its length."""
    return rtu_decode(adu_out, line.adu, line.rx + line.skip, length)


cdef void line_end(Line* line, int64_t silence_ns, int64_t now_ns) noexcept nogil:
    """The exchange is over; with ``silence_ns`` a late reply may still come that long."""
    line.busy = 0
    line.rx_have = 0
    line.free_ns = now_ns + line.quiet_ns
    line.noisy_ns = line.free_ns
    line.silent_ns = max(line.silent_ns, now_ns + silence_ns)
