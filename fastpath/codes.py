"""Every numeric code of the guard's files and messages, under its one Python name.

The scan thread uses the same numbers from ``types.pxd``; a test holds the two against each other.
Zero always means stop: never read, bad, invalid, not permitted.
"""

from enum import IntEnum, IntFlag

NONE_U16 = 0xFFFF  # "no such index" in a 16-bit field
NONE_U32 = 0xFFFFFFFF  # "no such index" in a 32-bit field

TAGS_MAX = 16_384
CODE_MAX = 65_535
NODES_MAX = 16_384
WINDOWS_MAX = 4_096
INTERLOCKS_MAX = 1_024
EFFECTS_MAX = 8_192
LEGS_MAX = 8_192
OUTPUTS_MAX = 512
FALLBACKS_MAX = 2_048
GROUPS_MAX = 256
DEVICES_MAX = 64
REQUESTS_MAX = 2_048
DECODE_MAX = 16_384
LEGS_PER_INTERLOCK_MAX = 32
BLOB_BYTES_MAX = 8 * 1024 * 1024
EVENTS_MAX = 65_536
SAMPLES_MAX = 1_048_576
TAG_BYPASSES_MAX = 256
WATCHDOGS_MAX = 256  # registers of watchdogs that a program may check
COMMANDS_MAX = 64


class Quality(IntEnum):
    """OPC UA's three meanings; zero is BAD, so an empty slot is BAD(never_read)."""

    BAD = 0
    UNCERTAIN = 1
    GOOD = 2


class Reason(IntEnum):
    """Why a value is not GOOD. Zero with BAD reads never_read, with GOOD it says nothing."""

    NEVER_READ = 0
    COMM_FAILURE = 1
    STALE = 2
    OUT_OF_RANGE = 3
    NOT_A_NUMBER = 4
    DEVICE_FAILURE = 5
    STUCK = 6
    SUBSTITUTED = 7
    PRECISION = 8
    UNREADABLE = 9


class Truth(IntEnum):
    """Kleene's values as they stand in ``legs`` (two bits each)."""

    UNKNOWN = 0
    FALSE = 1
    TRUE = 2
    ABSTAIN = 3


class Owner(IntEnum):
    """Who may write a slot of the guard's image."""

    GUARD = 1
    GATEWAY = 2
    SYSTEM = 3


class SystemTag(IntEnum):
    """What a tag of Owner.SYSTEM means."""

    GATEWAY_ALIVE = 1
    DEVICE_CONNECTED = 2


class RecordMode(IntEnum):
    """Which samples of a tag enter the journal."""

    ALL = 1
    CHANGE = 2
    ONE_SECOND = 3


class OnBad(IntEnum):
    """What a cause that stays unknown counts as."""

    TRIP = 1
    HOLD = 2
    IGNORE = 3


class PointType(IntEnum):
    """How registers become a number. BOOL is a coil or discrete input, BIT a bit of a register."""

    BOOL = 1
    BIT = 2
    INT16 = 3
    UINT16 = 4
    INT32 = 5
    UINT32 = 6
    INT64 = 7
    UINT64 = 8
    FLOAT32 = 9
    FLOAT64 = 10


class ByteOrder(IntEnum):
    """Byte and word order of a multi-register value; ABCD is big-endian throughout."""

    ABCD = 1
    BADC = 2
    CDAB = 3
    DCBA = 4


class Op(IntEnum):
    """Operations of the program. Number registers: 1-29, truth registers: 30-79, counts: 80-89."""

    CONST = 1  # imm
    TAG = 2  # a = slot
    ADD = 3
    SUB = 4
    MUL = 5
    DIV = 6
    NEG = 7
    ABS = 8
    MIN = 9
    MAX = 10
    WINDOW = 11  # a = window
    FALSE = 30
    TRUE = 31
    BOOL = 32  # a = number register: true when not zero
    LT = 33
    LE = 34
    GT = 35
    GE = 36
    EQ = 37
    NE = 38
    NOT = 39
    AND = 40
    OR = 41
    MOON = 42  # a = count register, b = M, imm = N
    UNTIL = 43  # a = set, b = clear (truth registers), imm = node
    FOR = 44  # a = truth register, imm = node
    HOLD = 45
    IS_BAD = 46  # a = number register
    IS_GOOD = 47
    VOTE = 80  # a = count register or NONE_U16, b = truth register; one that abstains is left out
    VOTE_TRIP = 81  # the same, but one that abstains votes true


class NodeKind(IntEnum):
    """What a NODE remembers."""

    UNTIL = 1
    FOR = 2
    HOLD = 3


class WindowKind(IntEnum):
    """What a WINDOW tells of its span."""

    MEAN = 1  # weighted by time
    RATE = 2  # (last - first) per second of covered time
    DELTA = 3  # what a counter counted, its wraps and resets allowed for
    LOWEST = 4
    HIGHEST = 5
    TOTAL = 6  # sum of the samples, each once


