"""The guard's socket: who may say what, messages in, results out."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.bank cimport Bank
from fastpath.intake cimport Intake
from fastpath.journal cimport Shm, Stamp
from fastpath.program cimport ProgramView

cdef enum:
    SESSIONS_MAX = 8
    COMMANDS_PER_WAKE_MAX = 16

cdef struct Session:
    int fd  # -1: free
    uint32_t uid
    uint32_t pid
    uint8_t full  # may send everything; else TRIP alone
    uint8_t gateway  # said HELLO and is served
    uint8_t foreign  # said HELLO and was told that its version is not served: nothing else counts
    uint64_t serial  # of all sessions: whose place was taken is not taken for the new one

cdef struct Command:
    uint32_t session
    uint64_t serial
    uint16_t type
    uint8_t id[16]
    uint64_t program
    uint64_t key
    uint32_t generation
    uint32_t kind
    int64_t not_after_ns  # boottime, 0: never
    int64_t duration_ns
    uint64_t ledger_seq
    uint8_t who[32]
    uint8_t hash[32]  # LOAD
    uint8_t expected[32]
    uint32_t step
    uint32_t flags  # LoadFlag

cdef struct Mailbox:
    Shm* shm
    const ProgramView* program
    Intake* intake
    Bank* bank
    int listen_fd
    int poll_fd  # the epoll set that watches the sessions, -1: none
    uint32_t own_uid
    uint32_t gateway_uid  # _NONE_U32: none besides our own
    uint32_t operators_gid  # _NONE_U32: no such group
    Session sessions[SESSIONS_MAX]
    Command commands[COMMANDS_PER_WAKE_MAX]
    uint32_t command_count
    uint64_t serial
    uint64_t nudged_head
    uint64_t rejected  # samples refused since the gateway came
    int64_t gateway_since_ns

cdef void mailbox_accept(Mailbox* box, const Stamp* now) noexcept nogil
cdef bint mailbox_event(
    Mailbox* box, uint32_t session, short revents, const Stamp* now) noexcept nogil
cdef void mailbox_result(
    Mailbox* box, const Command* command, uint32_t code, uint32_t generation,
    uint32_t detail) noexcept nogil
cdef bint mailbox_known(Mailbox* box, const Command* command) noexcept nogil
cdef void mailbox_nudge(Mailbox* box) noexcept nogil
cdef void mailbox_close_all(Mailbox* box) noexcept nogil
