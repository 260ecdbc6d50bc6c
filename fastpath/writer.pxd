"""The trip connection of a device: writes what the bank wishes, and the heartbeat."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.journal cimport Shm, Stamp
from fastpath.lease cimport Lease
from fastpath.link cimport Link
from fastpath.outputs cimport Bank
from fastpath.program cimport ProgramView

cdef enum:
    GROUP_MAX = 512  # outputs in one request: coils; registers at most _WRITE_REGISTERS_MAX

cdef struct Writer:
    Link link
    uint8_t needed  # the device carries outputs or a heartbeat
    uint8_t active  # a command is outstanding
    uint8_t normal  # it is a normal value
    uint8_t again  # send it again when what was outstanding before it is answered or expired
    uint8_t beat_active  # a heartbeat or a request of the lease is outstanding
    uint8_t beat_function
    uint8_t beat_lease  # LeaseWish: what it is of the lease
    uint8_t silent  # expired requests in a row
    uint8_t lost  # connections in a row on which nothing was answered
    uint8_t singly  # the device refused a joint write on this connection
    uint8_t multiple  # FC15 and FC16 also for one: replies to FC5 and FC6 prove nothing yet
    uint8_t unit
    uint8_t function
    uint16_t tid  # newest of this connection
    uint16_t command_tid
    uint16_t beat_tid
    uint16_t beat_count
    uint16_t beat_address
    uint16_t beat_registers
    uint16_t address
    uint16_t count
    int64_t deadline_ns
    int64_t beat_deadline_ns
    int64_t beat_sent_ns  # 0: none on this connection yet
    int64_t again_by_ns
    int frame_length
    int beat_length
    uint32_t group_count
    uint32_t group[GROUP_MAX]
    uint8_t frame[260]
    uint8_t beat[24]
    Lease lease

cdef struct WriterBank:
    Shm* shm
    const ProgramView* program
    Bank* outputs
    Writer* writers
    uint64_t random
    uint32_t instance  # of this guard, for leases
    bint scanned  # a whole scan is done: before it nothing but trip values may go out

cdef void writers_plan(WriterBank* bank) noexcept nogil
cdef void writer_turn(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef void writer_flush(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef bint writer_event(
    WriterBank* bank, uint32_t device, short revents, const Stamp* now) noexcept nogil
cdef bint writer_starves(const WriterBank* bank, uint32_t device) noexcept nogil
cdef int64_t writer_due(const WriterBank* bank, uint32_t device) noexcept nogil

# What the bus of a serial line does with a writer: look, ask, hear, give up, begin, end.
cdef bint writer_wishes(const WriterBank* bank, uint32_t device, uint8_t wish) noexcept nogil
cdef bint writer_fresh(const WriterBank* bank, uint32_t device) noexcept nogil
cdef int64_t writer_beat_ns(const WriterBank* bank, uint32_t device) noexcept nogil
cdef bint writer_ask(
    WriterBank* bank, uint32_t device, uint8_t wish, const Stamp* now) noexcept nogil
cdef bint writer_beat(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef bint writer_answered(
    WriterBank* bank, uint32_t device, const uint8_t* adu, int length, const Stamp* now,
) noexcept nogil
cdef void writer_failed(
    WriterBank* bank, uint32_t device, bint again, const Stamp* now) noexcept nogil
cdef void writer_begin(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil
cdef void writer_end(WriterBank* bank, uint32_t device, const Stamp* now) noexcept nogil
