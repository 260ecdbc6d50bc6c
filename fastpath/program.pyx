# cython: boundscheck=False, wraparound=False, cdivision=True
"""The program for Python: check a blob, and run its conditions over an image of one's own.

The guard runs the same code (``verify``, ``evaluate``) over its shared image; here the gateway
evaluates its alarms, ``check`` its conditions and the tests theirs.
"""

import hashlib
import json
import re

from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from fastpath.evaluate cimport (
    _KIND,
    _STARTING,
    _UNUSABLE,
    Register,
    program_evaluate,
    register_count,
    registers_begin,
    truth_of,
)
from fastpath.image cimport TagImage, slot_write
from fastpath.layout cimport _REG_NUMBER, _REG_TRUTH, op_result, program_open
from fastpath.nodes cimport node_begin, node_seal
from fastpath.types cimport (
    _DEVICE_MODBUS_RTU, _Q_BAD, _Q_GOOD, NodeState, SampleRecord, WindowState,
)
from fastpath.verify cimport program_verify
from fastpath.windows cimport WindowRun, window_begin, window_take, windows_list, windows_take

cdef enum:
    _HASH_AT = 16
    _HASH_END = 48

_TTY = re.compile("/[\\x21-\\x7e]{1,254}")

_RULES = {
    1: "size, magic, format or hash is wrong",
    2: "sections are not in order, in bounds and within their limits",
    3: "an instruction is unknown or reads what is not before it or not of its kind",
    4: "a constant, range or duration is not finite, not in order or negative",
    5: "keys are not strictly ascending",
    6: "an index or code is out of range, or a node or window is not used exactly once",
    7: "a tag of the guard is not decoded exactly once, or another's is",
    8: "a vote is not M of N with 1 <= M <= N <= 32",
    9: "outputs fall back on themselves or more than 4 deep",
    10: "outputs, heartbeats and leases share an address",
    11: "a request is beyond the limits of Modbus or a point beyond its request",
    12: "an output's trip and normal values are equal",
    13: "an armed interlock has no effect",
    14: "a timeout, period or tick is out of bounds",
}


class BlobRefused(ValueError):
    """``rule`` is the verification rule (1 to 14) that the blob breaks."""

    def __init__(self, rule: int) -> None:
        super().__init__(f"program refused by rule {rule}: {_RULES[rule]}")
        self.rule = rule

    def __reduce__(self):
        return BlobRefused, (self.rule,)


def verify(bytes blob not None) -> None:
    """Check every rule for a program of the guard; raises BlobRefused."""
    cdef const uint8_t* data = <const uint8_t*><const char*>blob
    cdef size_t size = len(blob)
    cdef int rule
    whole = memoryview(blob)
    digest = hashlib.blake2b(whole[:_HASH_AT], digest_size=32)
    digest.update(bytes(_HASH_END - _HASH_AT))
    digest.update(whole[_HASH_END:])
    if whole[_HASH_AT:_HASH_END] != digest.digest():
        raise BlobRefused(1)
    with nogil:
        rule = program_verify(data, size)
    if rule == 0 and not _ttys_named(data, size):
        rule = 6
    if rule != 0:
        raise BlobRefused(rule)


