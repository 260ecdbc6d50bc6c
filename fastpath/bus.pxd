"""Devices that share a serial line: who sends next, and what becomes of each exchange."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from fastpath.journal cimport Shm, Stamp
from fastpath.line cimport Line
from fastpath.poller cimport PollBank
from fastpath.program cimport ProgramView
from fastpath.types cimport _DEVICES_MAX
from fastpath.writer cimport WriterBank

cdef enum:
    BUSES_MAX = 64
    DOORS_MAX = 128  # those of the program that runs and of the one to come

cdef enum DoorState:
    DOOR_EMPTY = 0
    DOOR_OFFERED = 1  # main thread -> scan thread: an open tty
    DOOR_TAKEN = 2
    DOOR_RETURNED = 3  # scan thread -> main thread: to be closed
    DOOR_FAILED = 4  # main thread -> scan thread: it cannot be opened

cdef struct Door:  # through which a tty's descriptor passes between the threads
    uint64_t state  # DoorState; released by whoever hands over
    int fd
    int error

cdef struct Unit:  # a device as its line knows it
    uint8_t up
    uint8_t fails  # exchanges in a row without a good reply
    int64_t backoff_ns
    int64_t next_try_ns  # not up: no poll and no heartbeat before
    int64_t write_ns  # no further try of a trip value before

cdef struct Bus:
    Line line
    uint32_t door  # through which its tty comes; DOORS_MAX: none
    uint32_t device_count
    uint32_t device  # of the running exchange
    uint32_t kind  # of the running exchange
    int64_t due_ns
    uint8_t devices[_DEVICES_MAX]

cdef struct BusBank:
    Shm* shm
    const ProgramView* program
    PollBank* polls
    WriterBank* writers
    Bus* buses
    uint32_t bus_count
    Unit* units
    Door* doors
    int main_fd  # scan thread -> main thread, -1: none
    int poll_fd  # the epoll set that watches the lines, -1: none
    uint64_t random

cdef void buses_init(Bus* buses, Unit* units) noexcept nogil
cdef void buses_plan(BusBank* bank) noexcept nogil
cdef void buses_swap(
    BusBank* bank, const Bus* old, const Unit* old_units, const int32_t* device_from,
    const Stamp* now) noexcept nogil
cdef void bus_turn(BusBank* bank, uint32_t index, const Stamp* now) noexcept nogil
cdef bint bus_event(
    BusBank* bank, uint32_t index, bint hung_up, const Stamp* now) noexcept nogil
