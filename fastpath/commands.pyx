# cython: cdivision=True
"""Commands of a wake: who may what, and what came of it.

Strengthening ones run before the scan's evaluation, weakening ones after it, and only where they
are durable in the ledger. The same id again is answered with the same result and does nothing.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.bank cimport Bank
from fastpath.bypass cimport (
    BypassOrder, bypass_end_interlock, bypass_end_tag, bypass_slot, bypass_start_interlock,
    bypass_start_tag,
)
from fastpath.interlock cimport Logic, interlocks_marks
from fastpath.journal cimport Stamp, journal_write
from fastpath.mailbox cimport Command, mailbox_known, mailbox_result
from fastpath.orders cimport order_reset, order_trip, release_forbidden
from fastpath.outputs cimport output_command_release
from fastpath.scanner cimport LOAD_ASKED, LOAD_IDLE, Scanner
from fastpath.types cimport *

cdef extern from "atomics.h" nogil:
    uint64_t sw_load_acquire(const uint64_t* p)
    void sw_store_release(uint64_t* p, uint64_t value)

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* data, size_t n)

cdef int64_t STOP_MARGIN_NS = 100_000_000

cdef struct RefusedPayload:  # records.PAYLOADS[COMMAND]
    uint32_t type
    uint32_t code
    uint64_t detail
    uint8_t command_id[16]
    uint8_t who[32]


cdef int64_t _find_interlock(const Scanner* scanner, uint64_t key) noexcept nogil:
    """Index by binary search over the ascending keys, -1: none."""
    cdef int64_t low = 0
    cdef int64_t high = <int64_t>scanner.current.program.interlock_count - 1
    cdef int64_t middle
    while low <= high:
        middle = (low + high) // 2
        if scanner.current.program.interlocks[middle].key == key:
            return middle
        if scanner.current.program.interlocks[middle].key < key:
            low = middle + 1
        else:
            high = middle - 1
    return -1


cdef int64_t _find_output(const Scanner* scanner, uint64_t key) noexcept nogil:
    cdef int64_t low = 0
    cdef int64_t high = <int64_t>scanner.current.program.output_count - 1
    cdef int64_t middle
    while low <= high:
        middle = (low + high) // 2
        if scanner.current.program.outputs[middle].key == key:
            return middle
        if scanner.current.program.outputs[middle].key < key:
            low = middle + 1
        else:
            high = middle - 1
    return -1


cdef void command_answer(
    Scanner* scanner, const Command* command, uint32_t code, uint32_t generation, uint32_t detail,
    const Stamp* now,
) noexcept nogil:
    """RESULT to the sender; what was refused or already so is a record besides."""
    cdef RefusedPayload payload
    if code != _RESULT_DONE:
        memset(&payload, 0, sizeof(payload))
        payload.type = command.type
        payload.code = code
        payload.detail = detail
        memcpy(payload.command_id, command.id, 16)
        memcpy(payload.who, command.who, 32)
        journal_write(
            &scanner.shm, now, _EV_COMMAND, 0, _NONE_U32, command.key, &payload, sizeof(payload))
    mailbox_result(&scanner.box, command, code, generation, detail)


cdef bint _other_program(const Scanner* scanner, const Command* command) noexcept nogil:
    return command.program != 0 and memcmp(
        &command.program, scanner.current.program.hash, 8) != 0


cdef void _command_trip(Scanner* scanner, const Command* command, const Stamp* now) noexcept nogil:
    cdef int64_t index = _find_interlock(scanner, command.key)
    cdef uint32_t detail = 0
    cdef uint32_t code
    if index < 0:
        command_answer(scanner, command, _RESULT_UNKNOWN_KEY, 0, 0, now)
        return
    code = order_trip(
        &scanner.parts.logic, <uint32_t>index, command.kind, now, &detail)
    command_answer(
        scanner, command, code, scanner.current.interlocks[index].latch.generation, detail, now)


cdef void _command_reset(Scanner* scanner, const Command* command, const Stamp* now) noexcept nogil:
    cdef int64_t index = _find_interlock(scanner, command.key)
    cdef uint32_t detail = 0
    cdef uint32_t code
    if index < 0:
        command_answer(scanner, command, _RESULT_UNKNOWN_KEY, 0, 0, now)
        return
    code = order_reset(
        &scanner.parts.logic, <uint32_t>index, command.generation, command.ledger_seq,
        command.id, now, &detail)
    command_answer(
        scanner, command, code, scanner.current.interlocks[index].latch.generation, detail, now)


cdef void _command_release(Scanner* scanner, const Command* command, const Stamp* now) noexcept nogil:
    cdef int64_t index = _find_output(scanner, command.key)
    cdef Bank* bank = &scanner.parts.bank
    cdef uint32_t detail = 0
    cdef uint32_t code
    if index < 0:
        command_answer(scanner, command, _RESULT_UNKNOWN_KEY, 0, 0, now)
        return
    # Who silences has not heard what trips in this very scan: that sounds again.
    interlocks_marks(&scanner.parts.logic, now.boot_ns, bank.marks)
    code = output_command_release(
        bank, <uint32_t>index, release_forbidden(&scanner.parts.logic, <uint32_t>index),
        bank.marks[index], now, &detail)
    command_answer(
        scanner, command, code, scanner.current.outputs[index].latch.generation, detail, now)


cdef void _command_bypass(
    Scanner* scanner, const Command* command, const Stamp* now,
) noexcept nogil:
    """BYPASS_START and BYPASS_END, of an interlock or a tag."""
    cdef Logic* logic = &scanner.parts.logic
    cdef bint start = command.type == _MSG_BYPASS_START
    cdef BypassOrder order
    cdef int64_t index
    cdef uint32_t code, generation = 0
    order.duration_ns = command.duration_ns
    order.ledger_seq = command.ledger_seq
    order.command_id = &command.id[0]
    index = -1
    if command.kind == _BYPASS_INTERLOCK:
        index = _find_interlock(scanner, command.key)
    elif command.kind == _BYPASS_TAG:
        index = bypass_slot(logic, command.key)
    if index < 0:
        code = _RESULT_UNKNOWN_KEY
    elif command.kind == _BYPASS_TAG and start:
        code = bypass_start_tag(logic, <uint32_t>index, &order, now)
    elif command.kind == _BYPASS_TAG:
        code = bypass_end_tag(logic, command.key, _BYPASSE_COMMAND, &order, now)
    else:
        if start:
            code = bypass_start_interlock(logic, <uint32_t>index, &order, now)
        else:
            code = bypass_end_interlock(logic, <uint32_t>index, _BYPASSE_COMMAND, &order, now)
        generation = logic.runs[index].latch.generation
    command_answer(scanner, command, code, generation, 0, now)


cdef void _command_stop(Scanner* scanner, const Command* command, const Stamp* now) noexcept nogil:
    """The deliberate end of protection: trip values first, where the site file says so."""
    cdef int64_t longest = 0
    cdef uint32_t i
    if scanner.stop_by_ns != 0:
        # It is under way, and is not put off. The same id is answered with it.
        if memcmp(scanner.stop_command.id, command.id, 16) != 0:
            command_answer(scanner, command, _RESULT_ALREADY, 0, 0, now)
        return
    scanner.stop_command = command[0]
    if scanner.current.program.on_stop != 1:
        scanner.stop_by_ns = now.mono_ns
        return
    for i in range(scanner.current.program.output_count):
        longest = max(longest, scanner.current.program.outputs[i].confirm_ns)
    scanner.parts.bank.stopping = True
    scanner.stop_by_ns = now.mono_ns + longest + STOP_MARGIN_NS


cdef void _command_load(Scanner* scanner, const Command* command, const Stamp* now) noexcept nogil:
    """Hand it to the main thread; one at a time."""
    cdef uint64_t one = 1
    if sw_load_acquire(&scanner.load.state) != LOAD_IDLE:
        if memcmp(scanner.load.command.id, command.id, 16) != 0:
            command_answer(scanner, command, _RESULT_LIMIT, 0, 0, now)
        return
    scanner.load.command = command[0]
    sw_store_release(&scanner.load.state, LOAD_ASKED)
    write(scanner.main_fd, &one, sizeof(one))


cdef void _command_confirm(
    Scanner* scanner, const Command* command, const Stamp* now,
) noexcept nogil:
    """A second pair of eyes on a weakening program: not those of the gateway that asks for it."""
    if scanner.box.sessions[command.session].gateway:
        command_answer(scanner, command, _RESULT_NOT_ALLOWED, 0, 0, now)
    else:
        _command_load(scanner, command, now)


cdef bint _weakens_properly(
    Scanner* scanner, const Command* command, const Stamp* now,
) noexcept nogil:
    """Durable in the ledger first, not too old, for this program."""
    if command.ledger_seq == 0:
        command_answer(scanner, command, _RESULT_NOT_ALLOWED, 0, 0, now)
    elif command.not_after_ns != 0 and now.boot_ns > command.not_after_ns:
        command_answer(scanner, command, _RESULT_EXPIRED, 0, 0, now)
    elif _other_program(scanner, command):
        command_answer(scanner, command, _RESULT_WRONG_PROGRAM, 0, 0, now)
    else:
        return True
    return False


cdef void commands_run(Scanner* scanner, bint strengthening, const Stamp* now) noexcept nogil:
    cdef Command* command
    cdef uint32_t i
    for i in range(scanner.box.command_count):
        command = &scanner.box.commands[i]
        if (command.type in (_MSG_TRIP, _MSG_BYPASS_END)) != strengthening:
            continue
        if mailbox_known(&scanner.box, command):
            continue
        if command.type == _MSG_TRIP:
            _command_trip(scanner, command, now)
        elif command.type == _MSG_BYPASS_END:
            _command_bypass(scanner, command, now)
        elif command.type == _MSG_LOAD and command.step == _LOAD_CONFIRM:
            _command_confirm(scanner, command, now)
        elif not _weakens_properly(scanner, command, now):
            continue
        elif command.type == _MSG_RESET:
            _command_reset(scanner, command, now)
        elif command.type == _MSG_RELEASE:
            _command_release(scanner, command, now)
        elif command.type == _MSG_BYPASS_START:
            _command_bypass(scanner, command, now)
        elif command.type == _MSG_STOP:
            _command_stop(scanner, command, now)
        elif command.type == _MSG_LOAD:
            _command_load(scanner, command, now)
