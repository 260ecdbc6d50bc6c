"""The evaluation from inside: damaged memory and damaged programs are unknown, never a crash."""

import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath import blob as blobs
from fastpath.codes import Op, PointType, Quality, Reason, Truth, WindowKind
from tests.helpers.blobs import SECOND, Code, conditions, guard_program

F, U, T = Truth.FALSE, Truth.UNKNOWN, Truth.TRUE
GUARD = blobs.build(guard_program())


def hysteresis() -> tuple[Code, int]:
    code = conditions(1)
    return code, code.until(code.compare(Op.GE, 0, 1.5), code.compare(Op.LT, 0, 1.0))


def on_delay() -> tuple[Code, int]:
    code = conditions(1)
    return code, code.lasting(code.compare(Op.GE, 0, 1.5), 2 * SECOND)


def off_delay() -> tuple[Code, int]:
    code = conditions(1)
    return code, code.held(code.compare(Op.GE, 0, 1.5), 2 * SECOND)


def scan_of(inside: Any, code: Code) -> Any:
    return inside.Scan(blobs.build(code.program))


def step(scan: Any, value: float | None, now_ns: int) -> None:
    """One scan with a new value; None: failed."""
    quality = Quality.BAD if value is None else Quality.GOOD
    scan.write(0, value or 0.0, quality, Reason.COMM_FAILURE, now_ns)
    assert scan.evaluate(now_ns) == 1


# ---- node memory -----------------------------------------------------------------------------


