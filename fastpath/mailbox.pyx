# cython: cdivision=True
"""The guard's socket: who may say what, messages in, results out.

SEQPACKET, at most 4,096 bytes a message; a message of a wrong length ends its session and is
counted. Samples, touches and acknowledgements act here; commands are queued for the scan, where
strengthening ones come before the evaluation and weakening ones after it.
"""

from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport close

from fastpath.delivery cimport output_result
from fastpath.intake cimport intake_store, intake_touch
from fastpath.journal cimport crc32_of, journal_write
from fastpath.types cimport *
from fastpath.watch cimport EPOLL_CTL_ADD, WATCH_SESSION, watch, watch_token

cdef extern from "atomics.h" nogil:
    void sw_store_release(uint64_t* p, uint64_t value)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/socket.h>
    #include <sys/types.h>
    #include <stdint.h>
    #include <string.h>
    #ifndef SO_PEERGROUPS
    #define SO_PEERGROUPS 59
    #endif
    struct sw_peer { uint32_t pid, uid, gid; };
    static int sw_peer_of(int fd, struct sw_peer *peer) {
        struct ucred c;
        socklen_t n = sizeof c;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) != 0) return 0;
        peer->pid = (uint32_t)c.pid; peer->uid = c.uid; peer->gid = c.gid;
        return 1;
    }
    static int sw_peer_in_group(int fd, uint32_t gid) {
        gid_t groups[64];
        socklen_t n = sizeof groups;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &n) != 0) return 0;
        for (size_t i = 0; i < n / sizeof(gid_t); i++) if (groups[i] == gid) return 1;
        return 0;
    }
    static int sw_accept(int fd) {
        return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    """
    struct sw_peer:
        uint32_t pid
        uint32_t uid
        uint32_t gid
    int sw_peer_of(int fd, sw_peer* peer) nogil
    int sw_peer_in_group(int fd, uint32_t gid) nogil
    int sw_accept(int fd) nogil

cdef extern from "<sys/socket.h>" nogil:
    int MSG_NOSIGNAL, MSG_DONTWAIT, MSG_TRUNC
    ssize_t send(int fd, const void* data, size_t length, int flags)
    ssize_t recv(int fd, void* data, size_t length, int flags)

cdef extern from "<poll.h>" nogil:
    short POLLERR, POLLHUP, POLLNVAL

cdef extern from "<errno.h>" nogil:
    int EAGAIN, errno

cdef enum:
    MESSAGE_BYTES_MAX = 4096
    MESSAGES_PER_WAKE_MAX = 16
    RANGES_MAX = 256

cdef uint16_t VERSION = 1
cdef uint16_t VERSION_OLDEST = 1
cdef int64_t FUTURE_NS_MAX = 1_000_000

cdef struct HelloBody:
    uint16_t version
    uint16_t oldest
    uint32_t pad
    uint8_t instance[16]

cdef struct WelcomeBody:
    uint16_t version
    uint16_t compatible
    uint32_t pad
    uint64_t journal_id
    uint64_t event_head
    uint64_t event_tail
    uint64_t sample_head
    uint8_t program[32]
    uint64_t guard_starts

cdef struct TouchBody:
    int64_t mono_ns
    uint32_t count
    uint32_t pad

cdef struct AckBody:
    uint64_t journal_id
    uint64_t event_tail

cdef struct CommandBody:
    uint64_t key
    uint32_t generation
    uint32_t kind
    int64_t not_after_ns
    uint64_t ledger_seq
    int64_t duration_ns
    uint8_t who[32]

cdef struct LoadBody:
    uint8_t hash[32]
    uint8_t expected[32]
    uint64_t ledger_seq
    uint32_t step
    uint32_t flags

cdef struct OutputResultBody:
    uint64_t key
    uint32_t generation
    uint32_t code

cdef struct ResultBody:
    uint32_t code
    uint32_t type
    uint64_t scan
    uint32_t generation
    uint32_t detail
    uint8_t text[40]

cdef struct NudgeBody:
    uint64_t event_head
    uint64_t sample_head

cdef struct GatewayPayload:  # records.PAYLOADS[GATEWAY_*]
    uint32_t pid
    uint32_t uid
    int64_t down_ns
    uint64_t rejected


cdef bint _send(int fd, MessageHeader* header, const void* body, size_t body_bytes) noexcept nogil:
    cdef uint8_t message[256]
    header.version = VERSION
    header.length = <uint32_t>(sizeof(MessageHeader) + body_bytes)
    memcpy(message, header, sizeof(MessageHeader))
    memcpy(message + sizeof(MessageHeader), body, body_bytes)
    return send(fd, message, header.length, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0


cdef void _close(Mailbox* box, uint32_t index, const Stamp* now) noexcept nogil:
    cdef Session* session = &box.sessions[index]
    if session.fd >= 0:
        close(session.fd)
    session.fd = -1
    if session.gateway:
        session.gateway = 0
        _gateway(box, session, _EV_GATEWAY_DOWN, now)


cdef void _gateway(
    Mailbox* box, const Session* session, uint16_t type, const Stamp* now,
) noexcept nogil:
    """The gateway came or went: header and record."""
    cdef GatewayPayload payload
    memset(&payload, 0, sizeof(payload))
    payload.pid = session.pid
    payload.uid = session.uid
    if type == _EV_GATEWAY_UP and box.gateway_since_ns != 0:
        payload.down_ns = now.mono_ns - box.gateway_since_ns
    payload.rejected = box.rejected
    box.rejected = 0
    box.gateway_since_ns = now.mono_ns
    box.shm.live.gateway_connected = 1 if type == _EV_GATEWAY_UP else 0
    journal_write(box.shm, now, type, 0, _NONE_U32, 0, &payload, sizeof(payload))


cdef void mailbox_accept(Mailbox* box, const Stamp* now) noexcept nogil:
    """One new session, by its peer's rights; nobody else is let in."""
    cdef int fd = sw_accept(box.listen_fd)
    cdef sw_peer peer
    cdef uint32_t i
    cdef bint full, operator
    if fd < 0:
        return
    if not sw_peer_of(fd, &peer):
        close(fd)
        return
    full = peer.uid == box.own_uid or peer.uid == box.gateway_uid
    operator = full or peer.uid == 0 or (
        box.operators_gid != _NONE_U32
        and (peer.gid == box.operators_gid or sw_peer_in_group(fd, box.operators_gid)))
    # Operators have half of the places: idle ones never keep the gateway out.
    for i in range(<uint32_t>SESSIONS_MAX if full else <uint32_t>SESSIONS_MAX // 2):
        if operator and box.sessions[i].fd < 0:
            memset(&box.sessions[i], 0, sizeof(Session))
            box.sessions[i].fd = fd
            box.sessions[i].uid = peer.uid
            box.sessions[i].pid = peer.pid
            box.sessions[i].full = full
            box.serial += 1
            box.sessions[i].serial = box.serial
            watch(
                box.poll_fd, EPOLL_CTL_ADD, fd, False, watch_token(WATCH_SESSION, i))
            return
    box.shm.live.counters[_COUNT_SESSION_REFUSED] += 1
    close(fd)


cdef void _hello(
    Mailbox* box, uint32_t index, const HelloBody* body, const MessageHeader* header,
    const Stamp* now,
) noexcept nogil:
    """One gateway session; a new one replaces the old."""
    cdef Session* session = &box.sessions[index]
    cdef MessageHeader answer = header[0]
    cdef WelcomeBody welcome
    cdef uint32_t i
    memset(&welcome, 0, sizeof(welcome))
    welcome.version = VERSION
    welcome.compatible = (
        1 if body.version >= VERSION_OLDEST and body.oldest <= VERSION else 0)
    welcome.journal_id = box.shm.fixed.journal_id
    welcome.event_head = box.shm.live.event_head
    welcome.event_tail = box.shm.live.event_tail
    welcome.sample_head = box.shm.live.sample_head
    memcpy(welcome.program, box.shm.live.program, 32)
    welcome.guard_starts = box.shm.live.guard_starts
    if welcome.compatible and not session.gateway:
        for i in range(<uint32_t>SESSIONS_MAX):
            if i != index and box.sessions[i].gateway:
                _close(box, i, now)
        session.gateway = 1
        _gateway(box, session, _EV_GATEWAY_UP, now)
    if not welcome.compatible:
        session.foreign = 1
    answer.type = _MSG_WELCOME
    _send(session.fd, &answer, &welcome, sizeof(welcome))


cdef void _reject(Mailbox* box, uint32_t counter) noexcept nogil:
    box.shm.live.counters[counter] += 1
    box.rejected += 1


cdef void _sample(Mailbox* box, const SampleRecord* s, const Stamp* now) noexcept nogil:
    """One value from the gateway, checked on its own."""
    cdef const Slot* slot
    if s.slot >= box.program.tag_count:
        _reject(box, _COUNT_SAMPLE_SLOT)
    elif box.program.tags[s.slot].owner != _OWNER_GATEWAY:
        _reject(box, _COUNT_SAMPLE_OWNER)
    elif s.mono_ns > now.mono_ns + FUTURE_NS_MAX or s.mono_ns <= 0:
        _reject(box, _COUNT_SAMPLE_FUTURE)
    elif s.quality > _Q_GOOD or s.reason > _REASON_UNREADABLE:
        _reject(box, _COUNT_MESSAGE_BAD)
    else:
        slot = &box.shm.image[s.slot]
        if s.mono_ns <= slot.mono_ns:
            _reject(box, _COUNT_SAMPLE_OLD)
            return
        box.shm.live.counters[_COUNT_SAMPLES_ACCEPTED] += 1
        intake_store(
            box.intake, s.slot, s.value, s.quality, s.reason, s.mono_ns, s.utc_ns, now)


cdef bint _samples(
    Mailbox* box, const MessageHeader* header, const uint8_t* body, size_t body_bytes,
    const Stamp* now,
) noexcept nogil:
    cdef SampleRecord s
    cdef size_t i
    if body_bytes % sizeof(SampleRecord) != 0:
        return False
    if header.program != 0 and memcmp(&header.program, box.shm.live.program, 8) != 0:
        _reject(box, _COUNT_SAMPLE_PROGRAM)
        return True
    for i in range(body_bytes // sizeof(SampleRecord)):
        memcpy(&s, body + i * sizeof(SampleRecord), sizeof(SampleRecord))
        _sample(box, &s, now)
    return True


cdef bint _touch(
    Mailbox* box, const MessageHeader* header, const uint8_t* body, size_t body_bytes,
    const Stamp* now,
) noexcept nogil:
    """Refreshes the age of unchanged points, nothing else. Ranges do not overlap."""
    cdef TouchBody touch
    cdef uint32_t pair[2]
    cdef uint32_t i, k, total = 0
    if body_bytes < sizeof(TouchBody):
        return False
    memcpy(&touch, body, sizeof(TouchBody))
    if touch.count > RANGES_MAX or body_bytes != sizeof(TouchBody) + 8 * touch.count:
        return False
    if header.program != 0 and memcmp(&header.program, box.shm.live.program, 8) != 0:
        _reject(box, _COUNT_SAMPLE_PROGRAM)
        return True
    if touch.mono_ns > now.mono_ns + FUTURE_NS_MAX:
        _reject(box, _COUNT_SAMPLE_FUTURE)
        return True
    for i in range(touch.count):
        memcpy(pair, body + sizeof(TouchBody) + 8 * i, 8)
        if pair[0] >= box.program.tag_count or pair[1] > box.program.tag_count - pair[0]:
            _reject(box, _COUNT_SAMPLE_SLOT)
            continue
        total += pair[1]
        if total > box.program.tag_count:
            return False
        for k in range(pair[0], pair[0] + pair[1]):
            # What is BAD stays so until a value comes.
            if (
                box.program.tags[k].owner == _OWNER_GATEWAY
                and box.shm.image[k].quality != _Q_BAD
            ):
                intake_touch(box.intake, k, touch.mono_ns)
    return True


cdef bint _ack(Mailbox* box, const AckBody* ack) noexcept nogil:
    if ack.journal_id == box.shm.fixed.journal_id and (
        box.shm.live.event_tail <= ack.event_tail <= box.shm.live.event_head
    ):
        sw_store_release(&box.shm.live.event_tail, ack.event_tail)
    else:
        box.shm.live.counters[_COUNT_MESSAGE_BAD] += 1
    return True


cdef bint _output_result(
    Mailbox* box, const OutputResultBody* result, const Stamp* now,
) noexcept nogil:
    """What became of an output that the gateway writes; it acts in the scan of this wake."""
    if not output_result(box.bank, result.key, result.generation, result.code, now):
        box.shm.live.counters[_COUNT_OUTPUT_RESULT_BAD] += 1
    return True


cdef bint _queue(
    Mailbox* box, uint32_t index, const MessageHeader* header, const uint8_t* body,
    size_t body_bytes,
) noexcept nogil:
    """A command for the scan of this wake."""
    cdef Command* command = &box.commands[box.command_count]
    cdef CommandBody c
    cdef LoadBody load
    memset(command, 0, sizeof(Command))
    command.session = index
    command.serial = box.sessions[index].serial
    command.type = header.type
    command.program = header.program
    memcpy(command.id, header.id, 16)
    if header.type == _MSG_LOAD:
        if body_bytes != sizeof(LoadBody):
            return False
        memcpy(&load, body, sizeof(LoadBody))
        memcpy(command.hash, load.hash, 32)
        memcpy(command.expected, load.expected, 32)
        command.ledger_seq = load.ledger_seq
        command.step = load.step
        command.flags = load.flags
    else:
        if body_bytes != sizeof(CommandBody):
            return False
        memcpy(&c, body, sizeof(CommandBody))
        command.key = c.key
        command.generation = c.generation
        command.kind = c.kind
        command.not_after_ns = c.not_after_ns
        command.ledger_seq = c.ledger_seq
        command.duration_ns = c.duration_ns
        memcpy(command.who, c.who, 32)
    box.shm.live.counters[_COUNT_COMMANDS] += 1
    box.command_count += 1
    return True


cdef bint _confirms(
    const MessageHeader* header, const uint8_t* body, size_t body_bytes,
) noexcept nogil:
    """An operator's word for a program that weakens: it loads nothing."""
    cdef LoadBody load
    if header.type != _MSG_LOAD or body_bytes != sizeof(LoadBody):
        return False
    memcpy(&load, body, sizeof(LoadBody))
    return load.step == _LOAD_CONFIRM


cdef bint _message(
    Mailbox* box, uint32_t index, const uint8_t* message, size_t length, const Stamp* now,
) noexcept nogil:
    """One datagram; False ends the session."""
    cdef const uint8_t* body = message + sizeof(MessageHeader)
    cdef size_t body_bytes = length - sizeof(MessageHeader)
    cdef Session* session = &box.sessions[index]
    cdef MessageHeader header
    cdef HelloBody hello
    cdef AckBody ack
    cdef OutputResultBody result
    if length < sizeof(MessageHeader):
        return False
    memcpy(&header, message, sizeof(MessageHeader))
    if header.length != length or session.foreign:
        return False
    # A HELLO of any version is answered: who is not served is told so.
    if header.version < VERSION_OLDEST and header.type != _MSG_HELLO:
        return False
    # They only protect more, or give a second person's word.
    if header.type in (_MSG_TRIP, _MSG_BYPASS_END) or _confirms(&header, body, body_bytes):
        return _queue(box, index, &header, body, body_bytes)
    if not session.full:
        box.shm.live.counters[_COUNT_SESSION_REFUSED] += 1
        return False
    if header.type == _MSG_HELLO:
        if body_bytes != sizeof(HelloBody):
            return False
        memcpy(&hello, body, sizeof(HelloBody))
        _hello(box, index, &hello, &header, now)
        return True
    if header.type in (
        _MSG_RESET, _MSG_RELEASE, _MSG_BYPASS_START, _MSG_STOP, _MSG_LOAD
    ):
        return _queue(box, index, &header, body, body_bytes)
    if not session.gateway:
        return False
    box.shm.live.last_message_mono_ns = now.mono_ns
    if header.type == _MSG_SAMPLES:
        return _samples(box, &header, body, body_bytes, now)
    if header.type == _MSG_TOUCH:
        return _touch(box, &header, body, body_bytes, now)
    if header.type == _MSG_OUTPUT_RESULT and body_bytes == sizeof(OutputResultBody):
        memcpy(&result, body, sizeof(OutputResultBody))
        return _output_result(box, &result, now)
    if header.type == _MSG_ACK and body_bytes == sizeof(AckBody):
        memcpy(&ack, body, sizeof(AckBody))
        return _ack(box, &ack)
    return False


cdef bint mailbox_event(
    Mailbox* box, uint32_t session, short revents, const Stamp* now,
) noexcept nogil:
    """At most 16 messages of one session; True where something came in."""
    cdef uint8_t message[MESSAGE_BYTES_MAX]
    cdef ssize_t got
    cdef int _i
    cdef bint any = False
    for _i in range(MESSAGES_PER_WAKE_MAX):
        if box.sessions[session].fd < 0 or box.command_count >= COMMANDS_PER_WAKE_MAX:
            return any
        # With MSG_TRUNC the true length comes back, so a message that was cut is seen.
        got = recv(
            box.sessions[session].fd, message, MESSAGE_BYTES_MAX, MSG_DONTWAIT | MSG_TRUNC)
        if got < 0 and errno == EAGAIN:
            break
        if got <= 0:
            _close(box, session, now)
            return any
        any = True
        if got > MESSAGE_BYTES_MAX or not _message(box, session, message, <size_t>got, now):
            box.shm.live.counters[_COUNT_MESSAGE_BAD] += 1
            _close(box, session, now)
            return any
    if revents & (POLLERR | POLLHUP | POLLNVAL) and not any:
        _close(box, session, now)
    return any


cdef bint _same_id(const uint8_t* a, const uint8_t* b) noexcept nogil:
    return memcmp(a, b, 16) == 0


cdef bint _has_id(const uint8_t* a) noexcept nogil:
    cdef int i
    for i in range(16):
        if a[i]:
            return True
    return False


cdef void _answer(
    Mailbox* box, const Command* command, uint32_t code, uint64_t scan, uint32_t generation,
    uint32_t detail,
) noexcept nogil:
    cdef MessageHeader header
    cdef ResultBody result
    if (
        box.sessions[command.session].fd < 0
        or box.sessions[command.session].serial != command.serial
    ):
        return
    memset(&header, 0, sizeof(header))
    memset(&result, 0, sizeof(result))
    header.type = _MSG_RESULT
    memcpy(header.id, command.id, 16)
    result.code = code
    result.type = command.type
    result.scan = scan
    result.generation = generation
    result.detail = detail
    _send(box.sessions[command.session].fd, &header, &result, sizeof(result))


cdef bint mailbox_known(Mailbox* box, const Command* command) noexcept nogil:
    """The same id again: the same RESULT, no action."""
    cdef const CommandSlot* slot
    cdef int i
    if not _has_id(command.id):
        return False
    for i in range(_COMMANDS_MAX):
        slot = &box.shm.commands[i]
        if (
            slot.result != 0 and _same_id(slot.id, command.id)
            and slot.crc == crc32_of(slot, sizeof(CommandSlot) - 8)
        ):
            _answer(box, command, slot.result, slot.scan, slot.generation, slot.detail)
            return True
    return False


cdef void mailbox_result(
    Mailbox* box, const Command* command, uint32_t code, uint32_t generation, uint32_t detail,
) noexcept nogil:
    """Remember the answer under its id, then send it (a lost one is asked for again)."""
    cdef uint64_t scan = box.shm.live.scan
    cdef CommandSlot slot
    cdef int i, at = 0
    if _has_id(command.id):
        for i in range(_COMMANDS_MAX):
            if box.shm.commands[i].scan < box.shm.commands[at].scan:
                at = i
        memset(&slot, 0, sizeof(slot))
        memcpy(slot.id, command.id, 16)
        slot.result = <uint16_t>code
        slot.type = command.type
        slot.generation = generation
        slot.scan = scan
        slot.detail = detail
        slot.crc = crc32_of(&slot, sizeof(CommandSlot) - 8)
        memcpy(&box.shm.commands[at], &slot, sizeof(CommandSlot))
    _answer(box, command, code, scan, generation, detail)


cdef void mailbox_nudge(Mailbox* box) noexcept nogil:
    """Tell the gateway of new records; may be lost."""
    cdef MessageHeader header
    cdef NudgeBody body
    cdef uint32_t i
    if box.nudged_head == box.shm.live.event_head:
        return
    box.nudged_head = box.shm.live.event_head
    for i in range(<uint32_t>SESSIONS_MAX):
        if box.sessions[i].gateway:
            memset(&header, 0, sizeof(header))
            header.type = _MSG_NUDGE
            body.event_head = box.shm.live.event_head
            body.sample_head = box.shm.live.sample_head
            _send(box.sessions[i].fd, &header, &body, sizeof(body))


cdef void mailbox_close_all(Mailbox* box) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>SESSIONS_MAX):
        if box.sessions[i].fd >= 0:
            close(box.sessions[i].fd)
        box.sessions[i].fd = -1
        box.sessions[i].gateway = 0
