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
    VOTE = 80  # a = count register or NONE_U16, b = truth register


class NodeKind(IntEnum):
    """What a NODE remembers."""

    UNTIL = 1
    FOR = 2
    HOLD = 3


class TagFlag(IntFlag):
    """Flags of a program's TAG."""

    BOOLEAN = 1
    UNCERTAIN_USE = 2
    HAS_RANGE = 4
    IN_INTERLOCK = 8


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


class TripReason(IntEnum):
    """Why an interlock is TRIPPED."""

    CAUSE = 1
    MANUAL = 2
    POWER_LOSS = 3
    RESTORED = 4
    OVERRUN = 5
    FAULT = 6
    BYPASS_END = 7


class OutputState(IntEnum):
    """GUARD table: states of an output; zero is invalid and counts as TRIPPING."""

    RELEASED = 1
    TRIPPING = 2
    TRIPPED = 3
    TRIP_FAILED = 4
    RELEASING = 5
    HELD = 6


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


class DownReason(IntEnum):
    """Why a DEVICE_DOWN was recorded."""

    CONNECT = 1
    CLOSED = 2
    TIMEOUT = 3
    PROTOCOL = 4


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


class LoadStep(IntEnum):
    """What LOAD asks for."""

    VERIFY = 1
    SWAP = 2


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
