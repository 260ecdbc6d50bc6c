"""The JSON of the commands and of the API, field by field; read back by the command line.

Times are RFC 3339 UTC with nanoseconds, null where there is none. Fields are added, never changed.
"""

from typing import Any

from msgspec import Struct


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


class OutputRow(Struct, frozen=True, kw_only=True):
    """One output; ``wanted`` is null while nothing is written (HELD), ``readback`` where none."""

    id: str
    state: str  # RELEASED, TRIPPING, TRIPPED, TRIP_FAILED, RELEASING, HELD
    wanted: bool | int | None
    readback: bool | None
    confirmed: bool


class DeviceRow(Struct, frozen=True, kw_only=True):
    """One device; ``fast`` ones are the guard's, the others the gateway's."""

    id: str
    fast: bool
    up: bool
    state: str
    since: str | None
    requests: int
    failed: int


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


class GatewayRow(Struct, frozen=True, kw_only=True):
    """The gateway process; ``since``: it runs since, or the guard heard of it last."""

    alive: bool
    pid: int | None
    since: str | None


class BacklogRow(Struct, frozen=True, kw_only=True):
    """What waits for one uplink: alerts, and messages of samples."""

    alerts: int = 0
    live: int = 0
    backfill: int = 0


class UplinkRow(Struct, frozen=True, kw_only=True):
    """One uplink; ``oldest_s`` is the age of the oldest item that waits."""

    id: str
    up: bool
    backlog: BacklogRow
    oldest_s: float


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
    problems: list[ProblemRow] | None = None
    notes: list[str] = []
