# cython: language_level=3
"""The scan thread's functions, made callable one by one: for tests of what Python cannot reach."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastpath.decode cimport decode_point
from fastpath.evaluate cimport _STARTING, _UNUSABLE, register_count, registers_begin
from fastpath.image cimport slot_read, slot_touch, slot_write
from fastpath.journal cimport (
    SharedFile, Shm, Stamp, sample_write, samples_grow, samples_wanted, shm_map,
)
from fastpath.lease cimport (
    LEASE_CLAIM, LEASE_COUNT, LEASE_READ, Lease, lease_asked, lease_look, lease_opened, lease_sure, lease_values,
    lease_wish,
)
from fastpath.program cimport (
    ProgramView,
    Register,
    node_begin,
    node_check,
    node_lose,
    node_seal,
    program_evaluate,
    program_open,
    program_verify,
    truth_of,
)
from fastpath.types cimport _OWNER_GUARD, DecodeDef, DeviceDef, InstructionDef, NodeState, Slot, TagDef, WindowState
from fastpath.windows cimport (
    WindowBank, WindowRun, window_begin, windows_list, windows_recover, windows_take,
    windows_touch,
)

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void** memptr, size_t alignment, size_t size)


def write_for_ever(size_t address):
    """Write a slot whose fields all have one value, until the process is killed."""
    cdef Slot* slot = <Slot*>address
    cdef int64_t k = slot.mono_ns
    with nogil:
        while True:
            k += 1
            slot_write(slot, <double>k, <uint8_t>(k & 1), <uint8_t>(k & 1), k, k, k)


def read_often(size_t address, int times):
    """(whole, unreadable, torn) of so many reads."""
    cdef const Slot* slot = <const Slot*>address
    cdef Slot copy
    cdef int _i, whole = 0, unreadable = 0, torn = 0
    with nogil:
        for _i in range(times):
            if not slot_read(slot, &copy):
                unreadable += 1
            elif (
                copy.mono_ns == copy.utc_ns and copy.mono_ns == copy.source_utc_ns
                and <double>copy.mono_ns == copy.value and copy.quality == (copy.mono_ns & 1)
                and copy.reason == copy.quality
            ):
                whole += 1
            else:
                torn += 1
    return whole, unreadable, torn


def lock_of(size_t address):
    """The lock word."""
    return (<Slot*>address).lock


def write_once(size_t address, int64_t k):
    """One write."""
    slot_write(<Slot*>address, <double>k, <uint8_t>(k & 1), <uint8_t>(k & 1), k, k, k)


def touch(size_t address, int64_t mono_ns):
    """Refresh the age."""
    slot_touch(<Slot*>address, mono_ns)


def verify_at(bytes blob, int shift):
    """Rule of a blob that stands ``shift`` bytes off the alignment; None: of no blob at all."""
    cdef uint8_t* memory = NULL
    cdef int rule
    if posix_memalign(<void**>&memory, 64, len(blob) + 64) != 0:
        raise MemoryError
    memcpy(memory + shift, <const char*>blob, len(blob))
    rule = program_verify(memory + shift, len(blob))
    free(memory)
    return rule


def verify_nothing(size_t size):
    """Rule of a null pointer."""
    return program_verify(NULL, size)


def opened(bytes blob):
    """(result, number of tags, code address is set) of program_open."""
    cdef ProgramView view
    memset(&view, 0xFF, sizeof(view))
    result = program_open(<const uint8_t*><const char*>blob, len(blob), &view)
    return result, view.tag_count, view.code != NULL


def decode_raw(int kind, int order, int at, bytes payload, int size):
    """(result, quality, reason) of a point that Decoder would not take."""
    cdef DecodeDef d
    cdef TagDef t
    cdef double value = 1
    cdef uint8_t quality = 9, reason = 9
    memset(&d, 0, sizeof(d))
    memset(&t, 0, sizeof(t))
    d.type, d.order, d.at, d.scale = kind, order, at, 1.0
    result = decode_point(
        &d, &t, <const uint8_t*><const char*>payload, size, &value, &quality, &reason
    )
    return result, quality, reason


cdef class Scan:
    """One program as the guard holds it: writable, over an image and nodes of its own."""

    cdef uint8_t* blob
    cdef ProgramView view
    cdef Slot* image
    cdef NodeState* nodes
    cdef uint32_t* seals
    cdef WindowBank windows
    cdef Register* regs

    def __cinit__(self, bytes blob):
        cdef uint32_t i
        if posix_memalign(<void**>&self.blob, 64, len(blob)) != 0:
            raise MemoryError
        memcpy(self.blob, <const char*>blob, len(blob))
        if not program_open(self.blob, len(blob), &self.view):
            raise ValueError("no program")
        self.image = <Slot*>calloc(self.view.tag_count + 1, sizeof(Slot))
        self.nodes = <NodeState*>calloc(self.view.node_count + 1, sizeof(NodeState))
        self.seals = <uint32_t*>calloc(self.view.node_count + 1, sizeof(uint32_t))
        self.regs = <Register*>calloc(register_count(&self.view) + 1, sizeof(Register))
        registers_begin(&self.view, self.regs)
        self.windows.program = &self.view
        self.windows.states = <WindowState*>calloc(self.view.window_count + 1, sizeof(WindowState))
        self.windows.runs = <WindowRun*>calloc(self.view.window_count + 1, sizeof(WindowRun))
        self.windows.first = <uint32_t*>calloc(self.view.tag_count + 1, sizeof(uint32_t))
        for i in range(self.view.node_count):
            node_begin(&self.nodes[i], self.view.nodes[i].key)
            self.seals[i] = node_seal(self.view.nodes[i].key)
        self.view.seals = self.seals
        windows_list(&self.windows)
        for i in range(self.view.window_count):
            window_begin(&self.windows.states[i], &self.view.windows[i])

    def __dealloc__(self):
        free(self.blob)
        free(self.image)
        free(self.nodes)
        free(self.seals)
        free(self.windows.states)
        free(self.windows.runs)
        free(self.windows.first)
        free(self.regs)

    def write(self, int slot, double value, uint8_t quality, uint8_t reason, int64_t mono_ns):
        slot_write(&self.image[slot], value, quality, reason, mono_ns, 0, 0)
        windows_take(&self.windows, slot, value, quality, mono_ns)

    def touch(self, int slot, int64_t mono_ns):
        """The gateway's word that nothing changed."""
        slot_touch(&self.image[slot], mono_ns)
        windows_touch(&self.windows, slot, mono_ns)

    def bypass(self, int slot, on=True):
        self.image[slot].flags = on

    def hold_lock(self, int slot):
        """As a writer killed half-way leaves it."""
        self.image[slot].lock |= 1

    def started(self, int64_t mono_ns):
        self.view.started_ns = mono_ns

    def patch(self, int i, int op, int a, int b, double imm):
        """Damage one instruction behind the back of the rules."""
        cdef InstructionDef* ins = <InstructionDef*>&self.view.code[i]
        ins.op, ins.a, ins.b, ins.imm = <uint16_t>op, <uint16_t>a, <uint16_t>b, imm

    def evaluate(self, int64_t now_ns):
        cdef int result
        with nogil:
            result = program_evaluate(
                &self.view, self.image, self.nodes, &self.windows, self.regs, now_ns)
        return result

    def truth(self, int i):
        return truth_of(&self.regs[i])

    def bad(self, int i):
        return self.regs[i].state & _UNUSABLE != 0

    def node(self, int i):
        """(since_low_ns, since_high_ns, flags, check)"""
        cdef NodeState* n = &self.nodes[i]
        return n.since_low_ns, n.since_high_ns, n.flags, n.check

    def set_node(self, int i, int64_t low_ns, int64_t high_ns, uint32_t flags, check=None):
        """``check`` None: the right one."""
        cdef NodeState* n = &self.nodes[i]
        n.since_low_ns, n.since_high_ns, n.flags = low_ns, high_ns, flags
        n.check = node_check(self.seals[i], n) if check is None else check

    def number(self, int i):
        """(value, bad)"""
        return self.regs[i].value.number, self.bad(i)

    def starting(self, int i):
        return self.regs[i].state & _STARTING != 0

    def deciding(self, int i):
        return self.regs[i].deciding

    def window_memory(self, int i):
        """The bytes of a window, as guard.shm keeps them: writable."""
        return <char[:sizeof(WindowState)]><char*>&self.windows.states[i]

    def recover(self, int64_t now_ns):
        """Another life over the same windows: how many were damaged."""
        windows_list(&self.windows)
        return windows_recover(&self.windows, now_ns)

    def evaluate_often(self, int64_t now_ns, int64_t tick_ns, int times):
        """Scan after scan, for measuring."""
        cdef int _i
        with nogil:
            for _i in range(times):
                now_ns += tick_ns
                program_evaluate(
                    &self.view, self.image, self.nodes, &self.windows, self.regs, now_ns)

    def lose(self, int i):
        node_lose(&self.nodes[i], self.view.nodes[i].key)


