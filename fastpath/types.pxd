"""The guard's structs and codes, as C sees them.

Everything here is fixed-width and little-endian. ``codes.py`` has the same numbers for Python and
``blob.py`` the same record layouts; tests hold them together. The all-zero struct always means
stop: never read, invalid, not permitted.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    _NONE_U16 = 0xFFFF
    _NONE_U32 = 0xFFFFFFFF
    _BLOB_BYTES_MAX = 8388608
    _CODE_MAX = 65535
    _COMMANDS_MAX = 64
    _DECODE_MAX = 16384
    _DEVICES_MAX = 64
    _EFFECTS_MAX = 8192
    _EVENTS_MAX = 65536
    _FALLBACKS_MAX = 2048
    _GROUPS_MAX = 256
    _INTERLOCKS_MAX = 1024
    _LEGS_MAX = 8192
    _LEGS_PER_INTERLOCK_MAX = 32
    _NODES_MAX = 16384
    _OUTPUTS_MAX = 512
    _REQUESTS_MAX = 2048
    _SAMPLES_MAX = 1048576
    _TAGS_MAX = 16384
    _TAG_BYPASSES_MAX = 256
    _WATCHDOGS_MAX = 256
    _WINDOWS_MAX = 4096

cdef enum:  # Quality
    _Q_BAD = 0
    _Q_UNCERTAIN = 1
    _Q_GOOD = 2

cdef enum:  # Reason
    _REASON_NEVER_READ = 0
    _REASON_COMM_FAILURE = 1
    _REASON_STALE = 2
    _REASON_OUT_OF_RANGE = 3
    _REASON_NOT_A_NUMBER = 4
    _REASON_DEVICE_FAILURE = 5
    _REASON_STUCK = 6
    _REASON_SUBSTITUTED = 7
    _REASON_PRECISION = 8
    _REASON_UNREADABLE = 9

cdef enum:  # Truth
    _T_UNKNOWN = 0
    _T_FALSE = 1
    _T_TRUE = 2
    _T_ABSTAIN = 3

cdef enum:  # Owner
    _OWNER_GUARD = 1
    _OWNER_GATEWAY = 2
    _OWNER_SYSTEM = 3

cdef enum:  # SystemTag
    _SYSTEM_GATEWAY_ALIVE = 1
    _SYSTEM_DEVICE_CONNECTED = 2

cdef enum:  # RecordMode
    _RECORD_ALL = 1
    _RECORD_CHANGE = 2
    _RECORD_ONE_SECOND = 3

cdef enum:  # OnBad
    _ON_BAD_TRIP = 1
    _ON_BAD_HOLD = 2
    _ON_BAD_IGNORE = 3

cdef enum:  # PointType
    _TYPE_BOOL = 1
    _TYPE_BIT = 2
    _TYPE_INT16 = 3
    _TYPE_UINT16 = 4
    _TYPE_INT32 = 5
    _TYPE_UINT32 = 6
    _TYPE_INT64 = 7
    _TYPE_UINT64 = 8
    _TYPE_FLOAT32 = 9
    _TYPE_FLOAT64 = 10

cdef enum:  # ByteOrder
    _ORDER_ABCD = 1
    _ORDER_BADC = 2
    _ORDER_CDAB = 3
    _ORDER_DCBA = 4

cdef enum:  # Op
    _OP_CONST = 1
    _OP_TAG = 2
    _OP_ADD = 3
    _OP_SUB = 4
    _OP_MUL = 5
    _OP_DIV = 6
    _OP_NEG = 7
    _OP_ABS = 8
    _OP_MIN = 9
    _OP_MAX = 10
    _OP_WINDOW = 11
    _OP_FALSE = 30
    _OP_TRUE = 31
    _OP_BOOL = 32
    _OP_LT = 33
    _OP_LE = 34
    _OP_GT = 35
    _OP_GE = 36
    _OP_EQ = 37
    _OP_NE = 38
    _OP_NOT = 39
    _OP_AND = 40
    _OP_OR = 41
    _OP_MOON = 42
    _OP_UNTIL = 43
    _OP_FOR = 44
    _OP_HOLD = 45
    _OP_IS_BAD = 46
    _OP_IS_GOOD = 47
    _OP_VOTE = 80
    _OP_VOTE_TRIP = 81

cdef enum:  # NodeKind
    _NODE_UNTIL = 1
    _NODE_FOR = 2
    _NODE_HOLD = 3

cdef enum:  # WindowKind
    _WINDOW_MEAN = 1
    _WINDOW_RATE = 2
    _WINDOW_DELTA = 3
    _WINDOW_LOWEST = 4
    _WINDOW_HIGHEST = 5
    _WINDOW_TOTAL = 6

cdef enum:  # TagFlag
    _TAG_BOOLEAN = 1
    _TAG_UNCERTAIN_USE = 2
    _TAG_HAS_RANGE = 4
    _TAG_IN_INTERLOCK = 8
    _TAG_WATCHDOG = 16

cdef enum:  # SlotFlag
    _SLOT_BYPASSED = 1

cdef enum:  # InterlockFlag
    _IL_LATCH = 1
    _IL_ARMED = 2
    _IL_NO_BYPASS = 4
    _IL_BYPASS_VOTES_TRIP = 8

cdef enum:  # OutputFlag
    _OUT_HAS_NORMAL = 1
    _OUT_READBACK_INVERTED = 2

cdef enum:  # OutputPath
    _PATH_MODBUS = 1
    _PATH_GATEWAY = 2

cdef enum:  # OutputKind
    _KIND_COIL = 1
    _KIND_REGISTER = 2

cdef enum:  # DeviceKind
    _DEVICE_MODBUS_TCP = 1
    _DEVICE_MODBUS_RTU = 2

cdef enum:  # DeviceFlag
    _DEVICE_HAS_HEARTBEAT = 1
    _DEVICE_HAS_LEASE = 2
    _DEVICE_RS485 = 4

cdef enum:  # Parity
    _PARITY_NONE = 0
    _PARITY_EVEN = 1
    _PARITY_ODD = 2

cdef enum:  # InterlockState
    _ILS_NORMAL = 1
    _ILS_PENDING = 2
    _ILS_TRIPPED = 3
    _ILS_READY_TO_RESET = 4

cdef enum:  # InterlockLatchFlag
    _LATCH_ARMED = 1
    _LATCH_WITHHELD = 2
    _LATCH_FIRST_OUT = 4
    _LATCH_SAME_SCAN = 8
    _LATCH_STARTING = 16
    _LATCH_BYPASSED = 32
    _LATCH_BYPASS_ENDING = 64
    _LATCH_NEEDS_RESET = 128

cdef enum:  # TripReason
    _TRIP_CAUSE = 1
    _TRIP_MANUAL = 2
    _TRIP_POWER_LOSS = 3
    _TRIP_RESTORED = 4
    _TRIP_OVERRUN = 5
    _TRIP_FAULT = 6
    _TRIP_BYPASS_END = 7
    _TRIP_EXERCISE = 8

cdef enum:  # TripKind
    _TRIPK_MANUAL = 1
    _TRIPK_EXERCISE = 2

cdef enum:  # OutputState
    _OUTS_RELEASED = 1
    _OUTS_TRIPPING = 2
    _OUTS_TRIPPED = 3
    _OUTS_TRIP_FAILED = 4
    _OUTS_RELEASING = 5
    _OUTS_HELD = 6

cdef enum:  # OutputDemand
    _DEMAND_CAUSE = 1
    _DEMAND_FIRST_HOLD = 2
    _DEMAND_FALLBACK = 4
    _DEMAND_FAILED = 8
    _DEMAND_SILENCED = 16
    _DEMAND_BEAT_STOPPED = 32

cdef enum:  # OutputCode
    _OUTC_NOTHING = 0
    _OUTC_REFUSED = 1
    _OUTC_TIMEOUT = 2
    _OUTC_MISMATCH = 3
    _OUTC_SILENCED = 4
    _OUTC_SOUNDS_AGAIN = 5
    _OUTC_FALLBACK = 6
    _OUTC_UNCOMMANDED = 7
    _OUTC_WATCHDOG = 8

cdef enum:  # DeviceState
    _LINK_DOWN = 1
    _LINK_CONNECTING = 2
    _LINK_SETTLING = 3
    _LINK_UP = 4

cdef enum:  # Refusal
    _REFUSED_CONNECT = 0
    _REFUSED_TRANSACTION = 1
    _REFUSED_PROTOCOL = 2
    _REFUSED_LENGTH = 3
    _REFUSED_UNIT = 4
    _REFUSED_FUNCTION = 5
    _REFUSED_BYTE_COUNT = 6
    _REFUSED_ECHO = 7
    _REFUSED_EXCEPTION_ADDRESS = 8
    _REFUSED_EXCEPTION_BUSY = 9
    _REFUSED_EXCEPTION_GATEWAY = 10
    _REFUSED_EXCEPTION_OTHER = 11

cdef enum:  # DeviceStatsFlag
    _DEVST_HEARTBEAT_WITHHELD = 1
    _DEVST_LEASE_LOST = 2
    _DEVST_WATCHDOG_WRONG = 4

cdef enum:  # DownReason
    _DOWN_CONNECT = 1
    _DOWN_CLOSED = 2
    _DOWN_TIMEOUT = 3
    _DOWN_PROTOCOL = 4
    _DOWN_WATCHDOG = 5
    _DOWN_LEASE = 6
    _DOWN_TTY = 7

cdef enum:  # EventType
    _EV_GUARD_START = 1
    _EV_GUARD_STOP = 2
    _EV_PROGRAM = 3
    _EV_TRIP = 4
    _EV_READY = 5
    _EV_NOT_READY = 6
    _EV_PENDING = 7
    _EV_PENDING_END = 8
    _EV_RESET = 9
    _EV_RETURN = 10
    _EV_BYPASS = 11
    _EV_BYPASS_ENDING = 12
    _EV_BYPASS_END = 13
    _EV_COMMAND = 14
    _EV_OUT_TRIP = 15
    _EV_OUT_CONFIRMED = 16
    _EV_OUT_FAILED = 17
    _EV_OUT_MISMATCH = 18
    _EV_OUT_UNVERIFIED = 19
    _EV_OUT_RELEASE = 20
    _EV_OUT_RELEASED = 21
    _EV_OUT_HELD = 22
    _EV_HEARTBEAT_STOP = 23
    _EV_HEARTBEAT_START = 24
    _EV_DEVICE_DOWN = 25
    _EV_DEVICE_UP = 26
    _EV_TAG_QUALITY = 27
    _EV_OVERRUN = 28
    _EV_PAUSE = 29
    _EV_GATEWAY_UP = 30
    _EV_GATEWAY_DOWN = 31
    _EV_LOST = 32
    _EV_FAULT = 33
    _EV_CONDITION_BLIND = 34

cdef enum:  # EventFlag
    _EVF_CLOCK_SYNCED = 1
    _EVF_WITHHELD = 2
    _EVF_UNARMED = 4
    _EVF_SAME_SCAN = 8
    _EVF_RETRIP = 16
    _EVF_LATE = 32
    _EVF_CLASS_A = 64

cdef enum:  # MessageType
    _MSG_HELLO = 1
    _MSG_WELCOME = 2
    _MSG_SAMPLES = 3
    _MSG_TOUCH = 4
    _MSG_ACK = 5
    _MSG_RESET = 6
    _MSG_RELEASE = 7
    _MSG_BYPASS_START = 8
    _MSG_BYPASS_END = 9
    _MSG_TRIP = 10
    _MSG_STOP = 11
    _MSG_LOAD = 12
    _MSG_OUTPUT_RESULT = 13
    _MSG_RESULT = 14
    _MSG_NUDGE = 15

cdef enum:  # ResultCode
    _RESULT_DONE = 1
    _RESULT_ALREADY = 2
    _RESULT_WRONG_GENERATION = 3
    _RESULT_CAUSE_PRESENT = 4
    _RESULT_CAUSE_UNKNOWN = 5
    _RESULT_PERMISSIVE = 6
    _RESULT_EXPIRED = 7
    _RESULT_NOT_ALLOWED = 8
    _RESULT_LIMIT = 9
    _RESULT_UNKNOWN_KEY = 10
    _RESULT_WRONG_PROGRAM = 11
    _RESULT_REFUSED_BLOB = 12
    _RESULT_WOULD_REMOVE_TRIP = 13
    _RESULT_MINIMUM_TRIP_TIME = 14

cdef enum:  # ResultDetail
    _DETAIL_NOTHING = 0
    _DETAIL_UNARMED = 65536
    _DETAIL_WEAKENS = 131072
    _DETAIL_SILENCED = 262144

cdef enum:  # LoadStep
    _LOAD_VERIFY = 1
    _LOAD_SWAP = 2
    _LOAD_CONFIRM = 3

cdef enum:  # LoadFlag
    _LOADF_WEAKENS = 1

cdef enum:  # BypassKind
    _BYPASS_INTERLOCK = 1
    _BYPASS_TAG = 2

cdef enum:  # BypassEnd
    _BYPASSE_TIME = 1
    _BYPASSE_COMMAND = 2
    _BYPASSE_TRIP = 3
    _BYPASSE_FORBIDDEN = 4
    _BYPASSE_BOOT = 5

cdef enum:  # Counter
    _COUNT_REALTIME = 0
    _COUNT_LOCKED = 1
    _COUNT_MESSAGE_BAD = 2
    _COUNT_SAMPLE_SLOT = 3
    _COUNT_SAMPLE_OWNER = 4
    _COUNT_SAMPLE_FUTURE = 5
    _COUNT_SAMPLE_OLD = 6
    _COUNT_SESSION_REFUSED = 7
    _COUNT_COMMANDS = 8
    _COUNT_EVENTS_SHED = 9
    _COUNT_POLLS_MISSED = 10
    _COUNT_NOTIFY_FAILED = 11
    _COUNT_SAMPLES_ACCEPTED = 12
    _COUNT_PAUSES = 13
    _COUNT_TRIPS = 14
    _COUNT_SAMPLE_PROGRAM = 15
    _COUNT_SCANS_LATE = 16
    _COUNT_LEASE_LOST = 17
    _COUNT_RTU_LATE = 18
    _COUNT_RTU_NOISE = 19
    _COUNT_HEARTBEATS_WITHHELD = 20
    _COUNT_LOADS_REFUSED = 21
    _COUNT_OUTPUT_RESULT_BAD = 22
    _COUNT_WINDOWS_LOST = 23
    _COUNT_CPU = 24


# ---- program blob (layouts: blob.SECTIONS) -------------------------------------------------

cdef struct SectionEntry:  # 12 bytes
    uint16_t id
    uint16_t record_bytes
    uint32_t offset
    uint32_t count

cdef struct TagDef:  # 64 bytes
    uint64_t key
    double low  # inclusive, engineering units; only with _TAG_HAS_RANGE
    double high
    int64_t stale_after_ns  # 0: never goes stale
    int64_t settle_ns
    int64_t stuck_ns  # 0: not watched
    uint8_t owner
    uint8_t record
    uint16_t flags
    uint16_t device  # index or _NONE_U16
    uint16_t system
    uint8_t pad[8]

cdef struct InstructionDef:  # 16 bytes
    uint16_t op
    uint16_t dst
    uint16_t a
    uint16_t b
    double imm

cdef struct NodeDef:  # 32 bytes
    uint32_t kind
    uint32_t interlock
    int64_t duration_ns
    uint64_t key
    uint8_t pad[8]

cdef struct WindowDef:  # 32 bytes
    uint32_t kind
    uint32_t interlock
    int64_t span_ns
    uint32_t slot
    uint32_t pad0
    uint64_t key  # ties the memory to its window over a restart or a swap

cdef struct InterlockDef:  # 128 bytes
    uint64_t key
    uint64_t fingerprint
    int64_t delay_ns
    int64_t bad_for_ns
    int64_t hold_max_ns
    int64_t min_trip_ns
    int64_t response_ns
    int64_t bypass_max_ns
    uint32_t order
    uint32_t cause  # truth register
    uint32_t permissive  # truth register or _NONE_U32: always permitted
    uint32_t group
    uint32_t flags
    uint32_t on_bad
    uint32_t legs_first
    uint32_t legs_count
    uint32_t effects_first
    uint32_t effects_count
    uint8_t pad[24]

cdef struct EffectDef:  # 16 bytes
    uint32_t interlock
    uint32_t output
    int64_t delay_ns

cdef struct LegDef:  # 32 bytes
    uint32_t interlock
    uint32_t reg
    uint32_t slot
    uint32_t pad0
    double limit
    uint8_t pad[8]

cdef struct OutputDef:  # 64 bytes
    uint64_t key
    int64_t confirm_ns
    int64_t reassert_ns
    int64_t silence_ns
    uint32_t device
    uint32_t readback
    uint16_t address
    uint16_t trip
    uint16_t normal
    uint8_t unit
    uint8_t path
    uint8_t kind
    uint8_t flags
    uint8_t pad[14]

cdef struct FallbackDef:  # 8 bytes
    uint32_t output
    uint32_t fallback

cdef struct GroupDef:  # 16 bytes
    uint64_t key
    uint32_t max_bypassed
    uint32_t pad

cdef struct DeviceDef:  # 128 bytes
    uint64_t key
    uint8_t address[16]
    int64_t connect_timeout_ns
    int64_t timeout_ns
    int64_t settle_ns
    int64_t every_ns
    int64_t watchdog_ns
    int64_t request_delay_ns
    int64_t connected_within_ns
    uint16_t port
    uint16_t heartbeat_address
    uint16_t flags
    uint8_t unit
    uint8_t kind
    uint32_t tty  # index into the program's names of ttys, or _NONE_U32
    uint32_t baud
    uint16_t lease_address
    uint8_t data_bits
    uint8_t parity
    uint8_t stop_bits
    uint8_t pad0[3]
    int64_t lease_ns  # another owner whose counter stood still for that long is gone
    uint8_t pad[16]

cdef struct RequestDef:  # 32 bytes
    uint32_t device
    uint32_t decode_first
    uint32_t decode_count
    uint32_t pad0
    int64_t period_ns
    uint16_t address
    uint16_t count
    uint8_t function
    uint8_t unit
    uint8_t pad[2]

cdef struct DecodeDef:  # 32 bytes
    uint32_t slot
    uint32_t request
    uint16_t at  # registers (function 3, 4) or bits (1, 2) from the request's address
    uint8_t type
    uint8_t order
    uint8_t bit
    uint8_t pad[3]
    double scale
    double offset

# ---- shared file (guard.shm) ---------------------------------------------------------------

cdef struct InterlockLatch:  # 128 bytes; stored twice
    uint64_t key
    uint64_t fingerprint
    uint32_t state
    uint32_t flags
    uint32_t generation
    uint32_t reason
    int64_t since_ns  # boottime
    int64_t tripped_utc_ns
    int64_t bypass_until_ns  # boottime, 0: none
    uint8_t bypass_id[16]
    uint32_t demands
    uint32_t withheld_demands
    uint64_t legs  # 2 bits each, Truth
    uint64_t last_seq  # newest journal record of this interlock
    int64_t trip_boot_ns  # boottime: when it tripped
    int64_t bypass_from_ns  # boottime: when the bypass began
    int64_t effects_from_ns  # boottime: when its outputs' delays began to run
    uint32_t crc
    uint32_t not_state

cdef struct TagBypassLatch:  # 64 bytes; stored twice
    uint64_t key
    int64_t until_ns  # boottime
    uint8_t id[16]
    int64_t from_ns  # boottime
    uint32_t flags  # 1: its end was announced
    uint8_t pad[12]
    uint32_t crc
    uint32_t not_until

cdef struct OutputLatch:  # 128 bytes; stored twice
    uint64_t key
    uint32_t state
    uint32_t demand  # OutputDemand
    uint32_t generation
    uint32_t fails
    uint32_t commanded  # the value last written
    uint32_t confirmed  # 1: the device's own reply and the read-back agree
    int64_t since_ns  # boottime
    int64_t last_reply_ns  # monotonic
    uint64_t last_seq
    int64_t demand_ns  # monotonic: arrival of the deciding sample
    int64_t wire_ns  # monotonic: first write of this trip
    int64_t confirm_ns  # monotonic: confirmed
    uint64_t cause_key  # interlock that demanded it
    int64_t silence_until_ns  # boottime, 0: not silenced
    uint64_t silence_mark  # generations of its interlocks when it was silenced
    uint8_t pad[16]
    uint32_t crc
    uint32_t not_state

cdef struct CommandSlot:  # 64 bytes
    uint8_t id[16]
    uint16_t result
    uint16_t type
    uint32_t generation
    uint64_t scan
    uint32_t detail
    uint8_t pad[20]
    uint32_t crc
    uint32_t pad1

cdef struct NodeState:  # 32 bytes
    int64_t since_low_ns  # the run with unknown as false; 0: not running
    int64_t since_high_ns  # the run with unknown as true
    uint32_t flags
    uint32_t pad
    uint32_t pad1
    uint32_t check  # crc32 of key and fields

cdef struct WindowBucket:
    double value
    double first
    uint64_t covered_ns

cdef struct WindowState:  # 1,600 bytes
    uint64_t lock
    int64_t span_ns
    uint64_t head
    WindowBucket bucket[64]
    uint64_t key
    double last_value
    int64_t last_ns  # monotonic: the buckets tell of all before
    uint32_t flags  # windows.pxd
    uint32_t pad0
    uint8_t pad[8]

cdef struct Slot:  # 64 bytes, one cache line
    uint64_t lock  # odd: being written
    double value
    int64_t mono_ns
    int64_t utc_ns
    int64_t source_utc_ns
    uint8_t quality
    uint8_t reason
    uint16_t flags
    uint32_t owner
    uint8_t pad[16]

cdef struct DeviceStats:  # 128 bytes
    uint64_t key
    uint32_t state
    uint32_t errno_last
    int64_t since_ns
    uint64_t requests
    uint64_t timeouts
    uint32_t refused[12]
    int64_t rtt_ns_last
    int64_t rtt_ns_max
    int64_t good_ns  # monotonic: last good exchange
    uint64_t polls_missed
    uint32_t flags  # DeviceStatsFlag
    uint8_t pad[4]

cdef struct Event:  # 128 bytes
    uint64_t seq
    int64_t mono_ns
    int64_t utc_ns
    uint64_t scan
    uint16_t type
    uint16_t flags
    uint32_t index
    uint64_t key
    uint64_t program
    uint8_t payload[64]
    uint32_t crc
    uint32_t seq_low

cdef struct SampleRecord:  # 32 bytes
    uint32_t slot
    uint8_t quality
    uint8_t reason
    uint16_t flags
    double value
    int64_t mono_ns
    int64_t utc_ns

# ---- mailbox ---------------------------------------------------------------------------------

cdef struct MessageHeader:  # 32 bytes
    uint16_t version
    uint16_t type
    uint32_t length  # of the whole message
    uint64_t program  # first 8 bytes of the program's hash, 0: not checked
    uint8_t id[16]
