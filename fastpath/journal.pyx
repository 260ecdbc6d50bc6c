# cython: boundscheck=False, wraparound=False, cdivision=True
"""guard.shm: rings of events and samples, two-copy latches, and the reader's side.

Constraints: one writer, the scan thread; nothing here allocates, waits or fails after start. An
event becomes visible by the release store of ``event_head``; a latch is stored twice, A then B,
and two copies that differ mean TRIPPED, never "the newer one".
"""

import fcntl
import os
import struct
import time
import zlib
from typing import NamedTuple

from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport (
    MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap,
)

from fastpath.image cimport slot_read
from fastpath.layout cimport ProgramView
from fastpath.memory cimport range_ready
from fastpath.types cimport *

from fastpath.records import Event as EventRecord

cdef extern from "atomics.h" nogil:
    uint64_t sw_load_acquire(const uint64_t* p)
    void sw_store_release(uint64_t* p, uint64_t value)
    uint64_t sw_load_relaxed(const uint64_t* p)
    uint32_t sw_load32_acquire(const uint32_t* p)
    void sw_store32_release(uint32_t* p, uint32_t value)
    void sw_fence_acquire()
    void sw_compiler_barrier()
    void sw_failpoints_begin()
    void sw_store_record(void* to, const void* src, size_t size)

cdef enum:
    SAMPLES_MIN = 65_536  # places in the smallest ring of samples
    SAMPLES_PER_TAG = 100

cdef uint32_t LAYOUT = 1
LOCK_TRIES = 25

# id, record bytes, count: the order is the file's
_REGIONS = (
    (1, sizeof(InterlockPair), _INTERLOCKS_MAX),
    (2, 2 * sizeof(TagBypassLatch), _TAG_BYPASSES_MAX),
    (3, sizeof(OutputPair), _OUTPUTS_MAX),
    (4, sizeof(CommandSlot), _COMMANDS_MAX),
    (5, sizeof(NodeState), _NODES_MAX),
    (6, sizeof(WindowState), _WINDOWS_MAX),
    (7, sizeof(Slot), _TAGS_MAX),
    (8, sizeof(DeviceStats), _DEVICES_MAX),
    (9, sizeof(Event), _EVENTS_MAX),
    (10, sizeof(SampleRecord), _SAMPLES_MAX),
    (11, sizeof(SpareLatches), 1),
)


