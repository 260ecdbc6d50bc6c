"""The site as the rest of the gateway sees it: every default resolved, every reference checked.

``load.load_site`` makes it from TOML (and CSV). The keys are those of the site file; a key that
the site file leaves out has its resolved value here. Durations are nanoseconds.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from drivers.serial_tables import SerialField, SerialProtocol

IDENT_PATTERN: Final = r"^[a-z][a-z0-9_.-]{0,62}$"
Ident = Annotated[str, Meta(pattern=IDENT_PATTERN)]
Order = Literal["ABCD", "BADC", "CDAB", "DCBA"]
Record = Literal["all", "change", "1s"]
Preset = Literal["mine", "chemical"]
Priority = Literal["critical", "high", "medium", "low"]
Level = Literal["red", "orange", "yellow", "blue"]
Lane = Literal["alert", "live", "backfill"]
Baud = Literal[1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800]
SERIAL_DRIVER: Final = "modbus-rtu"
TTY_DRIVERS: Final = frozenset((SERIAL_DRIVER, "serial"))  # what has a line
SHORT_FORMS: Final = {"Effect": "output"}  # Structs that a text may stand for: their one key


class Duration(int):
    """Nanoseconds; a string such as "50ms" in the site file."""


class Size(int):
    """Bytes; a string such as "64KiB" in the site file."""


class Point(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tag's place in its device. Which keys a driver takes is the driver's own rule."""

    address: str = ""  # Modbus: c: di: ir: hr: + zero-based number, hr:5.3 for a bit
    type: str = ""  # "" : bool for c: and di: and bits, uint16 otherwise
    order: str = ""  # "" : the device's
    scale: float = 1.0
    offset: float = 0.0
    length: int | None = None
    node: str | None = None
    path: str | None = None
    index: int | None = None
    deadband: float | None = None
    field: str | int | None = None
    at: int | None = None