class TagFlag(IntFlag):
    """Flags of a program's TAG."""

    BOOLEAN = 1
    UNCERTAIN_USE = 2
    HAS_RANGE = 4
    IN_INTERLOCK = 8
    WATCHDOG = 16  # a register that must have its one value before anything is released


class SlotFlag(IntFlag):
    """Flags of an image slot."""

    BYPASSED = 1  # comparisons on it abstain


class InterlockFlag(IntFlag):
    """Flags of a program's INTERLOCK."""

    LATCH = 1
    ARMED = 2
    NO_BYPASS = 4
    BYPASS_VOTES_TRIP = 8


class OutputFlag(IntFlag):
    """Flags of a program's OUTPUT."""

    HAS_NORMAL = 1
    READBACK_INVERTED = 2


class OutputPath(IntEnum):
    """How an output is written."""

    MODBUS = 1
    GATEWAY = 2


class OutputKind(IntEnum):
    """What a Modbus output is."""

    COIL = 1
    REGISTER = 2


class DeviceKind(IntEnum):
    """How a device of the guard is reached."""

    MODBUS_TCP = 1
    MODBUS_RTU = 2


class DeviceFlag(IntFlag):
    """Flags of a program's DEVICE."""

    HAS_HEARTBEAT = 1
    HAS_LEASE = 2
    RS485 = 4


class Parity(IntEnum):
    """Parity of a serial line."""

    NONE = 0
    EVEN = 1
    ODD = 2


class InterlockState(IntEnum):
    """GUARD table: states of an interlock; zero is invalid and counts as TRIPPED."""

    NORMAL = 1
    PENDING = 2
    TRIPPED = 3
    READY_TO_RESET = 4


class InterlockLatchFlag(IntFlag):
    """Flags of an interlock's latch record."""

    ARMED = 1
    WITHHELD = 2
    FIRST_OUT = 4
    SAME_SCAN = 8
    STARTING = 16
    BYPASSED = 32
    BYPASS_ENDING = 64  # its end was announced
    NEEDS_RESET = 128  # tripped by more than its cause: it waits for a reset, latch or not


class TripReason(IntEnum):
    """Why an interlock is TRIPPED."""

    CAUSE = 1
    MANUAL = 2
    POWER_LOSS = 3
    RESTORED = 4
    OVERRUN = 5
    FAULT = 6
    BYPASS_END = 7
    EXERCISE = 8  # by hand, to prove that it works


class TripKind(IntEnum):
    """What a TRIP command is: ``kind`` of its body."""

    MANUAL = 1
    EXERCISE = 2


class OutputState(IntEnum):
    """GUARD table: states of an output; zero is invalid and counts as TRIPPING."""

    RELEASED = 1
    TRIPPING = 2
    TRIPPED = 3
    TRIP_FAILED = 4
    RELEASING = 5
    HELD = 6


class OutputDemand(IntFlag):
    """Why an output is commanded, as it stands in its latch."""

    CAUSE = 1  # an interlock holds it (or STOP)
    FIRST_HOLD = 2  # HELD by a first start: an agreeing read-back releases it
    FALLBACK = 4  # it stands in for one that failed
    FAILED = 8  # it failed since its demand began: its fallbacks stay demanded
    SILENCED = 16  # demanded, and silenced for a time
    BEAT_STOPPED = 32  # heartbeats are withheld until it is confirmed


class OutputCode(IntEnum):
    """``code`` of the OUT_* records."""

    NOTHING = 0
    REFUSED = 1
    TIMEOUT = 2
    MISMATCH = 3
    SILENCED = 4
    SOUNDS_AGAIN = 5
    FALLBACK = 6
    UNCOMMANDED = 7  # the read-back contradicts RELEASED or HELD; NOTHING: no longer
    WATCHDOG = 8  # a register of its device's watchdog is not as it must be


class DeviceState(IntEnum):
    """Where a device's read connection stands."""

    DOWN = 1
    CONNECTING = 2
    SETTLING = 3
    UP = 4


class Refusal(IntEnum):
    """Why a device's reply was refused: the index into DEVICE.refused."""

    CONNECT = 0
    TRANSACTION = 1
    PROTOCOL = 2
    LENGTH = 3
    UNIT = 4
    FUNCTION = 5
    BYTE_COUNT = 6
    ECHO = 7
    EXCEPTION_ADDRESS = 8  # exceptions 1 to 3
    EXCEPTION_BUSY = 9  # exceptions 5 and 6
    EXCEPTION_GATEWAY = 10  # exceptions 10 and 11
    EXCEPTION_OTHER = 11


class DeviceStatsFlag(IntFlag):
    """What the guard keeps from a device, or holds against it, now."""

    HEARTBEAT_WITHHELD = 1  # on purpose: an output cannot be confirmed
    LEASE_LOST = 2  # another guard owns its outputs: nothing is written
    WATCHDOG_WRONG = 4  # a register of its watchdog is not as the site file says


class DownReason(IntEnum):
    """Why a DEVICE_DOWN was recorded."""

    CONNECT = 1
    CLOSED = 2
    TIMEOUT = 3
    PROTOCOL = 4
    WATCHDOG = 5  # a register of its watchdog is not as the site file says
    LEASE = 6  # another guard owns its outputs
    TTY = 7  # its serial port cannot be opened


