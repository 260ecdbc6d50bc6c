"""The JSON of the commands and of the API, field by field; read back by the command line.

Times are RFC 3339 UTC with nanoseconds, null where there is none. Fields are added, never changed.
"""

from typing import Any

from msgspec import Struct


class BypassRow(Struct, frozen=True, kw_only=True):
    """A live bypass; ``by`` and ``reason`` are null where only a running gateway would know."""

    until: str | None
    since: str | None
    left_s: int
    by: str | None = None
    reason: str | None = None


class TagBypassRow(Struct, frozen=True, kw_only=True):
    """A tag whose comparisons abstain."""

    id: str
    bypass: BypassRow


class ProofRow(Struct, frozen=True, kw_only=True):
    """The proof tests of an interlock; ``due`` is null where none is asked for, or at once."""

    made: int
    last: str | None
    last_passed: str | None
    passed: bool  # the last one
    due: str | None
    overdue: bool


class SubstitutionRow(Struct, frozen=True, kw_only=True):
    """A value by hand in the place of a tag's readings."""

    until: str | None
    since: str | None
    left_s: int
    by: str
    reason: str


class TagRow(Struct, frozen=True, kw_only=True):
    """One tag; ``value`` is null where there is none, ``reason`` null for a GOOD one."""

    id: str
    device: str | None
    value: float | None
    unit: str | None
    quality: str  # GOOD, UNCERTAIN, BAD
    reason: str | None
    time: str | None
    source_time: str | None
    bypass: BypassRow | None = None  # its comparisons abstain
    substitution: SubstitutionRow | None = None  # its value is by hand
    text: str | None = None  # of a text tag, which has no value


class LegRow(Struct, frozen=True, kw_only=True):
    """One leg of a cause; ``value`` is its leading tag's."""

    text: str
    result: str  # true, false, unknown, abstains
    value: float | None


class InterlockRow(Struct, frozen=True, kw_only=True):
    """One interlock; ``reason`` says why it is tripped, null otherwise."""

    id: str
    state: str  # NORMAL, PENDING, TRIPPED, READY_TO_RESET
    armed: bool
    bypassed: bool
    withheld: bool
    generation: int
    since: str | None
    first_out: bool
    legs: list[LegRow]
    reason: str | None
    starting: bool = False  # its inputs were not all read since the guard's start
    group: str | None = None
    bypass: BypassRow | None = None
    demands: int = 0
    withheld_demands: int = 0  # that a bypass kept from its outputs
    proof: ProofRow | None = None  # null: only a running gateway knows


class OutputRow(Struct, frozen=True, kw_only=True):
    """One output; ``wanted`` is null while nothing is written (HELD), ``readback`` where none."""

    id: str
    state: str  # RELEASED, TRIPPING, TRIPPED, TRIP_FAILED, RELEASING, HELD
    wanted: bool | int | None
    readback: bool | None
    confirmed: bool
    via: str = "guard"  # who writes it: guard, gateway
    held_by: list[str] = []  # interlocks that demand it, outputs that it stands in for
    silenced_until: str | None = None
    unverified: bool = False  # commanded and once confirmed, but nobody hears of it


class DeviceRow(Struct, frozen=True, kw_only=True):
    """One device; ``fast`` ones are the guard's, the others the gateway's."""

    id: str
    fast: bool
    up: bool
    state: str
    since: str | None
    requests: int
    failed: int
    results: dict[str, int] = {}  # requests by result: good, timeout, exception, refused, lost ...
    error: str | None = None  # the newest failure, kept after it is over
    polls_missed: int = 0  # due while another one ran or the device was away
    round_trip_ms: float | None = None  # newest; of a request (fast), else of a whole poll
    lateness_ms: float | None = None  # how late its newest poll began; not told by the guard
    lateness_ms_max: float | None = None
    address: str = ""  # in use, where the driver tells it
    heartbeat_withheld: bool = False  # on purpose: an output cannot be confirmed
    lease_lost: bool = False  # another guard owns its outputs
    watchdog_wrong: bool = False  # a register of its watchdog is not as the site file says


class GuardRow(Struct, frozen=True, kw_only=True):
    """The guard; ``since``: it runs since, or last scanned at."""

    alive: bool
    realtime: bool
    scan: int
    program: str  # hash, hexadecimal
    since: str | None
    locked: bool = False
    pid: int = 0
    overruns: int = 0
    scans_late: int = 0
    cpu: int | None = None  # the only one that it scans on


class GatewayRow(Struct, frozen=True, kw_only=True):
    """The gateway process; ``since``: it runs since, or the guard heard of it last."""

    alive: bool
    pid: int | None
    since: str | None
    unclean_ends: int | None = None  # lives that ended unasked since the last ordered stop


class BacklogRow(Struct, frozen=True, kw_only=True):
    """What waits for one uplink: alerts, and messages of samples."""

    alerts: int = 0
    live: int = 0
    backfill: int = 0


class WaitingRow(Struct, frozen=True, kw_only=True):
    """What waits in one lane; ``full_s``: until its oldest would be lost, null: not by growing."""

    items: int
    oldest_s: float
    bytes: int | None
    fill: float
    full_s: float | None


class UplinkRow(Struct, frozen=True, kw_only=True):
    """One uplink; ``oldest_s`` is the age of the oldest item that waits, ``waiting`` by lane."""

    id: str
    up: bool
    backlog: BacklogRow
    oldest_s: float
    waiting: dict[str, WaitingRow] = {}


class StoreRow(Struct, frozen=True, kw_only=True):
    """A store; ``written_per_day`` at the pace of the last day, null in the first minute."""

    id: str
    ok: bool
    bytes: int
    written: int  # since the start
    written_per_day: int | None


class ProblemRow(Struct, frozen=True, kw_only=True):
    """One thing that is wrong outside the guard."""

    kind: str
    id: str
    text: str
    since: str | None


class Status(Struct, frozen=True, kw_only=True):
    """Everything at a glance. Null: only a running gateway knows it, and none answers."""

    site: str | None
    gateway: str | None
    epoch: int | None
    guard: GuardRow
    gateway_process: GatewayRow
    devices: list[DeviceRow]
    interlocks: list[InterlockRow]
    outputs: list[OutputRow]
    alarms: list[dict[str, Any]] | None
    uplinks: list[UplinkRow] | None
    stores: list[StoreRow] | None = None
    problems: list[ProblemRow] | None = None
    notes: list[str] = []
    bypassed_tags: list[TagBypassRow] = []
    simulated: bool = False  # no device is real