def check_of(uint64_t key, int64_t low_ns, int64_t high_ns, uint32_t flags):
    """node_check of these fields."""
    cdef NodeState n
    memset(&n, 0, sizeof(n))
    n.since_low_ns, n.since_high_ns, n.flags = low_ns, high_ns, flags
    return node_check(node_seal(key), &n)


cdef class Ring:
    """guard.shm of a guard with an empty program, for its ring of samples."""

    cdef SharedFile file
    cdef Shm shm

    def __init__(self, str path):
        cdef ProgramView empty
        memset(&empty, 0, sizeof(empty))
        self.file = SharedFile(path, bytes(16))
        self.file.fit(&empty)
        shm_map(&self.shm, self.file.base)

    @property
    def places(self):
        return self.shm.live.sample_count

    def write(self, double value):
        """One sample."""
        sample_write(&self.shm, 0, 2, 0, value, 0, 0)

    def grow(self, uint32_t tags):
        """As a swap to a program with so many tags of the guard's own."""
        cdef ProgramView view
        cdef TagDef* defs = <TagDef*>calloc(tags, sizeof(TagDef))
        cdef uint32_t i
        memset(&view, 0, sizeof(view))
        view.tags = defs
        view.tag_count = tags
        for i in range(tags):
            defs[i].owner = _OWNER_GUARD
        self.file.fit(&view)
        samples_grow(&self.shm, samples_wanted(&view))
        free(defs)

    def close(self):
        self.file.close()


