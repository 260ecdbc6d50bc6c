"""The program blob: typed pointers into it, and the rules of its layout."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastpath.types cimport (
    DecodeDef,
    DeviceDef,
    EffectDef,
    FallbackDef,
    GroupDef,
    InstructionDef,
    InterlockDef,
    LegDef,
    NodeDef,
    OutputDef,
    RequestDef,
    TagDef,
    WindowDef,
)

cdef enum:  # kinds of register
    _REG_NUMBER = 1
    _REG_TRUTH = 2
    _REG_COUNT = 3

cdef struct ProgramView:
    const TagDef* tags
    const InstructionDef* code
    const NodeDef* nodes
    const WindowDef* windows
    const InterlockDef* interlocks
    const EffectDef* effects
    const LegDef* legs
    const OutputDef* outputs
    const FallbackDef* fallbacks
    const GroupDef* groups
    const DeviceDef* devices
    const RequestDef* requests
    const DecodeDef* decode
    const uint8_t* names
    const uint32_t* seals  # node_seal of each node; set by whoever runs it
    uint32_t tag_count
    uint32_t code_count
    uint32_t node_count
    uint32_t window_count
    uint32_t interlock_count
    uint32_t effect_count
    uint32_t leg_count
    uint32_t output_count
    uint32_t fallback_count
    uint32_t group_count
    uint32_t device_count
    uint32_t request_count
    uint32_t decode_count
    uint32_t names_bytes
    uint64_t site_key
    int64_t tick_ns
    int64_t start_within_ns
    # Monotonic: when this program began to run. Until start_within_ns later a tag that was never
    # read makes what is above it ``starting``; 0: without that end. Set by whoever runs it.
    int64_t started_ns
    uint8_t on_overrun
    uint8_t on_stop
    uint8_t on_output_failure
    uint8_t hash[32]

# Fills ``view`` from a blob that was verified; the blob must stay where it is (8-byte aligned).
# Returns 1, or 0 when it is none: ``view`` is then an empty program.
cdef int program_open(const uint8_t* blob, size_t size, ProgramView* view) noexcept nogil

# 0: rules 1 (but the hash) and 2 hold; else the number of the one that does not.
cdef int layout_rule(const uint8_t* blob, size_t size) noexcept nogil

# Whether the padding within the records is zero (rule 2): a later version's fields stand there.
cdef bint records_padded(const ProgramView* p) noexcept nogil

# _REG_* that an operation writes, 0 for an unknown one.
cdef int op_result(int op) noexcept nogil