class EventType(IntEnum):
    """Records of the journal."""

    GUARD_START = 1
    GUARD_STOP = 2
    PROGRAM = 3
    TRIP = 4
    READY = 5
    NOT_READY = 6
    PENDING = 7
    PENDING_END = 8
    RESET = 9
    RETURN = 10
    BYPASS = 11
    BYPASS_ENDING = 12
    BYPASS_END = 13
    COMMAND = 14
    OUT_TRIP = 15
    OUT_CONFIRMED = 16
    OUT_FAILED = 17
    OUT_MISMATCH = 18
    OUT_UNVERIFIED = 19
    OUT_RELEASE = 20
    OUT_RELEASED = 21
    OUT_HELD = 22
    HEARTBEAT_STOP = 23
    HEARTBEAT_START = 24
    DEVICE_DOWN = 25
    DEVICE_UP = 26
    TAG_QUALITY = 27
    OVERRUN = 28
    PAUSE = 29
    GATEWAY_UP = 30
    GATEWAY_DOWN = 31
    LOST = 32
    FAULT = 33
    CONDITION_BLIND = 34


class EventFlag(IntFlag):
    """Flags of a journal record."""

    CLOCK_SYNCED = 1
    WITHHELD = 2
    UNARMED = 4
    SAME_SCAN = 8
    RETRIP = 16
    LATE = 32
    CLASS_A = 64


class MessageType(IntEnum):
    """Messages of the mailbox."""

    HELLO = 1
    WELCOME = 2
    SAMPLES = 3
    TOUCH = 4
    ACK = 5
    RESET = 6
    RELEASE = 7
    BYPASS_START = 8
    BYPASS_END = 9
    TRIP = 10
    STOP = 11
    LOAD = 12
    OUTPUT_RESULT = 13
    RESULT = 14
    NUDGE = 15


class ResultCode(IntEnum):
    """The guard's answer to a command."""

    DONE = 1
    ALREADY = 2
    WRONG_GENERATION = 3
    CAUSE_PRESENT = 4
    CAUSE_UNKNOWN = 5
    PERMISSIVE = 6
    EXPIRED = 7
    NOT_ALLOWED = 8
    LIMIT = 9
    UNKNOWN_KEY = 10
    WRONG_PROGRAM = 11
    REFUSED_BLOB = 12
    WOULD_REMOVE_TRIP = 13
    MINIMUM_TRIP_TIME = 14


class ResultDetail(IntEnum):
    """What a RESULT adds to its code (for CAUSE_PRESENT and PERMISSIVE it is a leg's number)."""

    NOTHING = 0
    UNARMED = 0x10000
    WEAKENS = 0x20000  # of a LOAD: plus the number of changes that weaken
    SILENCED = 0x40000  # of a RELEASE: the demand stays, its output is silent for a time


class LoadStep(IntEnum):
    """What LOAD asks for."""

    VERIFY = 1
    SWAP = 2
    CONFIRM = 3  # an operator agrees to a weakening swap


class LoadFlag(IntFlag):
    """Flags of a LOAD."""

    WEAKENS = 1  # a reason for its weakening is in the ledger


class BypassKind(IntEnum):
    """What a bypass is of: ``kind`` of BYPASS_START and BYPASS_END."""

    INTERLOCK = 1
    TAG = 2


class BypassEnd(IntEnum):
    """``cause`` of a BYPASS_END record."""

    TIME = 1
    COMMAND = 2
    TRIP = 3  # a manual trip
    FORBIDDEN = 4  # by the program that was swapped in
    BOOT = 5  # power was lost


class Counter(IntEnum):
    """Index into the header's ``counters``: what the guard dropped or counted, by reason."""

    REALTIME = 0  # 1: the scan thread runs under SCHED_FIFO
    LOCKED = 1  # 1: shared file, arenas and stack are locked in memory
    MESSAGE_BAD = 2  # wrong length, version or type
    SAMPLE_SLOT = 3
    SAMPLE_OWNER = 4
    SAMPLE_FUTURE = 5
    SAMPLE_OLD = 6
    SESSION_REFUSED = 7
    COMMANDS = 8
    EVENTS_SHED = 9  # reserved: the header's events_lost counts what found no room
    POLLS_MISSED = 10
    NOTIFY_FAILED = 11
    SAMPLES_ACCEPTED = 12
    PAUSES = 13
    TRIPS = 14
    SAMPLE_PROGRAM = 15
    SCANS_LATE = 16  # scans that began late by more than their tick
    LEASE_LOST = 17
    RTU_LATE = 18  # late replies of serial devices, dropped
    RTU_NOISE = 19  # bytes of serial lines that belong to no frame
    HEARTBEATS_WITHHELD = 20
    LOADS_REFUSED = 21
    OUTPUT_RESULT_BAD = 22
    WINDOWS_LOST = 23  # windows whose memory was damaged: begun anew
    CPU = 24  # 1 + the only CPU that the scan thread may run on, 0: there are several
