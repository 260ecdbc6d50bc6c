"""The program, whole: what other modules of the scan thread cimport of it."""

from fastpath.evaluate cimport (
    Register,
    node_begin,
    node_check,
    node_lose,
    program_evaluate,
    truth_of,
)
from fastpath.layout cimport (
    _REG_COUNT,
    _REG_NUMBER,
    _REG_TRUTH,
    ProgramView,
    program_open,
)
from fastpath.verify cimport program_verify