cdef class Contender:
    """One guard's view of a device's lease; whoever carries its requests is the test."""

    cdef SharedFile file
    cdef Shm shm
    cdef Lease lease
    cdef DeviceDef device
    cdef readonly uint32_t instance

    def __init__(self, str path, uint32_t instance, int64_t lease_ns, int64_t every_ns):
        cdef ProgramView empty
        memset(&empty, 0, sizeof(empty))
        memset(&self.lease, 0, sizeof(self.lease))
        memset(&self.device, 0, sizeof(self.device))
        self.file = SharedFile(path, bytes(16))
        self.file.fit(&empty)
        shm_map(&self.shm, self.file.base)
        self.instance = instance
        self.device.lease_ns = lease_ns
        self.device.every_ns = every_ns

    def close(self):
        """Its file."""
        self.file.close()

    def forget(self):
        """Another process: nothing is known."""
        memset(&self.lease, 0, sizeof(self.lease))

    def opened(self):
        """A new connection."""
        lease_opened(&self.lease)

    def wish(self, int64_t now_ns):
        """The request that it has: read, claim (three values), count (one), or None."""
        cdef uint16_t values[3]
        cdef uint8_t wish = lease_wish(&self.lease, now_ns)
        if wish == LEASE_READ:
            lease_asked(&self.lease, now_ns)
            return ("read",)
        if wish == LEASE_CLAIM:
            lease_values(&self.lease, self.instance, values)
            return ("claim", values[0], values[1], values[2])
        if wish == LEASE_COUNT:
            lease_values(&self.lease, self.instance, values)
            return ("count", values[2])
        return None

    def look(self, bytes data, int64_t now_ns):
        """What a reading has brought, six bytes as they came."""
        cdef Stamp now
        now.mono_ns = now.boot_ns = now.utc_ns = now_ns
        lease_look(
            &self.lease, &self.shm, 0, &self.device, self.instance, <const uint8_t*><char*>data,
            &now)

    def sure(self, int64_t now_ns):
        """It may write heartbeats and normal values now."""
        return lease_sure(&self.lease, now_ns)