class Signal(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a point's value (after its scale and offset) becomes the tag's.

    4-20mA: from mA, by NAMUR NE 43; its zero and full scale are the tag's ``range``, or a table of
    mA. counter: a total that never decreases. direct: as it is, or by a table.
    """

    kind: Literal["direct", "4-20mA", "counter"] = "direct"
    sqrt: bool = False  # 4-20mA of a differential pressure: the flow is its root
    cutoff: Annotated[float, Meta(ge=0, le=0.5)] = 0.0  # share of full flow that reads as none
    table: tuple[tuple[float, float], ...] = ()  # [x, y] by rising x, straight between them
    bits: Annotated[int, Meta(ge=8, le=53)] | None = None  # of a counter's register
    wrap: Annotated[float, Meta(ge=1)] | None = None  # where a counter begins anew, in the unit
    rate_max: str | None = None  # "5 %CH4/s": what changes faster is uncertain


def is_text(point: Point | None) -> bool:
    """Whether a tag's value is a text: it lives in the gateway alone, outside all logic."""
    return point is not None and point.type == "text"


class Heartbeat(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two registers of the PLC that the guard keeps moving; the PLC trips without them."""

    address: str
    watchdog: Duration
    every: Duration | None = None  # resolved: watchdog / 10, at least 100 ms


class Line(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a serial line is set; the same for every device on it."""

    baud: Baud = 9600
    bits: Literal[7, 8] = 8  # 7: serial instruments alone
    parity: Literal["none", "even", "odd"] = "none"
    stop: Annotated[int, Meta(ge=1, le=2)] = 1
    rs485: bool = False  # the driver switches the direction


class Lease(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Three registers of the device that say which guard owns its outputs."""

    address: str
    within: Duration = Duration(3_000_000_000)  # an owner that is silent for longer is gone


class WatchdogRegister(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A register that sets the device's own watchdog, and the value that it must have."""

    address: str
    value: Annotated[int, Meta(ge=0, le=65535)]


class Burst(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A higher rate of polling while an alarm is raised, and for a time after it."""

    poll: Duration
    hold: Duration = Duration(60_000_000_000)
    on: tuple[str, ...] = ()  # tags whose alarms raise it; none: the device's own


class Alive(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A counter of the device that must move: it stands while a PLC is in STOP."""

    point: str
    within: Duration


class DeviceConditions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Alarms and conditions of an OPC UA server that become alerts."""

    source: str = "i=2253"  # the server object: all that it has
    severity: Annotated[int, Meta(ge=1, le=1000)] = 1


class Device(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a driver talks to."""

    id: Ident
    driver: str
    address: str = ""  # every driver but sim needs one
    poll: Duration = Duration(1_000_000_000)
    timeout: Duration = Duration(1_000_000_000)
    settle: Duration = Duration(1_000_000_000)
    record: Record = "change"
    record_within: Duration | None = None  # None: a value that stands still is not kept again
    fast: bool = False  # polled by the guard
    burst: Burst | None = None
    heartbeat: Heartbeat | None = None
    watchdog_registers: tuple[WatchdogRegister, ...] = ()
    lease: Lease | None = None
    line: Line | None = None  # of a serial port alone, where resolved it is never None
    template: str | None = None  # serial: stands for what it leaves out of the three below
    protocol: SerialProtocol | None = None
    fields: tuple[SerialField, ...] = ()
    station: Annotated[int, Meta(ge=0, le=65535)] | str | None = None
    unit: Annotated[int, Meta(ge=0, le=255)] = 1
    base: Annotated[int, Meta(ge=0, le=1)] = 0
    order: Order = "ABCD"
    max_registers: Annotated[int, Meta(ge=1, le=125)] = 125
    max_gap: Annotated[int, Meta(ge=0, le=124)] = 8
    request_delay: Duration = Duration(0)
    exclude: tuple[str, ...] = ()  # "hr:100-120": never read across
    backup: str | None = None  # a second host:port
    alive: Alive | None = None
    credentials: str | None = None
    security: Literal["Basic256Sha256", "Aes128_Sha256_RsaOaep", "Aes256_Sha256_RsaPss", "None"] = (
        "Basic256Sha256"
    )
    mode: Literal["Sign", "SignAndEncrypt"] = "SignAndEncrypt"
    insecure: bool = False
    server_certificate: str | None = None  # resolved: beside the site file
    read: Literal["subscribe", "poll"] = "subscribe"
    sampling: Duration | None = None  # None: as the poll period
    queue: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    conditions: DeviceConditions | None = None


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Alarm limits of a tag: raised at <= / >=, cleared past the deadband."""

    low_low: float | None = None
    low: float | None = None
    high: float | None = None
    high_high: float | None = None
    deadband: Annotated[float, Meta(ge=0)] = 0.0
    delay: Duration = Duration(0)
    priority: Priority = "medium"
    level: Level | None = None
    guidance: str = ""


class Tag(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One value with its unit, measured or computed.

    Resolved: record is never None, poll and stale_after are not of a measured one.
    """

    id: Ident
    device: str | None = None
    point: Point | None = None
    signal: Signal | None = None  # resolved: None on a fast device, whose point and range say it
    value: str | None = None  # computed tag: an expression
    unit: str = ""
    molar_mass: Annotated[float, Meta(ge=1, le=1000)] | None = None  # g/mol: for mg/m3 and ppm
    range: tuple[float, float] | None = None
    poll: Duration | None = None
    stale_after: Duration | None = None  # 3 x poll + timeout
    stuck_after: Duration | None = None  # the same to the bit for so long is BAD; None: not watched
    record: Record | None = None
    record_deadband: Annotated[float, Meta(ge=0)] | None = None
    record_within: Duration | None = None  # the device's; with a deadband 10m where that has none
    limits: Limits | None = None
    uncertain: Literal["bad", "use"] = "bad"
    description: str = ""


class Output(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A permit to a final element. ``trip`` and ``normal`` are bool for a coil, int for hr:."""

    id: Ident
    device: str
    address: str
    trip: bool | int
    normal: bool | int | None = None
    via: Literal["gateway"] | None = None  # None: the guard writes it itself
    unit: Annotated[int, Meta(ge=0, le=255)] | None = None
    readback: str | None = None  # a boolean tag; "not x" inverts
    confirm_within: Duration = Duration(1_000_000_000)
    reassert: Duration = Duration(1_000_000_000)
    silence: Duration = Duration(0)  # how long a release silences it; 0: it cannot be
    fallback: tuple[str, ...] = ()  # outputs that trip when this one cannot be confirmed
    description: str = ""


class Effect(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An output that an interlock trips, some time after itself. Its id alone: at once."""

    output: str
    delay: Duration = Duration(0)


class Interlock(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A condition that trips outputs without people."""

    id: Ident
    cause: str
    effects: tuple[Effect, ...]
    response: Duration
    armed: bool
    permissive: str | None = None
    group: str | None = None
    delay: Duration = Duration(0)
    bad_for: Duration = Duration(0)
    min_trip: Duration = Duration(0)
    latch: bool = True
    on_bad: Literal["trip", "hold", "ignore"] = "trip"
    hold_max: Duration | None = None
    bypass_max: Duration = Duration(4 * 3600 * 1_000_000_000)
    no_bypass: bool = False
    bypass_votes: Literal["abstain", "trip"] = "abstain"
    test_every: Duration | None = None  # a proof test is due that long after the last one
    trips_on_gateway_restart: bool = False
    shares: tuple[str, ...] = ()  # devices that its votes hang on together, knowingly
    priority: Priority = "critical"
    level: Level | None = None
    guidance: str = ""


class Group(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Interlocks that share a first-out; made by itself where only an interlock names it."""

    id: Ident
    max_bypassed: Annotated[int, Meta(ge=0)] = 1


class Uplink(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A connection to one upstream platform."""

    id: Ident
    kind: Literal["mqtt", "http", "file"]
    url: str  # mqtt:// mqtts:// http:// https:// file:///directory
    credentials: str | None = None
    lanes: tuple[Lane, ...] = ("alert", "live", "backfill")
    window: Annotated[int, Meta(ge=1, le=1000)] = 20  # messages in flight
    timeout: Duration = Duration(10_000_000_000)
    keep_after_ack: Duration = Duration(0)
    sign: bool = False  # http: by the webhook-secret of the credentials
    gzip_above: Size | None = None  # http: longer bodies are compressed
    proxy: str | None = None  # http: "http://host:port", or "environment"
    proxy_credentials: str | None = None
    rotate_bytes: Size = Size(10_000_000)  # file
    rotate_after: Duration = Duration(60_000_000_000)
    max_files: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000  # that wait to be fetched
    max_bytes: Size = Size(1_000_000_000)  # of those
    template: str | None = None  # resolved: beside the site file
    backup_urls: tuple[str, ...] = ()
    group: Annotated[int, Meta(ge=1, le=1000)] = 1  # alerts in one message
    messages_per_second: Annotated[float, Meta(ge=0.01, le=100_000)] | None = None
    bytes_per_second: Size | None = None


class View(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Metrics, health and the page."""

    listen: str = "127.0.0.1:9750"


class History(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds of the sample store."""

    max_bytes: Size = Size(2_000_000_000)
    preset: Preset = "chemical"
    max_age: Duration | None = None
    five_minute_max_age: Duration = Duration(365 * 86_400 * 1_000_000_000)

    @property
    def raw_max_age_ns(self) -> int:
        """``max_age``, or else that of the preset: 7 days of a mine, 30 of a chemical plant."""
        days = {"mine": 7, "chemical": 30}[self.preset]
        return self.max_age if self.max_age is not None else days * 86_400 * 1_000_000_000


class Location(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Degrees, WGS 84."""

    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]


class Site(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The site itself and the guard's own settings."""

    id: Ident
    name: str = ""
    gateway: str | None = None  # resolved: the site's id
    location: Location | None = None
    tags: str | None = None  # CSV beside the site file
    tick: Duration = Duration(10_000_000)
    start_within: Duration = Duration(5_000_000_000)
    on_overrun: Literal["trip", "nothing"] = "trip"
    on_stop: Literal["trip", "nothing"] = "trip"
    discard_uplinks: tuple[str, ...] = ()
    on_output_failure: Literal["stop_heartbeat", "nothing"] = "stop_heartbeat"


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole site file."""

    site: Site
    device: tuple[Device, ...] = ()
    tag: tuple[Tag, ...] = ()
    output: tuple[Output, ...] = ()
    interlock: tuple[Interlock, ...] = ()
    group: tuple[Group, ...] = ()
    uplink: tuple[Uplink, ...] = ()
    view: View = View()
    history: History = History()


def by_id(items: tuple[Any, ...]) -> dict[str, Any]:
    """Tags, devices, outputs ... by their id."""
    return {item.id: item for item in items}
