"""What the scan works on: the program's parts, the mailbox, a LOAD under way. No descriptors.

``engine`` owns one and feeds it; ``commands`` and ``scan`` work on it; a test can drive it alone.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastpath.journal cimport Shm
from fastpath.mailbox cimport Command, Mailbox
from fastpath.runtime cimport Parts, Runtime

cdef enum LoadState:
    LOAD_IDLE = 0
    LOAD_ASKED = 1  # the scan thread asked the main thread
    LOAD_ANSWERED = 2  # refused or verified: to be told
    LOAD_READY = 3  # a runtime is ready to be swapped in
    LOAD_SWAPPED = 4  # it runs; the main thread makes it the last good one

cdef struct Load:
    uint64_t state  # LoadState; released by whoever hands over
    Command command
    uint32_t code
    uint32_t detail

cdef struct Scanner:
    Parts parts
    Runtime* current
    Runtime* spare
    Shm shm
    Mailbox box
    Load load
    int main_fd  # scan thread -> main thread
    int64_t last_scan_ns
    int64_t last_scan_boot_ns
    int64_t aged_ns
    int64_t overrun_told_ns
    int64_t stop_by_ns  # STOP: give up waiting for confirmation
    Command stop_command
    bint fault_told  # a broken evaluation of this program