@given(
    st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_check_is_zlibs_crc32(inside: Any, key: int, low: int, high: int, flags: int) -> None:
    data = (
        key.to_bytes(8, "little")
        + low.to_bytes(8, "little", signed=True)
        + high.to_bytes(8, "little", signed=True)
        + flags.to_bytes(4, "little")
    )
    assert inside.check_of(key, low, high, flags) == zlib.crc32(data)
    assert inside.check_of(key, 0, 0, 0) == zlib.crc32(data[:8] + bytes(20))


def test_memory_is_sealed_whenever_it_changes(inside: Any) -> None:
    for make in (hysteresis, on_delay, off_delay):
        code, _ = make()
        scan = scan_of(inside, code)
        key = code.program.nodes[0].key
        for number, value in enumerate([0.5, 1.6, 1.2, None, 1.2, 0.5, 1.6, 1.7], start=1):
            step(scan, value, number * SECOND)
            low, high, flags, check = scan.node(0)
            assert check == inside.check_of(key, low, high, flags)


@pytest.mark.parametrize("lost", ["check", "by hand", "all zero"])
def test_a_lost_hysteresis_is_unknown_until_the_value_leaves_the_band(
    inside: Any, lost: str
) -> None:
    code, register = hysteresis()
    for value, expected in [(1.5, T), (0.9, F)]:
        scan = scan_of(inside, code)
        lose(scan, lost)
        step(scan, 1.2, SECOND)
        assert scan.truth(register) == U
        step(scan, value, 2 * SECOND)
        assert scan.truth(register) == expected
        step(scan, 1.2, 3 * SECOND)
        assert scan.truth(register) == expected


def lose(scan: Any, how: str) -> None:
    if how == "by hand":
        scan.lose(0)
    elif how == "check":
        scan.set_node(0, 0, 0, 1, check=12345)
    else:
        scan.set_node(0, 0, 0, 0, check=0)


@pytest.mark.parametrize("lost", ["check", "by hand", "all zero"])
def test_a_lost_on_delay_is_unknown_until_it_has_elapsed_anew(inside: Any, lost: str) -> None:
    code, register = on_delay()
    scan = scan_of(inside, code)
    lose(scan, lost)
    for at_s, value, expected in [(1, 2.0, U), (2, 2.0, U), (3, 2.0, T)]:
        step(scan, value, at_s * SECOND)
        assert scan.truth(register) == expected


@pytest.mark.parametrize("lost", ["check", "by hand", "all zero"])
def test_a_lost_on_delay_ends_at_the_first_known_false(inside: Any, lost: str) -> None:
    code, register = on_delay()
    scan = scan_of(inside, code)
    lose(scan, lost)
    for at_s, value, expected in [(1, 0.0, F), (2, 2.0, F), (3, 2.0, F), (4, 2.0, T)]:
        step(scan, value, at_s * SECOND)
        assert scan.truth(register) == expected


def test_memory_of_another_node_is_lost_memory(inside: Any) -> None:
    code, register = hysteresis()
    scan = scan_of(inside, code)
    scan.set_node(0, 0, 0, 3, check=inside.check_of(4711, 0, 0, 3))
    step(scan, 1.2, SECOND)
    assert scan.truth(register) == U


def test_a_running_on_delay_goes_on_over_a_restart(inside: Any) -> None:
    """Its time is carried; while nothing was read yet it is unknown and loses nothing."""
    code, register = on_delay()
    scan = scan_of(inside, code)
    scan.set_node(0, 5 * SECOND, 5 * SECOND, 0)
    scan.started(6 * SECOND)
    assert scan.evaluate(6 * SECOND) == 1
    assert scan.truth(register) == U
    step(scan, 2.0, 7 * SECOND)
    assert scan.truth(register) == T


def test_a_hysteresis_keeps_what_it_was_over_a_restart(inside: Any) -> None:
    code, register = hysteresis()
    scan = scan_of(inside, code)
    scan.set_node(0, 0, 0, 3)
    scan.started(SECOND)
    assert scan.evaluate(SECOND) == 1
    assert scan.truth(register) == U
    step(scan, 1.2, 2 * SECOND)
    assert scan.truth(register) == T


def test_a_start_in_the_future_is_now(inside: Any) -> None:
    code, register = on_delay()
    scan = scan_of(inside, code)
    scan.set_node(0, 50 * SECOND, 50 * SECOND, 0)
    for at_s, expected in [(1, F), (2, F), (3, T)]:
        step(scan, 2.0, at_s * SECOND)
        assert scan.truth(register) == expected


def test_runs_that_contradict_each_other_are_true(inside: Any) -> None:
    """Damage under a good check: what is surely true is true, whatever the other run says."""
    code, register = on_delay()
    scan = scan_of(inside, code)
    scan.set_node(0, SECOND, 4 * SECOND, 0)
    step(scan, 2.0, 5 * SECOND)
    assert scan.truth(register) == T


def test_a_lost_off_delay_is_unknown_for_as_long_as_it_may_have_lasted(inside: Any) -> None:
    for lost in ("check", "by hand", "all zero"):
        code, register = off_delay()
        scan = scan_of(inside, code)
        lose(scan, lost)
        for at_s, value, expected in [(1, 0.0, U), (2, 0.0, U), (3, 0.0, F), (4, 2.0, T)]:
            step(scan, value, at_s * SECOND)
            assert scan.truth(register) == expected


def test_a_running_off_delay_goes_on_over_a_restart_also_before_anything_is_read(
    inside: Any,
) -> None:
    code, register = off_delay()
    scan = scan_of(inside, code)
    scan.set_node(0, 5 * SECOND, 5 * SECOND, 0)
    scan.started(6 * SECOND)
    for now_s, expected in [(6, T), (7, U)]:
        assert scan.evaluate(now_s * SECOND) == 1
        assert scan.truth(register) == expected
    step(scan, 0.0, 8 * SECOND)
    assert scan.truth(register) == F


# ---- bypassed tags -------------------------------------------------------------------------------

A = Truth.ABSTAIN


def bypassed(inside: Any, code: Code, *slots: int) -> Any:
    """All tags 2.0 but for those that are bypassed."""
    scan = scan_of(inside, code)
    for slot in range(len(code.program.tags)):
        scan.write(slot, 2.0, Quality.GOOD, 0, SECOND)
    for slot in slots:
        scan.bypass(slot)
    assert scan.evaluate(SECOND) == 1
    return scan


def test_what_rests_on_a_bypassed_tag_abstains(inside: Any) -> None:
    code = conditions(2)
    x, y = code.tag(0), code.tag(1)
    numbers = [code.op(op, x, y) for op in (Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MIN, Op.MAX)]
    numbers += [code.op(op, x) for op in (Op.NEG, Op.ABS)]
    truths = [code.op(op, y, x) for op in (Op.LT, Op.LE, Op.GT, Op.GE, Op.EQ, Op.NE)]
    truths += [code.op(op, x) for op in (Op.BOOL, Op.IS_BAD, Op.IS_GOOD)]
    truths += [code.op(Op.GT, number, code.const(0.0)) for number in numbers]
    truths += [code.op(Op.NOT, truths[0]), code.op(Op.AND, truths[0], truths[1])]
    truths += [code.lasting(truths[0], SECOND), code.held(truths[0], SECOND)]
    known = code.compare(Op.GT, 1, 1.0)
    truths += [code.until(truths[0], known), code.until(known, truths[0])]
    scan = bypassed(inside, code, 0)
    assert [scan.truth(register) for register in truths] == [A] * len(truths)
    assert [scan.bad(register) for register in numbers] == [1] * len(numbers)
    assert not any(scan.starting(register) for register in truths)


@pytest.mark.parametrize("op", [Op.AND, Op.OR])
@pytest.mark.parametrize(("value", "expected"), [(2.0, T), (0.0, F), (None, U)])
def test_and_and_or_leave_out_what_abstains(
    inside: Any, op: Op, value: float | None, expected: Truth
) -> None:
    code = conditions(2)
    a, b = code.compare(Op.GT, 0, 1.0), code.compare(Op.GT, 1, 1.0)
    registers = [code.op(op, a, b), code.op(op, b, a)]
    scan = bypassed(inside, code, 0)
    quality = Quality.BAD if value is None else Quality.GOOD
    scan.write(1, value or 0.0, quality, 0, 2 * SECOND)
    assert scan.evaluate(2 * SECOND) == 1
    assert [scan.truth(register) for register in registers] == [expected] * 2
    assert [scan.deciding(register) for register in registers] == [1] * 2


@pytest.mark.parametrize(
    ("least", "values", "out", "left", "trip"),
    [
        (2, (2, 2, 0), [2], T, T), (2, (2, 0, 0), [2], F, T), (2, (2, 0, 0), [0], F, F),
        (2, (2, 0, 0), [1, 2], T, T), (2, (0, 0, 0), [1, 2], F, T), (2, (0, 0, 0), [0], F, F),
        (2, (None, 0, 0), [1], F, U), (2, (None, 2, 0), [2], U, T), (3, (2, 2, 2), [0], T, T),
        (1, (0, 0, 0), [0, 1, 2], A, T), (3, (2, 2, 0), [0, 1], F, F),
    ],
)  # fmt: skip
def test_votes_without_those_that_abstain_or_with_them_as_true(
    inside: Any, least: int, values: tuple[float | None, ...], out: list[int], left: Truth,
    trip: Truth,
) -> None:  # fmt: skip
    """2oo3 becomes 2oo2; with bypass_votes = "trip" it becomes 1oo2."""
    code = conditions(3)
    votes = [code.compare(Op.GT, slot, 1.0) for slot in range(3)]
    registers = [code.moon(least, votes), code.moon(least, votes, vote=Op.VOTE_TRIP)]
    scan = bypassed(inside, code, *out)
    for slot, value in enumerate(values):
        quality = Quality.BAD if value is None else Quality.GOOD
        scan.write(slot, value or 0.0, quality, 0, 2 * SECOND)
    assert scan.evaluate(2 * SECOND) == 1
    assert [scan.truth(register) for register in registers] == [left, trip]


def test_the_first_vote_that_counts_leads(inside: Any) -> None:
    code = conditions(3)
    count = code.moon(1, [code.compare(Op.GT, slot, 5.0) for slot in range(3)])
    assert bypassed(inside, code, 0).deciding(count) == 1


def test_a_bypass_leaves_the_memory_of_nodes_and_the_samples_of_windows(inside: Any) -> None:
    code = conditions(1)
    high = code.compare(Op.GE, 0, 1.5)
    band = code.until(high, code.compare(Op.LT, 0, 1.0))
    long_on, long_off = code.lasting(high, 3 * SECOND), code.held(high, 3 * SECOND)
    least = code.op(Op.GT, code.window(WindowKind.LOWEST, 0, SECOND), code.const(1.0))
    registers = [band, long_on, long_off, least]
    scan = scan_of(inside, code)
    step(scan, 2.0, SECOND)
    nodes = [scan.node(i) for i in range(3)]
    scan.bypass(0)
    for at_s in (2, 3):
        step(scan, 1.2, at_s * SECOND)
        assert [scan.truth(register) for register in registers] == [A] * 4
    assert [scan.node(i) for i in range(3)] == nodes
    scan.bypass(0, on=False)
    step(scan, 1.2, 3 * SECOND)
    assert [scan.truth(register) for register in registers] == [T, F, T, T]


# ---- the start grace -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started_ns", "now_ns", "expected"),
    [(0, 10**15, U), (SECOND, 6 * SECOND - 1, U), (SECOND, 6 * SECOND, T)],
)
def test_how_long_never_read_excuses(
    inside: Any, started_ns: int, now_ns: int, expected: Truth
) -> None:
    code = conditions(1, start_within_ns=5 * SECOND)
    register = code.op(Op.IS_BAD, code.tag(0))
    scan = scan_of(inside, code)
    scan.started(started_ns)
    assert scan.evaluate(now_ns) == 1
    assert scan.truth(register) == expected


