"""guard.shm: the guard's shared file, written by the scan thread and mapped read-only by others."""

from collections.abc import Sequence
from typing import NamedTuple

from fastpath.records import Event

SHM_BYTES: int

class JournalError(OSError):
    """The file is missing, of an unknown layout, or damaged in its fixed header."""

class AlreadyRunning(JournalError):
    """Another guard holds the file's lock."""

class SharedFile:
    """guard.shm as the guard holds it. Raises AlreadyRunning, OSError."""

    fresh: bool
    set_aside: str | None
    locked: bool

    def __init__(self, path: str, boot_id: bytes) -> None: ...
    @property
    def journal_id(self) -> int: ...
    def share_with(self, gid: int) -> None: ...
    def close(self) -> None: ...

class Header(NamedTuple):
    boot_id: bytes  # 16
    journal_id: int
    guard_starts: int
    pid: int
    clean_stop: int
    scan: int
    scan_mono_ns: int
    scan_ns_max: int
    overruns: int
    program: bytes  # 32: hash of the running program
    event_head: int  # next seq to be written
    event_tail: int  # first seq not yet acknowledged by the gateway
    events_lost: int
    sample_head: int
    samples_shed: int
    gateway_connected: int
    last_message_mono_ns: int
    counters: tuple[int, ...]  # 256, index: codes.Counter

class InterlockView(NamedTuple):
    key: int
    state: int  # InterlockState; a damaged pair reads TRIPPED
    flags: int  # InterlockLatchFlag
    generation: int
    reason: int  # TripReason
    since_ns: int  # boottime
    tripped_utc_ns: int
    demands: int
    legs: int  # 2 bits each, Truth; kept up to date in every scan
    last_seq: int
    withheld_demands: int = 0
    bypass_until_ns: int = 0  # boottime, 0: none
    bypass_from_ns: int = 0
    bypass_id: bytes = bytes(16)  # of the command that began it

class OutputView(NamedTuple):
    key: int
    state: int  # OutputState
    demand: int
    generation: int
    fails: int
    commanded: int
    confirmed: int
    since_ns: int  # boottime
    last_reply_ns: int
    demand_ns: int
    wire_ns: int
    confirm_ns: int
    cause_key: int
    demands: int = 0  # OutputDemand
    silence_until_ns: int = 0  # boottime, 0: not silenced

class TagBypassView(NamedTuple):
    key: int
    until_ns: int  # boottime
    from_ns: int
    id: bytes  # of the command that began it
    flags: int  # 1: its end was announced

class SlotView(NamedTuple):
    value: float
    quality: int
    reason: int
    mono_ns: int
    utc_ns: int
    source_utc_ns: int
    owner: int
    flags: int = 0  # SlotFlag

class DeviceView(NamedTuple):
    key: int
    state: int  # DeviceState
    errno: int
    since_ns: int  # boottime
    requests: int
    timeouts: int
    refused: tuple[int, ...]  # 12, index: codes.Refusal
    rtt_ns_last: int
    rtt_ns_max: int
    good_ns: int  # monotonic
    polls_missed: int
    flags: int = 0  # DeviceStatsFlag

class GuardView:
    """A read-only map of a guard.shm. Never waits: a record that is being written is skipped."""

    def __init__(self, path: str) -> None: ...  # raises JournalError
    def close(self) -> None: ...
    def guard_alive(self) -> bool: ...  # the guard's exclusive lock is held
    def header(self) -> Header: ...
    def events(self, first: int, limit: int) -> list[Event]:
        """Valid records with seq in [first, event_head), at most ``limit``, in order."""
    def samples(self, first: int, limit: int) -> tuple[int, int, bytes]:
        """(next position, lost, n x 32 B messages.SAMPLE) from position ``first``.

        ``lost`` counts records overwritten before they could be read.
        """
    def interlock(self, index: int) -> InterlockView: ...
    def output(self, index: int) -> OutputView: ...
    def tag_bypasses(self) -> list[TagBypassView]:
        """Those that are whole; a damaged one is none."""
    def device(self, index: int) -> DeviceView: ...
    def slot(self, index: int) -> SlotView: ...
    def slots(self, count: int) -> Sequence[SlotView]: ...
