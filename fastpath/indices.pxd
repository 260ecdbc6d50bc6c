"""What points at what in a program. Each returns True when its rule is broken."""

from fastpath.layout cimport ProgramView

# Every index in range, every code known, each node used once.
cdef bint indices_rule_6(const ProgramView* p) noexcept nogil

# Each tag of the guard decoded exactly once, from its own device; no other tag decoded.
cdef bint indices_rule_7(const ProgramView* p) noexcept nogil

# No two outputs, no output and heartbeat, no two heartbeats on one address.
cdef bint indices_rule_10(const ProgramView* p) noexcept nogil