def test_a_slot_that_cannot_be_read_is_bad(inside: Any) -> None:
    code = conditions(1)
    register = code.op(Op.IS_BAD, code.tag(0))
    scan = scan_of(inside, code)
    step(scan, 1.0, SECOND)
    assert scan.truth(register) == F
    scan.hold_lock(0)
    assert scan.evaluate(2 * SECOND) == 1
    assert scan.truth(register) == T
    step(scan, 1.0, 3 * SECOND)
    assert scan.truth(register) == F


# ---- damaged programs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "a", "b", "imm"),
    [(0, 0, 0, 0.0), (Op.HOLD, 2, 0, 2.0), (29, 0, 0, 0.0), (65535, 0, 0, 0.0),
     (Op.TAG, 3, 0, 0.0), (Op.TAG, 65535, 0, 0.0), (Op.ADD, 0, 65535, 0.0),
     (Op.ADD, 13, 0, 0.0), (Op.LT, 65535, 0, 0.0), (Op.NOT, 13, 0, 0.0), (Op.AND, 2, 14, 0.0),
     (Op.VOTE, 13, 2, 0.0), (Op.VOTE, 65535, 13, 0.0), (Op.MOON, 65535, 1, 1.0),
     (Op.FOR, 2, 0, 2.0), (Op.FOR, 2, 0, -1.0), (Op.FOR, 2, 0, float("nan")),
     (Op.FOR, 2, 0, 1e300), (Op.WINDOW, 0, 0, 0.0), (Op.VOTE_TRIP, 13, 2, 0.0),
     (Op.HOLD, 13, 0, 0.0), (Op.UNTIL, 2, 5, float("inf")), (Op.UNTIL, 2, 65535, 0.0)],
)  # fmt: skip
def test_an_instruction_that_reaches_outside_is_a_fault_and_unknown(
    inside: Any, op: int, a: int, b: int, imm: float
) -> None:
    scan = inside.Scan(GUARD)
    step_guard(scan)
    assert scan.evaluate(SECOND) == 1
    scan.patch(13, op, a, b, imm)
    assert scan.evaluate(SECOND + 1) == 0
    assert (scan.truth(13), scan.bad(13)) == (U, 1)
    assert scan.truth(2) == T  # the others go on