def _offsets():
    at, out = 4096, []
    for _ident, record, count in _REGIONS:
        out.append(at)
        at += -(-record * count // 64) * 64
    return out, at


_OFFSETS, SHM_BYTES = _offsets()

cdef uint64_t _region_offset[11]
for _i in range(11):
    _region_offset[_i] = _OFFSETS[_i]

# What no program sizes: header, latches, commands; devices, events; the latches' copy.
_ALWAYS = (
    (0, _OFFSETS[4]), (_OFFSETS[7], _OFFSETS[9]), (_OFFSETS[10], SHM_BYTES),
)
_READY_AT = 512 + 2560  # of LiveHeader.tags_ready

# ---- crc32 (IEEE 802.3, as zlib's) -----------------------------------------------------------

cdef uint32_t _crc_table[256]


cdef void _crc_init() noexcept:
    cdef uint32_t i, _k, c
    for i in range(256):
        c = i
        for _k in range(8):
            c = (c >> 1) ^ 0xEDB88320u if c & 1 else c >> 1
        _crc_table[i] = c


_crc_init()


cdef uint32_t crc32_of(const void* data, size_t length) noexcept nogil:
    cdef const uint8_t* p = <const uint8_t*>data
    cdef uint32_t c = 0xFFFFFFFFu
    cdef size_t i
    for i in range(length):
        c = _crc_table[(c ^ p[i]) & 0xFF] ^ (c >> 8)
    return c ^ 0xFFFFFFFFu


# ---- writer ------------------------------------------------------------------------------------

cdef void shm_map(Shm* shm, uint8_t* base) noexcept nogil:
    """Point every field into a mapped file."""
    memset(shm, 0, sizeof(Shm))
    shm.base = base
    shm.fixed = <FixedHeader*>base
    shm.live = <LiveHeader*>(base + sizeof(FixedHeader))
    shm.interlocks = <InterlockPair*>(base + _region_offset[0])
    shm.tag_bypasses = <TagBypassPair*>(base + _region_offset[1])
    shm.outputs = <OutputPair*>(base + _region_offset[2])
    shm.commands = <CommandSlot*>(base + _region_offset[3])
    shm.nodes = <NodeState*>(base + _region_offset[4])
    shm.windows = <WindowState*>(base + _region_offset[5])
    shm.image = <Slot*>(base + _region_offset[6])
    shm.devices = <DeviceStats*>(base + _region_offset[7])
    shm.events = <Event*>(base + _region_offset[8])
    shm.samples = <SampleRecord*>(base + _region_offset[9])
    shm.spare = <SpareLatches*>(base + _region_offset[10])


cdef bint journal_has_room(const Shm* shm, bint class_a) noexcept nogil:
    """From three quarters full only class A is written, when full nothing is."""
    cdef uint64_t used = shm.live.event_head - sw_load_relaxed(&shm.live.event_tail)
    if class_a:
        return used < _EVENTS_MAX - 1  # the last place is for LOST
    return used < 3 * (_EVENTS_MAX // 4)


cdef bint _class_a(uint16_t type) noexcept nogil:
    return not (
        _EV_READY <= type <= _EV_PENDING_END
        or type == _EV_COMMAND
        or _EV_DEVICE_DOWN <= type <= _EV_GATEWAY_DOWN
        or type == _EV_CONDITION_BLIND
    )


cdef void _append(
    Shm* shm, const Stamp* now, uint16_t type, uint16_t flags, uint32_t index, uint64_t key,
    const void* payload, size_t payload_bytes,
) noexcept nogil:
    cdef uint64_t seq = shm.live.event_head
    cdef Event* e = &shm.events[seq % _EVENTS_MAX]
    if type == _EV_TRIP:
        sw_failpoints_begin()
    e.crc = 0  # the old record of this place is no record any more
    sw_compiler_barrier()
    e.seq = seq
    e.mono_ns = now.mono_ns
    e.utc_ns = now.utc_ns
    e.scan = shm.live.scan
    e.type = type
    e.flags = flags | shm.clock_flags | (_EVF_CLASS_A if _class_a(type) else 0)
    e.index = index
    e.key = key
    memcpy(&e.program, shm.live.program, sizeof(uint64_t))
    memset(e.payload, 0, sizeof(e.payload))
    if payload != NULL:
        memcpy(e.payload, payload, min(payload_bytes, sizeof(e.payload)))
    e.seq_low = <uint32_t>seq
    e.crc = crc32_of(e, sizeof(Event) - 8)
    sw_compiler_barrier()
    sw_store_release(&shm.live.event_head, seq + 1)
    sw_compiler_barrier()


cdef uint64_t journal_write(
    Shm* shm, const Stamp* now, uint16_t type, uint16_t flags, uint32_t index, uint64_t key,
    const void* payload, size_t payload_bytes,
) noexcept nogil:
    """Append one record; gives its seq (from 1), or 0 where there was no room (counted)."""
    cdef uint64_t lost[2]
    if not journal_has_room(shm, _class_a(type)):
        if shm.live.lost_count == 0:
            shm.live.lost_first = shm.live.event_head
        shm.live.lost_count += 1
        shm.live.events_lost += 1
        return 0
    if shm.live.lost_count != 0 and journal_has_room(shm, False):
        lost[0] = shm.live.lost_first
        lost[1] = shm.live.lost_count
        # The record first: a guard that is killed in between tells twice, not never.
        _append(shm, now, _EV_LOST, 0, _NONE_U32, 0, lost, sizeof(lost))
        sw_compiler_barrier()
        shm.live.lost_count = 0
    _append(shm, now, type, flags, index, key, payload, payload_bytes)
    return shm.live.event_head - 1


cdef inline uint32_t _sample_count(const Shm* shm) noexcept nogil:
    return shm.live.sample_count if shm.live.sample_count else _SAMPLES_MAX


cdef SampleRecord* sample_place(const Shm* shm) noexcept nogil:
    """Where the next sample goes."""
    return &shm.samples[shm.live.sample_head & (_sample_count(shm) - 1)]


cdef uint32_t tags_ready(const Shm* shm) noexcept nogil:
    """So many slots of the image are there."""
    cdef uint32_t ready = sw_load32_acquire(&shm.live.tags_ready)
    return min(ready, <uint32_t>_TAGS_MAX) if ready else _TAGS_MAX


cdef uint32_t samples_wanted(const ProgramView* p) noexcept nogil:
    """Places for SAMPLES_PER_TAG of each tag that the guard reads itself, a power of two."""
    cdef uint32_t i, tags = 0
    cdef uint32_t count = SAMPLES_MIN
    for i in range(p.tag_count):
        tags += p.tags[i].owner == _OWNER_GUARD
    while count < _SAMPLES_MAX and count < tags * SAMPLES_PER_TAG:
        count *= 2
    return count


cdef void samples_grow(Shm* shm, uint32_t wanted) noexcept nogil:
    """A larger ring of samples, where there is memory for one; it never shrinks.

    The newest SAMPLES_MIN records are found in their new places; a reader counts older ones as
    lost.
    """
    cdef uint64_t head = shm.live.sample_head
    cdef uint64_t old = _sample_count(shm)
    cdef uint64_t new = min(wanted, shm.live.samples_ready)
    cdef uint64_t seq
    if new <= old:
        return
    shm.live.sample_first = max(
        shm.live.sample_first, head - min(head, <uint64_t>SAMPLES_MIN))
    for seq in range(shm.live.sample_first, head):
        if seq % new != seq % old:
            shm.samples[seq % new] = shm.samples[seq % old]
    sw_store32_release(&shm.live.sample_count, <uint32_t>new)


cdef void sample_write(
    Shm* shm, uint32_t slot, uint8_t quality, uint8_t reason, double value,
    int64_t mono_ns, int64_t utc_ns,
) noexcept nogil:
    """Append to the sample ring; the oldest is overwritten, the reader counts what it missed."""
    cdef uint64_t head = shm.live.sample_head
    cdef SampleRecord* s = sample_place(shm)
    s.slot = slot
    s.quality = quality
    s.reason = reason
    s.flags = 0
    s.value = value
    s.mono_ns = mono_ns
    s.utc_ns = utc_ns
    sw_store_release(&shm.live.sample_head, head + 1)


cdef void interlock_store(InterlockPair* pair, InterlockLatch* latch) noexcept nogil:
    """Seal the latch and store both copies, A then B."""
    latch.not_state = ~latch.state
    latch.crc = crc32_of(latch, sizeof(InterlockLatch) - 8)
    sw_store_record(&pair.a, latch, sizeof(InterlockLatch))
    sw_compiler_barrier()
    sw_store_record(&pair.b, latch, sizeof(InterlockLatch))
    sw_compiler_barrier()


cdef bint _interlock_whole(const InterlockLatch* latch) noexcept nogil:
    """A copy as it was sealed."""
    return (
        latch.crc == crc32_of(latch, sizeof(InterlockLatch) - 8)
        and latch.not_state == ~latch.state
        and _ILS_NORMAL <= latch.state <= _ILS_READY_TO_RESET
    )


cdef bint interlock_load(const InterlockPair* pair, InterlockLatch* out) noexcept nogil:
    """Copy A out; True only where both copies agree, the crc holds and the state is a state."""
    memcpy(out, &pair.a, sizeof(InterlockLatch))
    return (
        memcmp(&pair.a, &pair.b, sizeof(InterlockLatch)) == 0 and _interlock_whole(out))


cdef void interlock_salvage(const InterlockPair* pair, InterlockLatch* out) noexcept nogil:
    """Of a pair that does not agree: a copy that is whole, A before B, else zeros.

    Its numbers may be gone on with; its state never counts.
    """
    memset(out, 0, sizeof(InterlockLatch))
    if _interlock_whole(&pair.a):
        memcpy(out, &pair.a, sizeof(InterlockLatch))
    elif _interlock_whole(&pair.b):
        memcpy(out, &pair.b, sizeof(InterlockLatch))


cdef void output_store(OutputPair* pair, OutputLatch* latch) noexcept nogil:
    """Seal the latch and store both copies, A then B."""
    latch.not_state = ~latch.state
    latch.crc = crc32_of(latch, sizeof(OutputLatch) - 8)
    sw_store_record(&pair.a, latch, sizeof(OutputLatch))
    sw_compiler_barrier()
    sw_store_record(&pair.b, latch, sizeof(OutputLatch))
    sw_compiler_barrier()


cdef bint _output_whole(const OutputLatch* latch) noexcept nogil:
    """A copy as it was sealed."""
    return (
        latch.crc == crc32_of(latch, sizeof(OutputLatch) - 8)
        and latch.not_state == ~latch.state
        and _OUTS_RELEASED <= latch.state <= _OUTS_HELD
    )


cdef bint output_load(const OutputPair* pair, OutputLatch* out) noexcept nogil:
    """Copy A out; True only where both copies agree, the crc holds and the state is a state."""
    memcpy(out, &pair.a, sizeof(OutputLatch))
    return (
        memcmp(&pair.a, &pair.b, sizeof(OutputLatch)) == 0 and _output_whole(out))


cdef void output_salvage(const OutputPair* pair, OutputLatch* out) noexcept nogil:
    """Of a pair that does not agree: a copy that is whole, A before B, else zeros.

    Its numbers may be gone on with; its state never counts.
    """
    memset(out, 0, sizeof(OutputLatch))
    if _output_whole(&pair.a):
        memcpy(out, &pair.a, sizeof(OutputLatch))
    elif _output_whole(&pair.b):
        memcpy(out, &pair.b, sizeof(OutputLatch))


cdef void latches_spill(Shm* shm, uint32_t interlocks, uint32_t outputs) noexcept nogil:
    """Before the latches change places: a whole copy of so many, for a guard that dies meanwhile.

    Whoever finds ``moving`` set takes the latches from the copy.
    """
    memset(shm.spare, 0, sizeof(SpareLatches))
    memcpy(shm.spare.interlocks, shm.interlocks, interlocks * sizeof(InterlockPair))
    memcpy(shm.spare.outputs, shm.outputs, outputs * sizeof(OutputPair))
    sw_compiler_barrier()
    shm.live.moving = 1
    sw_compiler_barrier()


cdef void latches_settled(Shm* shm) noexcept nogil:
    """Every latch has its place again."""
    sw_compiler_barrier()
    shm.live.moving = 0


cdef bint event_valid(const Event* event, uint64_t seq) noexcept nogil:
    """A record counts if its own seq equals its position's and the crc holds."""
    return (
        event.seq == seq
        and event.seq_low == <uint32_t>seq
        and event.crc == crc32_of(event, sizeof(Event) - 8)
    )


# ---- the guard's own file ----------------------------------------------------------------------


class JournalError(OSError):
    """The file is missing, of an unknown layout, or damaged in its fixed header."""


class AlreadyRunning(JournalError):
    """Another guard holds the file's lock."""


def _header_ok(raw: bytes) -> bool:
    return (
        len(raw) == 512
        and raw[:8] == b"SWGUARD1"
        and struct.unpack_from("<I", raw, 8)[0] == LAYOUT
        and struct.unpack_from("<I", raw, 508)[0] == zlib.crc32(raw[:508])
    )


def _new_header(boot_id: bytes) -> bytes:
    raw = struct.pack(
        "<8sII16sQ24x", b"SWGUARD1", LAYOUT, len(_REGIONS), boot_id,
        int.from_bytes(os.urandom(8), "little") | 1,
    )
    for (ident, record, count), offset in zip(_REGIONS, _OFFSETS, strict=True):
        raw += struct.pack("<IIQII", ident, 1, offset, record, count)
    raw += bytes(508 - len(raw))
    return raw + struct.pack("<I", zlib.crc32(raw))


cdef class SharedFile:
    """guard.shm, opened or made by the guard, exclusively locked for its life.

    ``fresh`` is True where no state of this boot was found; ``set_aside`` names a damaged file
    that was kept. Raises AlreadyRunning, or OSError when there is no room for the whole file.
    """

    def __cinit__(self):
        self.fd = -1
        self.base = NULL

    def __init__(self, str path, bytes boot_id):
        self.fresh = True
        self.set_aside = None
        self.locked = False
        # Of two guards that start at once the second waits here until the first has its file.
        # A file of its own: the directory's lock is the gateway's, for its whole life.
        starting = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(starting, fcntl.LOCK_EX)
            self._open(path, boot_id)
        finally:
            os.close(starting)
        self._map()

    def _open(self, path, boot_id):
        if os.path.exists(path):
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._lock(path)
            raw = os.pread(self.fd, 512, 0)
            whole = os.fstat(self.fd).st_size == SHM_BYTES
            if whole and _header_ok(raw) and raw[16:32] == boot_id:
                self.fresh = False
            else:
                if raw[16:32] == boot_id or not _header_ok(raw):
                    self.set_aside = f"{path}.damaged-{os.getpid()}"
                    os.rename(path, self.set_aside)
                os.close(self.fd)
                self.fd = -1
        if self.fd < 0:
            self._create(path, boot_id)

    def _lock(self, path):
        # A reader that asks whether the guard lives holds a shared lock for microseconds.
        for _attempt in range(LOCK_TRIES):
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                refused = error.errno
            time.sleep(0.02)
        os.close(self.fd)
        self.fd = -1
        raise AlreadyRunning(refused, "another guard runs for this directory", path)

    def _create(self, path, boot_id):
        temporary = f"{path}.{os.getpid()}"
        self.fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            self._lock(path)
            # What is touched is allocated before: a hole on a full tmpfs would be a SIGBUS.
            os.ftruncate(self.fd, SHM_BYTES)
            for first, end in _ALWAYS:
                os.posix_fallocate(self.fd, first, end - first)
            for region, record, count in (
                (4, sizeof(NodeState), 1), (5, sizeof(WindowState), 1), (6, sizeof(Slot), 1),
                (9, sizeof(SampleRecord), SAMPLES_MIN),
            ):
                os.posix_fallocate(self.fd, _OFFSETS[region], record * count)
            os.pwrite(self.fd, _new_header(boot_id), 0)
            os.pwrite(self.fd, struct.pack("<QQ", 1, 1), 704)  # event_head, event_tail
            os.pwrite(
                self.fd, struct.pack("<4IQI", 1, 1, 1, SAMPLES_MIN, 0, SAMPLES_MIN), _READY_AT)
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise

    def _map(self):
        cdef void* base = mmap(
            NULL, <size_t>SHM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        cdef LiveHeader* live
        if base == MAP_FAILED:
            raise OSError("guard.shm cannot be mapped")
        self.base = <uint8_t*>base
        self.locked = True
        live = <LiveHeader*>(self.base + sizeof(FixedHeader))
        for first, end in _ALWAYS:
            self._ready(first, end)
        if live.tags_ready == 0:  # an older guard's, which allocated all
            live.sample_count = _SAMPLES_MAX
            live.samples_ready = _SAMPLES_MAX
            live.windows_ready = _WINDOWS_MAX
            live.nodes_ready = _NODES_MAX
            sw_store32_release(&live.tags_ready, _TAGS_MAX)

    cdef int _ready(self, uint64_t first, uint64_t end) except -1:
        """These bytes have their place, and are in memory; raises OSError where there is none."""
        os.posix_fallocate(self.fd, first, end - first)
        self.locked &= range_ready(self.base + first, end - first)
        return 0

    cdef int fit(self, const ProgramView* p) except -1:
        """Room for this program beside what there is; raises OSError, and all stays as it was."""
        cdef LiveHeader* live = <LiveHeader*>(self.base + sizeof(FixedHeader))
        cdef uint32_t nodes = max(live.nodes_ready, p.node_count)
        cdef uint32_t windows = max(live.windows_ready, p.window_count)
        cdef uint32_t tags = max(live.tags_ready, p.tag_count)
        cdef uint32_t samples = max(live.samples_ready, samples_wanted(p))
        self._ready(_region_offset[4], _region_offset[4] + nodes * sizeof(NodeState))
        self._ready(_region_offset[5], _region_offset[5] + windows * sizeof(WindowState))
        self._ready(_region_offset[6], _region_offset[6] + tags * sizeof(Slot))
        self._ready(_region_offset[9], _region_offset[9] + samples * sizeof(SampleRecord))
        live.nodes_ready = nodes
        live.windows_ready = windows
        live.samples_ready = samples
        sw_store32_release(&live.tags_ready, tags)
        return 0

    @property
    def journal_id(self) -> int:
        """Random, of this file: a reader that knows another one starts anew."""
        return (<FixedHeader*>self.base).journal_id

    def share_with(self, int gid) -> None:
        """Let the gateway's group read the file."""
        os.fchown(self.fd, -1, gid)

    def close(self) -> None:
        """Unmap and let go of the lock."""
        if self.base != NULL:
            munmap(self.base, <size_t>SHM_BYTES)
            self.base = NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


# ---- the reader's side -------------------------------------------------------------------------


class Header(NamedTuple):
    boot_id: bytes
    journal_id: int
    guard_starts: int
    pid: int
    clean_stop: int
    scan: int
    scan_mono_ns: int
    scan_ns_max: int
    overruns: int
    program: bytes
    event_head: int
    event_tail: int
    events_lost: int
    sample_head: int
    samples_shed: int
    gateway_connected: int
    last_message_mono_ns: int
    counters: tuple


class InterlockView(NamedTuple):
    key: int
    state: int
    flags: int
    generation: int
    reason: int
    since_ns: int
    tripped_utc_ns: int
    demands: int
    legs: int
    last_seq: int
    withheld_demands: int = 0
    bypass_until_ns: int = 0
    bypass_from_ns: int = 0
    bypass_id: bytes = bytes(16)


class OutputView(NamedTuple):
    key: int
    state: int
    demand: int
    generation: int
    fails: int
    commanded: int
    confirmed: int
    since_ns: int
    last_reply_ns: int
    demand_ns: int
    wire_ns: int
    confirm_ns: int
    cause_key: int
    demands: int = 0
    silence_until_ns: int = 0


class TagBypassView(NamedTuple):
    key: int
    until_ns: int
    from_ns: int
    id: bytes
    flags: int


class SlotView(NamedTuple):
    value: float
    quality: int
    reason: int
    mono_ns: int
    utc_ns: int
    source_utc_ns: int
    owner: int
    flags: int = 0


class DeviceView(NamedTuple):
    key: int
    state: int
    errno: int
    since_ns: int
    requests: int
    timeouts: int
    refused: tuple
    rtt_ns_last: int
    rtt_ns_max: int
    good_ns: int
    polls_missed: int
    flags: int = 0


cdef uint64_t _places(const LiveHeader* live) noexcept nogil:
    """Of the ring of samples, never more than there are."""
    cdef uint32_t count = sw_load32_acquire(&live.sample_count)
    if count == 0 or count > _SAMPLES_MAX:
        return _SAMPLES_MAX
    return count


cdef class GuardView:
    """A read-only map of a guard.shm. Never waits: what is being written is skipped."""

    cdef Shm shm
    cdef int fd
    cdef uint8_t* base
    cdef readonly int inode

    def __cinit__(self):
        self.fd = -1
        self.base = NULL

    def __init__(self, str path):
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise JournalError(error.errno, "guard.shm cannot be opened", path) from None
        if os.fstat(self.fd).st_size != SHM_BYTES or not _header_ok(os.pread(self.fd, 512, 0)):
            self.close()
            raise JournalError(0, "guard.shm is damaged or of another version", path)
        cdef void* base = mmap(NULL, <size_t>SHM_BYTES, PROT_READ, MAP_SHARED, self.fd, 0)
        if base == MAP_FAILED:
            self.close()
            raise JournalError(0, "guard.shm cannot be mapped", path)
        self.base = <uint8_t*>base
        shm_map(&self.shm, self.base)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, <size_t>SHM_BYTES)
        if self.fd >= 0:
            os.close(self.fd)

    def close(self) -> None:
        if self.base != NULL:
            munmap(self.base, <size_t>SHM_BYTES)
            self.base = NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    cdef int _check(self, Py_ssize_t index, Py_ssize_t count) except -1:
        if self.base == NULL:
            raise JournalError(0, "guard.shm was closed")
        if not 0 <= index < count:
            raise IndexError(index)
        return 0

    def guard_alive(self) -> bool:
        """The guard's exclusive lock is held."""
        self._check(0, 1)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False

    def header(self) -> Header:
        """The live header; the program's hash is read under its lock (at most 8 tries)."""
        self._check(0, 1)
        cdef LiveHeader* h = self.shm.live
        cdef uint8_t program[32]
        cdef uint64_t before = 0
        cdef int i, _i
        for _i in range(8):
            before = sw_load_acquire(&h.program_lock)
            memcpy(program, h.program, 32)
            sw_fence_acquire()
            if not before & 1 and sw_load_relaxed(&h.program_lock) == before:
                break
        return Header(
            <bytes>self.shm.fixed.boot_id[:16], self.shm.fixed.journal_id, h.guard_starts, h.pid,
            h.clean_stop, h.scan, h.scan_mono_ns, h.scan_ns_max, h.overruns,
            <bytes>program[:32], sw_load_acquire(&h.event_head),
            sw_load_acquire(&h.event_tail), h.events_lost, sw_load_acquire(&h.sample_head),
            h.samples_shed, h.gateway_connected, h.last_message_mono_ns,
            tuple([h.counters[i] for i in range(256)]),
        )

    def events(self, uint64_t first, int limit) -> list:
        """Valid records with seq in [first, event_head), at most ``limit``, in order."""
        self._check(0, 1)
        cdef uint64_t head = sw_load_acquire(&self.shm.live.event_head)
        cdef uint64_t seq
        cdef Event e
        out = []
        if head > _EVENTS_MAX and first < head - _EVENTS_MAX:
            first = head - _EVENTS_MAX
        for seq in range(first, head):
            if len(out) >= limit:
                break
            memcpy(&e, &self.shm.events[seq % _EVENTS_MAX], sizeof(Event))
            if event_valid(&e, seq):
                out.append(EventRecord(
                    e.seq, e.mono_ns, e.utc_ns, e.scan, e.type, e.flags, e.index, e.key,
                    e.program, <bytes>e.payload[:64]))
        return out

    def samples(self, uint64_t first, int limit) -> tuple:
        """(next position, lost, records) from position ``first``, at most ``limit`` records."""
        self._check(0, 1)
        cdef uint64_t head = sw_load_acquire(&self.shm.live.sample_head)
        cdef uint64_t lost = 0
        cdef uint64_t count, seq, overtaken
        cdef bytearray out
        cdef uint8_t* to
        cdef uint64_t places = _places(self.shm.live)
        cdef uint64_t oldest = self.shm.live.sample_first
        if first > head:
            first = head
        if head - first > places:
            oldest = max(oldest, head - places)
        if first < oldest <= head:
            lost = oldest - first
            first = oldest
        count = min(head - first, <uint64_t>limit)
        out = bytearray(count * sizeof(SampleRecord))
        if count == 0:
            return first, lost, b""
        to = out
        for seq in range(first, first + count):
            memcpy(to + (seq - first) * sizeof(SampleRecord),
                   &self.shm.samples[seq % places], sizeof(SampleRecord))
        sw_fence_acquire()
        if _places(self.shm.live) != places:
            return first, lost, b""  # the ring grew meanwhile: the next call finds them
        head = sw_load_acquire(&self.shm.live.sample_head)
        overtaken = 0
        if head + 1 > places and head + 1 - places > first:
            overtaken = min(head + 1 - places - first, count)
        return first + count, lost + overtaken, bytes(out[overtaken * sizeof(SampleRecord):])

    def interlock(self, Py_ssize_t index) -> InterlockView:
        self._check(index, _INTERLOCKS_MAX)
        cdef InterlockLatch latch
        cdef int _i
        cdef bint good = False
        for _i in range(8):
            good = interlock_load(&self.shm.interlocks[index], &latch)
            if good:
                break
        return InterlockView(
            latch.key, latch.state if good else _ILS_TRIPPED, latch.flags, latch.generation,
            latch.reason if good else _TRIP_RESTORED, latch.since_ns, latch.tripped_utc_ns,
            latch.demands, latch.legs, latch.last_seq, latch.withheld_demands,
            latch.bypass_until_ns, latch.bypass_from_ns, <bytes>latch.bypass_id[:16])

    def output(self, Py_ssize_t index) -> OutputView:
        self._check(index, _OUTPUTS_MAX)
        cdef OutputLatch latch
        cdef int _i
        cdef bint good = False
        for _i in range(8):
            good = output_load(&self.shm.outputs[index], &latch)
            if good:
                break
        return OutputView(
            latch.key, latch.state if good else _OUTS_TRIPPING, latch.demand & 1,
            latch.generation, latch.fails, latch.commanded, latch.confirmed, latch.since_ns,
            latch.last_reply_ns, latch.demand_ns, latch.wire_ns, latch.confirm_ns,
            latch.cause_key, latch.demand, latch.silence_until_ns)

    def tag_bypasses(self) -> list:
        self._check(0, 1)
        cdef TagBypassLatch* pair = <TagBypassLatch*>(self.base + _region_offset[1])
        cdef TagBypassLatch latch
        cdef int i
        found = []
        for i in range(_TAG_BYPASSES_MAX):
            memcpy(&latch, &pair[2 * i], sizeof(TagBypassLatch))
            if (
                latch.until_ns != 0
                and memcmp(&latch, &pair[2 * i + 1], sizeof(TagBypassLatch)) == 0
                and latch.crc == crc32_of(&latch, sizeof(TagBypassLatch) - 8)
                and latch.not_until == ~<uint32_t>latch.until_ns
            ):
                found.append(TagBypassView(
                    latch.key, latch.until_ns, latch.from_ns, <bytes>latch.id[:16], latch.flags))
        return found

    def device(self, Py_ssize_t index) -> DeviceView:
        self._check(index, _DEVICES_MAX)
        cdef DeviceStats d = self.shm.devices[index]
        return DeviceView(
            d.key, d.state, d.errno_last, d.since_ns, d.requests, d.timeouts,
            tuple([d.refused[i] for i in range(12)]), d.rtt_ns_last, d.rtt_ns_max, d.good_ns,
            d.polls_missed, d.flags)

    def slot(self, Py_ssize_t index) -> SlotView:
        self._check(index, _TAGS_MAX)
        cdef Slot s
        if index >= tags_ready(&self.shm):  # no program had so many as yet
            return SlotView(0.0, 0, 0, 0, 0, 0, 0)
        if not slot_read(&self.shm.image[index], &s):
            return SlotView(float("nan"), _Q_BAD, _REASON_UNREADABLE, 0, 0, 0, 0)
        return SlotView(
            s.value, s.quality, s.reason, s.mono_ns, s.utc_ns, s.source_utc_ns, s.owner, s.flags)

    def slots(self, Py_ssize_t count) -> list:
        return [self.slot(i) for i in range(count)]