cdef bint _ttys_named(const uint8_t* data, size_t size) except -1:
    """Whether the names have a path for every serial line; they are read where there is one."""
    cdef ProgramView view
    cdef uint32_t i
    program_open(data, size, &view)
    lines = {view.devices[i].tty for i in range(view.device_count) if (
        view.devices[i].kind == _DEVICE_MODBUS_RTU
    )}
    if not lines:
        return True
    try:
        paths = json.loads(view.names[:view.names_bytes])["ttys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    if not isinstance(paths, list) or len(set(map(str, paths))) != len(paths):
        return False
    return all(
        line < len(paths) and isinstance(paths[line], str) and _TTY.fullmatch(paths[line])
        for line in lines
    )


cdef class Conditions:
    """A program's conditions over an image of its own: the gateway's alarms, checks and tests."""

    def __cinit__(self, bytes blob not None):
        cdef uint32_t i
        verify(blob)
        self.blob = blob
        if not program_open(<const uint8_t*><const char*>blob, len(blob), &self.view):
            raise BlobRefused(1)
        self.image = TagImage(self.view.tag_count)
        self.nodes = <NodeState*>calloc(self.view.node_count + 1, sizeof(NodeState))
        self.seals = <uint32_t*>calloc(self.view.node_count + 1, sizeof(uint32_t))
        self.regs = <Register*>calloc(register_count(&self.view) + 1, sizeof(Register))
        self.windows.states = <WindowState*>calloc(self.view.window_count + 1, sizeof(WindowState))
        self.windows.runs = <WindowRun*>calloc(self.view.window_count + 1, sizeof(WindowRun))
        self.windows.first = <uint32_t*>calloc(self.view.tag_count + 1, sizeof(uint32_t))
        if (
            self.nodes == NULL or self.seals == NULL or self.regs == NULL or self.windows.states == NULL
            or self.windows.runs == NULL or self.windows.first == NULL
        ):
            raise MemoryError
        for i in range(self.view.node_count):
            node_begin(&self.nodes[i], self.view.nodes[i].key)
            self.seals[i] = node_seal(self.view.nodes[i].key)
        self.view.seals = self.seals
        registers_begin(&self.view, self.regs)
        self.windows.program = &self.view
        windows_list(&self.windows)
        for i in range(self.view.window_count):
            window_begin(&self.windows.states[i], &self.view.windows[i])

    def __dealloc__(self):
        free(self.nodes)
        free(self.seals)
        free(self.windows.states)
        free(self.windows.runs)
        free(self.windows.first)
        free(self.regs)
        free(self.watched)
        free(self.told)
        free(self.slots)

    def write(
        self, uint32_t slot, double value, uint8_t quality, uint8_t reason, int64_t mono_ns,
    ) -> None:
        """Store a tag's value. Raises IndexError."""
        self.image.put(slot, value, quality, reason, mono_ns, 0, 0)
        windows_take(&self.windows, slot, value, quality, mono_ns)

    def fill(self, uint32_t window, const uint8_t[::1] samples not None) -> None:
        """Let a window have seen messages.SAMPLE records of its tag, oldest first (by mono_ns, which
        is negative before the boot); the slot in them is not looked at, and what is not newer than
        the window's newest is left out.

        Raises IndexError, or ValueError when the length is not a whole number of records.
        """
        cdef Py_ssize_t i, n = samples.shape[0] // <Py_ssize_t>sizeof(SampleRecord)
        cdef const SampleRecord* record
        cdef const WindowState* w
        if window >= self.view.window_count:
            raise IndexError(window)
        if samples.shape[0] % <Py_ssize_t>sizeof(SampleRecord):
            raise ValueError(f"{samples.shape[0]} bytes are not whole samples")
        if n == 0:
            return
        record = <const SampleRecord*>&samples[0]
        w = &self.windows.states[window]
        for i in range(n):
            if w.flags == 0 or record[i].mono_ns > w.last_ns:
                window_take(
                    &self.windows, window, record[i].value, record[i].quality, record[i].mono_ns)

    def evaluate(self, int64_t now_ns) -> None:
        """One scan: staleness (stale_after_ns of the slot), then every instruction."""
        self._scan(now_ns)

    cdef void _scan(self, int64_t now_ns) noexcept nogil:
        # Time never goes back: samples of several devices reach the gateway out of order.
        if self.view.started_ns == 0:
            self.view.started_ns = now_ns if now_ns != 0 else 1
        if now_ns > self.now_ns or self.now_ns == 0:
            self.now_ns = now_ns
        program_evaluate(
            &self.view, self.image.slots, self.nodes, &self.windows, self.regs, self.now_ns)

    cdef Register* _register(self, uint32_t register, int kind) except NULL:
        if register >= self.view.code_count:
            raise IndexError(register)
        if kind and op_result(self.view.code[register].op) != kind:
            raise ValueError(f"register {register} is of another kind")
        return &self.regs[register]

    def truth(self, uint32_t register) -> int:
        """codes.Truth of a truth register after the last scan. Raises IndexError, ValueError."""
        return truth_of(self._register(register, _REG_TRUTH))

    def starting(self, uint32_t register) -> bool:
        """True while an input of this register was never read. Raises IndexError."""
        return self._register(register, 0).state & _STARTING != 0

    def number(self, uint32_t register) -> tuple:
        """(value, quality: 0 bad or 2 good) of a number register. Raises IndexError, ValueError."""
        cdef Register* r = self._register(register, _REG_NUMBER)
        if (r.state & (_KIND | _UNUSABLE)) != _REG_NUMBER:
            return NAN, _Q_BAD
        return r.value.number, _Q_GOOD

    def deciding(self, uint32_t register) -> int:
        """Slot of the leading tag of a register, codes.NONE_U32: none. Raises IndexError."""
        return self._register(register, 0).deciding

    def watch(self, registers: list, const uint32_t[::1] slots not None) -> None:
        """Report changes of these truth registers from :meth:`feed`, at first from unknown.

        ``slots`` maps a sample's slot to this program's, codes.NONE_U32: not of this program.
        Raises IndexError or ValueError for a register that is no truth.
        """
        cdef uint32_t i, count = <uint32_t>len(registers)
        for i in range(count):
            self._register(registers[i], _REG_TRUTH)
        free(self.watched)
        free(self.told)
        free(self.slots)
        self.watched_count = 0
        self.slot_count = 0
        self.watched = <uint32_t*>calloc(count + 1, sizeof(uint32_t))
        self.told = <uint8_t*>calloc(count + 1, 1)
        self.slots = <uint32_t*>calloc(slots.shape[0] + 1, sizeof(uint32_t))
        if self.watched == NULL or self.told == NULL or self.slots == NULL:
            raise MemoryError
        for i in range(count):
            self.watched[i] = registers[i]
        self.watched_count = count
        for i in range(<uint32_t>slots.shape[0]):
            self.slots[i] = slots[i]
        self.slot_count = <uint32_t>slots.shape[0]

    def feed(self, const uint8_t[::1] samples not None) -> list:
        """Store messages.SAMPLE records, evaluate after each run of equal mono_ns.

        Returns (mono_ns, utc_ns, register, codes.Truth) for every change of a watched register.
        Raises ValueError when the length is not a whole number of records.
        """
        cdef Py_ssize_t i, n = samples.shape[0] // <Py_ssize_t>sizeof(SampleRecord)
        cdef const SampleRecord* record
        cdef list changes = []
        if samples.shape[0] % <Py_ssize_t>sizeof(SampleRecord):
            raise ValueError(f"{samples.shape[0]} bytes are not whole samples")
        if n == 0:
            return changes
        record = <const SampleRecord*>&samples[0]
        for i in range(n):
            self._take(&record[i])
            if i + 1 == n or record[i + 1].mono_ns != record[i].mono_ns:
                self._scan(record[i].mono_ns)
                self._tell(record[i].mono_ns, record[i].utc_ns, changes)
        return changes

    def advance(self, int64_t mono_ns, int64_t utc_ns) -> list:
        """Evaluate at a time without samples; returns changes as :meth:`feed` does."""
        cdef list changes = []
        self._scan(mono_ns)
        self._tell(mono_ns, utc_ns, changes)
        return changes

    cdef void _take(self, const SampleRecord* record) noexcept nogil:
        cdef uint32_t slot
        if record.slot >= self.slot_count:
            return
        slot = self.slots[record.slot]
        if slot < self.image.count:
            slot_write(
                &self.image.slots[slot], record.value, record.quality, record.reason,
                record.mono_ns, record.utc_ns, 0,
            )
            windows_take(&self.windows, slot, record.value, record.quality, record.mono_ns)

    cdef int _tell(self, int64_t mono_ns, int64_t utc_ns, list changes) except -1:
        cdef uint32_t i
        cdef uint8_t truth
        for i in range(self.watched_count):
            truth = <uint8_t>truth_of(&self.regs[self.watched[i]])
            if truth != self.told[i]:
                self.told[i] = truth
                changes.append((mono_ns, utc_ns, self.watched[i], truth))
        return 0