def step_guard(scan: Any) -> None:
    scan.write(0, 2.0, Quality.GOOD, 0, SECOND)
    scan.write(1, 1.0, Quality.GOOD, 0, SECOND)


def test_what_reads_a_fault_is_unknown(inside: Any) -> None:
    code = conditions(2)
    broken = code.compare(Op.GT, 0, 1.0)
    negated, votes = code.op(Op.NOT, broken), code.moon(1, [broken])
    scan = scan_of(inside, code)
    scan.write(0, 2.0, Quality.GOOD, 0, 1)
    assert scan.evaluate(1) == 1
    assert (scan.truth(negated), scan.truth(votes)) == (F, T)
    scan.patch(0, Op.TAG, 2, 0, 0.0)
    assert scan.evaluate(2) == 0
    assert [scan.truth(r) for r in (broken, negated, votes)] == [U, U, U]


# ---- the C side of verify, open and decode ---------------------------------------------------


def test_a_blob_off_its_alignment_is_refused(inside: Any) -> None:
    assert inside.verify_at(GUARD, 0) == 0
    for shift in (1, 2, 4, 7):
        assert inside.verify_at(GUARD, shift) == 1
    assert inside.verify_nothing(4096) == 1


def test_opening_what_is_no_program_gives_an_empty_one(inside: Any) -> None:
    assert inside.opened(GUARD) == (1, 3, True)
    for blob in (b"", GUARD[:-64], b"X" + GUARD[1:], bytes(len(GUARD))):
        assert inside.opened(blob) == (0, 0, False)


@pytest.mark.parametrize(
    ("kind", "order", "at", "size"),
    [(0, 1, 0, 8), (11, 1, 0, 8), (255, 1, 0, 8), (PointType.INT16, 0, 0, 8),
     (PointType.INT16, 5, 0, 8), (PointType.INT64, 1, 1, 8), (PointType.INT16, 1, 65535, 8),
     (PointType.BOOL, 1, 64, 8), (PointType.BOOL, 1, 0, 0), (PointType.INT16, 1, 0, -1)],
)  # fmt: skip
def test_a_point_that_is_none_is_a_device_failure(
    inside: Any, kind: int, order: int, at: int, size: int
) -> None:
    failure = (0, Quality.BAD, Reason.DEVICE_FAILURE)
    assert inside.decode_raw(kind, order, at, bytes(8), size) == failure
