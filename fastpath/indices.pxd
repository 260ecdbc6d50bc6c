"""What points at what in a program. Each returns True when its rule is broken."""

from libc.stdint cimport uint8_t, uint32_t

from fastpath.layout cimport ProgramView

# Every index in range, every code known, each node and window used once.
cdef bint indices_rule_6(const ProgramView* p) noexcept nogil

# Each tag of the guard decoded exactly once, from its own device; no other tag decoded.
cdef bint indices_rule_7(const ProgramView* p) noexcept nogil

# Outputs, heartbeats and leases share no address.
cdef bint indices_rule_10(const ProgramView* p) noexcept nogil

# Whether the device is there and a unit of that number can answer on it.
cdef bint unit_answers(const ProgramView* p, uint32_t device, uint8_t unit) noexcept nogil
