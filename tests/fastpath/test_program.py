"""What conditions mean: three-valued logic, hysteresis, on-delay, votes, bad and stale inputs."""

import copy
import itertools
import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import blob as blobs
from fastpath.codes import NONE_U32, Op, Quality, Reason, TagFlag, Truth
from fastpath.messages import SAMPLE
from fastpath.program import BlobRefused, Conditions
from tests.helpers.blobs import MS, SECOND, Code, conditions, guard_program

F, U, T = Truth.FALSE, Truth.UNKNOWN, Truth.TRUE
GOOD, UNCERTAIN, BAD = Quality.GOOD, Quality.UNCERTAIN, Quality.BAD


def built(code: Code) -> Conditions:
    return Conditions(blobs.build(code.program))


def put(runs: Conditions, slot: int, value: float | None, mono_ns: int = 0) -> None:
    """Store a GOOD value, or with None a failed one."""
    if value is None:
        runs.write(slot, math.nan, BAD, Reason.COMM_FAILURE, mono_ns)
    else:
        runs.write(slot, value, GOOD, 0, mono_ns)


def truths(values: tuple[Truth, ...]) -> tuple[Code, list[int]]:
    """A program with a boolean tag per value, and its registers."""
    code = conditions(len(values))
    return code, [code.op(Op.BOOL, code.tag(slot)) for slot in range(len(values))]


def result(code: Code, register: int, values: tuple[Truth, ...]) -> Truth:
    """One register after one scan with boolean tags of these values."""
    runs = built(code)
    for slot, value in enumerate(values):
        put(runs, slot, None if value == U else float(value == T))
    runs.evaluate(1)
    return Truth(runs.truth(register))


# ---- Kleene's logic --------------------------------------------------------------------------

three = st.sampled_from([F, U, T])
NEGATED = {F: T, U: U, T: F}


@pytest.mark.parametrize("a", [F, U, T])
def test_not(a: Truth) -> None:
    code, (x,) = truths((a,))
    assert result(code, code.op(Op.NOT, x), (a,)) == NEGATED[a]


@pytest.mark.parametrize(("a", "b"), list(itertools.product([F, U, T], repeat=2)))
def test_and_or(a: Truth, b: Truth) -> None:
    both = F if F in (a, b) else U if U in (a, b) else T
    either = T if T in (a, b) else U if U in (a, b) else F
    code, (x, y) = truths((a, b))
    assert result(code, code.op(Op.AND, x, y), (a, b)) == both
    assert result(code, code.op(Op.OR, x, y), (a, b)) == either


@given(three, three, three)
def test_the_laws_hold(a: Truth, b: Truth, c: Truth) -> None:
    """Kleene's logic is a De Morgan lattice: both sides of each law are equal whatever comes."""
    code, (x, y, z) = truths((a, b, c))

    def no(p: int) -> int:
        return code.op(Op.NOT, p)

    def both(p: int, q: int) -> int:
        return code.op(Op.AND, p, q)

    def either(p: int, q: int) -> int:
        return code.op(Op.OR, p, q)

    laws = [
        (no(no(x)), x),
        (no(both(x, y)), either(no(x), no(y))),
        (no(either(x, y)), both(no(x), no(y))),
        (both(x, y), both(y, x)),
        (either(x, y), either(y, x)),
        (both(x, both(y, z)), both(both(x, y), z)),
        (either(x, either(y, z)), either(either(x, y), z)),
        (both(x, either(y, z)), either(both(x, y), both(x, z))),
        (either(x, both(y, z)), both(either(x, y), either(x, z))),
        (both(x, either(x, y)), x),
        (either(x, both(x, y)), x),
        (both(x, code.op(Op.TRUE)), x),
        (either(x, code.op(Op.FALSE)), x),
        (both(x, code.op(Op.FALSE)), code.op(Op.FALSE)),
        (either(x, code.op(Op.TRUE)), code.op(Op.TRUE)),
    ]
    for left, right in laws:
        assert result(code, left, (a, b, c)) == result(code, right, (a, b, c))


@pytest.mark.parametrize(("least", "count"), [(m, n) for n in range(1, 6) for m in range(1, n + 1)])
def test_m_out_of_n(least: int, count: int) -> None:
    """True with M known true, false when M cannot be reached, else unknown: all ways."""
    code, registers = truths((F,) * count)
    register = code.moon(least, registers)
    runs = built(code)
    for values in itertools.product([F, U, T], repeat=count):
        for slot, value in enumerate(values):
            put(runs, slot, None if value == U else float(value == T))
        runs.evaluate(1)
        t, u = values.count(T), values.count(U)
        expected = T if t >= least else F if t + u < least else U
        assert runs.truth(register) == expected, values


def test_32_votes() -> None:
    code, registers = truths((F,) * 32)
    register = code.moon(31, registers)
    assert result(code, register, (T,) * 31 + (F,)) == T
    assert result(code, register, (T,) * 30 + (U,) * 2) == U
    assert result(code, register, (T,) * 30 + (F,) * 2) == F


@given(st.lists(st.tuples(st.sampled_from([F, T]), st.booleans()), min_size=3, max_size=3))
def test_losing_an_input_never_turns_a_known_result_into_its_opposite(
    inputs: list[tuple[Truth, bool]],
) -> None:
    known = tuple(value for value, _ in inputs)
    worse = tuple(U if lost else value for value, lost in inputs)
    code, registers = truths(known)
    for register in [
        code.moon(2, registers),
        code.op(Op.OR, code.op(Op.AND, registers[0], registers[1]), code.op(Op.NOT, registers[2])),
    ]:
        assert result(code, register, worse) in (U, result(code, register, known))


# ---- numbers ---------------------------------------------------------------------------------

OPERATIONS = {Op.ADD: "a + b", Op.SUB: "a - b", Op.MUL: "a * b", Op.MIN: "min(a, b)",
              Op.MAX: "max(a, b)"}  # fmt: skip
COMPARISONS = {Op.LT: "a < b", Op.LE: "a <= b", Op.GT: "a > b", Op.GE: "a >= b",
               Op.EQ: "a == b", Op.NE: "a != b"}  # fmt: skip
numbers = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-3, 3).map(float))


@given(numbers, numbers)
def test_arithmetic_and_comparisons(a: float, b: float) -> None:
    code = conditions(2)
    x, y = code.tag(0), code.tag(1)
    arithmetic = {op: code.op(op, x, y) for op in (*OPERATIONS, Op.DIV)}
    compared = {op: code.op(op, x, y) for op in COMPARISONS}
    negative, absolute = code.op(Op.NEG, x), code.op(Op.ABS, x)
    runs = built(code)
    put(runs, 0, a)
    put(runs, 1, b)
    runs.evaluate(1)
    for op, register in arithmetic.items():
        text = OPERATIONS.get(op, "a / b if b else nan")
        expected = eval(text, {"a": a, "b": b, "nan": math.nan, "min": min, "max": max})  # noqa: S307
        value, quality = runs.number(register)
        if math.isfinite(expected):
            assert (value, quality) == (expected, GOOD)
        else:
            assert math.isnan(value)
            assert quality == BAD
    for op, register in compared.items():
        assert runs.truth(register) == (T if eval(COMPARISONS[op], {"a": a, "b": b}) else F)  # noqa: S307
    assert runs.number(negative)[0] == -a
    assert runs.number(absolute)[0] == abs(a)


@pytest.mark.parametrize(
    ("op", "a", "b"),
    [(Op.DIV, 1.0, 0.0), (Op.DIV, 0.0, 0.0), (Op.DIV, 1.0, -0.0), (Op.MUL, 1e300, 1e300),
     (Op.ADD, 1.7e308, 1.7e308), (Op.DIV, 1e300, 1e-300)],
)  # fmt: skip
def test_what_is_no_number_is_bad_and_its_comparisons_unknown(op: Op, a: float, b: float) -> None:
    code = conditions(2)
    register = code.op(op, code.tag(0), code.tag(1))
    above = code.op(Op.GT, register, code.const(0.0))
    is_bad = code.op(Op.IS_BAD, register)
    runs = built(code)
    put(runs, 0, a)
    put(runs, 1, b)
    runs.evaluate(1)
    assert runs.number(register)[1] == BAD
    assert (runs.truth(above), runs.truth(is_bad)) == (U, T)


@pytest.mark.parametrize("op", [*OPERATIONS, Op.DIV])
@pytest.mark.parametrize("lost", [0, 1])
def test_one_bad_operand_makes_the_result_bad(op: Op, lost: int) -> None:
    code = conditions(2)
    register = code.op(op, code.tag(0), code.tag(1))
    runs = built(code)
    put(runs, 1 - lost, 1.0)
    put(runs, lost, None)
    runs.evaluate(1)
    assert runs.number(register)[1] == BAD


def test_a_value_that_is_no_number_is_bad_whatever_its_quality_says() -> None:
    code = conditions(1)
    register = code.tag(0)
    runs = built(code)
    for value in (math.nan, math.inf, -math.inf):
        put(runs, 0, value)
        runs.evaluate(1)
        assert runs.number(register)[1] == BAD


# ---- qualities -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "flags", "usable"),
    [(GOOD, 0, True), (UNCERTAIN, 0, False), (UNCERTAIN, TagFlag.UNCERTAIN_USE, True),
     (BAD, TagFlag.UNCERTAIN_USE, False), (3, TagFlag.UNCERTAIN_USE, False)],
)  # fmt: skip
def test_which_qualities_a_condition_uses(quality: int, flags: int, usable: bool) -> None:
    code = conditions(1, flags=flags)
    above = code.compare(Op.GT, 0, 1.0)
    is_bad, is_good = code.op(Op.IS_BAD, 0), code.op(Op.IS_GOOD, 0)
    runs = built(code)
    runs.write(0, 2.0, quality, Reason.STUCK, 1)
    runs.evaluate(1)
    assert runs.truth(above) == (T if usable else U)
    assert runs.truth(is_bad) == (F if usable else T)
    assert runs.truth(is_good) == (T if usable else F)


def test_stale_is_older_than_stale_after() -> None:
    code = conditions(1, stale_after_ns=500 * MS)
    above = code.compare(Op.GT, 0, 1.0)
    runs = built(code)
    put(runs, 0, 2.0, mono_ns=SECOND)
    for now_ns, expected in [(SECOND, T), (1500 * MS, T), (1500 * MS + 1, U)]:
        runs.evaluate(now_ns)
        assert runs.truth(above) == expected
    put(runs, 0, 2.0, mono_ns=1500 * MS + 1)
    runs.evaluate(1500 * MS + 1)
    assert runs.truth(above) == T


def test_without_stale_after_a_value_never_goes_stale() -> None:
    code = conditions(1)
    above = code.compare(Op.GT, 0, 1.0)
    runs = built(code)
    put(runs, 0, 2.0)
    runs.evaluate(10**18)
    assert runs.truth(above) == T


def test_while_starting_what_was_never_read_is_unknown_even_as_bad() -> None:
    code = conditions(2, start_within_ns=5 * SECOND)
    is_bad, is_good = code.op(Op.IS_BAD, code.tag(0)), code.op(Op.IS_GOOD, 0)
    other = code.compare(Op.GT, 1, 0.0)
    either = code.op(Op.OR, is_bad, other)
    runs = built(code)
    put(runs, 1, 1.0)
    runs.evaluate(SECOND)
    assert (runs.truth(is_bad), runs.truth(is_good), runs.truth(either)) == (U, U, T)
    assert [runs.starting(r) for r in (is_bad, is_good, either, other)] == [1, 1, 1, 0]
    runs.evaluate(6 * SECOND - 1)
    assert runs.truth(is_bad) == U
    runs.evaluate(6 * SECOND)  # it had its time to come
    assert (runs.truth(is_bad), runs.truth(is_good), runs.starting(either)) == (T, F, False)


def test_a_failed_input_is_not_starting() -> None:
    code = conditions(1)
    is_bad = code.op(Op.IS_BAD, code.tag(0))
    runs = built(code)
    put(runs, 0, None)
    runs.evaluate(1)
    assert (runs.truth(is_bad), runs.starting(is_bad)) == (T, False)


# ---- until -----------------------------------------------------------------------------------


def hysteresis() -> tuple[Conditions, int]:
    """ch4 >= 1.5 until < 1.0"""
    code = conditions(1)
    register = code.until(code.compare(Op.GE, 0, 1.5), code.compare(Op.LT, 0, 1.0))
    return built(code), register


@pytest.mark.parametrize(
    "story",
    [
        [(1.2, F), (1.5, T), (1.2, T), (1.0, T), (0.99, F), (1.2, F)],
        [(1.6, T), (None, U), (1.2, U), (0.9, F), (1.2, F)],
        [(0.5, F), (None, U), (1.2, U), (1.5, T), (1.2, T)],
        [(1.6, T), (None, U), (1.7, T)],
        [(None, U), (None, U), (1.2, U), (None, U), (0.5, F)],
    ],
    ids=["in and out", "lost while set", "lost while clear", "back outside", "lost from the start"],
)
def test_hysteresis(story: list[tuple[float | None, Truth]]) -> None:
    runs, register = hysteresis()
    for scan, (value, expected) in enumerate(story, start=1):
        put(runs, 0, value)
        runs.evaluate(scan)
        assert runs.truth(register) == expected, (scan, value)


def test_hysteresis_of_a_tag_never_read_has_an_innocent_past() -> None:
    runs, register = hysteresis()
    for scan in range(1, 4):
        runs.evaluate(scan)
        assert runs.truth(register) == U
    put(runs, 0, 1.2)
    runs.evaluate(5)
    assert runs.truth(register) == F


def test_set_wins_over_clear() -> None:
    code, (on, off) = truths((F, F))
    register = code.until(on, off)
    runs = built(code)
    for pair, expected in [((1, 1), T), ((0, 0), T), ((0, 1), F), ((1, 1), T)]:
        put(runs, 0, pair[0])
        put(runs, 1, pair[1])
        runs.evaluate(1)
        assert runs.truth(register) == expected


# ---- for -------------------------------------------------------------------------------------


def on_delay(duration_ns: int = 2 * SECOND) -> tuple[Conditions, int]:
    code, (x,) = truths((F,))
    register = code.lasting(x, duration_ns)
    return built(code), register


@pytest.mark.parametrize(
    "story",
    [
        [(0, 1, F), (1, 1, F), (2, 1, T), (9, 1, T), (10, 0, F), (11, 1, F), (13, 1, T)],
        [(0, 1, F), (1, 0, F), (2, 1, F), (3, 1, F), (4, 1, T)],
        [(0, None, F), (1, None, F), (2, None, U), (3, 0, F)],
        [(0, None, F), (1, 1, F), (2, 1, U), (3, 1, T)],
        [(0, 1, F), (1, None, F), (2, None, U), (3, 1, U), (5, 1, T)],
        [(0, 1, F), (2, 1, T), (3, None, U), (4, 1, U), (6, 1, T)],
    ],
    ids=["true", "broken", "lost for long", "known late", "lost inside", "lost after"],
)
def test_on_delay(story: list[tuple[int, float | None, Truth]]) -> None:
    """Two runs, with unknown as false and as true: they agree, or it is unknown."""
    runs, register = on_delay()
    for at_s, value, expected in story:
        put(runs, 0, value)
        runs.evaluate(SECOND + at_s * SECOND)
        assert runs.truth(register) == expected, (at_s, value)


def test_an_on_delay_is_over_at_its_end() -> None:
    runs, register = on_delay(300 * MS)
    put(runs, 0, 1)
    for now_ns, expected in [(SECOND, F), (SECOND + 300 * MS - 1, F), (SECOND + 300 * MS, T)]:
        runs.evaluate(now_ns)
        assert runs.truth(register) == expected


def test_an_on_delay_of_nothing() -> None:
    runs, register = on_delay(0)
    put(runs, 0, 1)
    runs.evaluate(1)
    assert runs.truth(register) == T


def test_an_on_delay_of_what_was_never_read_is_unknown_and_starts_with_the_first_reading() -> None:
    runs, register = on_delay()
    for at_s in range(1, 5):
        runs.evaluate(at_s * SECOND)
        assert runs.truth(register) == U
    put(runs, 0, 1)
    for at_s, expected in [(5, F), (6, F), (7, T)]:
        runs.evaluate(at_s * SECOND)
        assert runs.truth(register) == expected


def test_time_never_goes_back() -> None:
    runs, register = on_delay()
    put(runs, 0, 1)
    for now_s, expected in [(10, F), (11, F), (5, F), (12, T), (1, T)]:
        runs.evaluate(now_s * SECOND)
        assert runs.truth(register) == expected


# ---- hold ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "story",
    [
        [(0, 0, F), (1, 1, T), (2, 0, T), (2.99, 0, T), (3, 0, F), (9, 0, F)],
        [(0, 1, T), (1, 0, T), (1.5, 1, T), (3, 0, T), (3.5, 0, F)],
        [(0, None, U), (1, 0, U), (2, 0, F)],
        [(0, 1, T), (1, None, T), (2, None, U), (2.5, 0, U), (4, 0, F)],
        [(0, None, U), (1, 1, T), (2, 0, T), (3, 0, F)],
    ],
    ids=["off", "again", "lost at first", "lost inside", "known late"],
)
def test_off_delay(story: list[tuple[float, float | None, Truth]]) -> None:
    """True while it is, and for the duration after it last was; two runs, or unknown."""
    code, (x,) = truths((F,))
    register = code.held(x, 2 * SECOND)
    runs = built(code)
    for at_s, value, expected in story:
        put(runs, 0, value)
        runs.evaluate(SECOND + int(at_s * SECOND))
        assert runs.truth(register) == expected, (at_s, value)


def test_an_off_delay_of_what_was_never_read_is_unknown() -> None:
    code, (x,) = truths((F,))
    register = code.held(x, 2 * SECOND)
    runs = built(code)
    runs.evaluate(SECOND)
    assert runs.truth(register) == U
    put(runs, 0, 0)
    runs.evaluate(2 * SECOND)
    assert runs.truth(register) == F


# ---- the Python side -------------------------------------------------------------------------


def sample(slot: int, value: float, mono_ns: int, quality: int = GOOD) -> bytes:
    return SAMPLE.pack(slot, quality, 0, 0, value, mono_ns, mono_ns + 7)


def watching(slots: list[int]) -> tuple[Conditions, int, int]:
    code = conditions(2)
    high, low = code.compare(Op.GT, 0, 1.0), code.compare(Op.LT, 1, 0.0)
    runs = built(code)
    runs.watch([low, high], array("I", slots))
    return runs, high, low


def test_feed_reports_every_change_of_a_watched_register() -> None:
    runs, high, low = watching([NONE_U32, 1, 0])
    assert runs.feed(b"") == []
    assert runs.feed(sample(2, 0.0, 10)) == [(10, 17, high, F)]
    assert runs.feed(sample(2, 2.0, 20) + sample(2, 0.5, 30) + sample(2, 0.6, 40)) == [
        (20, 27, high, T),
        (30, 37, high, F),
    ]
    assert runs.feed(sample(1, 0.0, 50) + sample(2, 3.0, 50)) == [
        (50, 57, low, F),
        (50, 57, high, T),
    ]
    assert runs.feed(sample(2, 3.0, 60, BAD)) == [(60, 67, high, U)]


def test_feed_evaluates_samples_of_one_time_together() -> None:
    runs, high, _ = watching([0, 1])
    assert runs.feed(sample(0, 2.0, 10) + sample(0, 0.0, 10)) == [(10, 17, high, F)]


def test_feed_leaves_out_what_is_not_of_this_program() -> None:
    runs, high, _ = watching([NONE_U32, NONE_U32, 0, 77])
    assert runs.feed(sample(0, 2.0, 10) + sample(3, 2.0, 11) + sample(9, 2.0, 12)) == []
    assert runs.feed(sample(2, 2.0, 13)) == [(13, 20, high, T)]


def test_feed_takes_whole_samples_alone() -> None:
    runs, _, _ = watching([0, 1])
    with pytest.raises(ValueError, match="whole"):
        runs.feed(bytes(31))


def test_feed_before_watch_reports_nothing() -> None:
    code = conditions(1)
    code.compare(Op.GT, 0, 1.0)
    assert built(code).feed(sample(0, 2.0, 10)) == []


def test_advance_lets_time_pass_without_samples() -> None:
    code = conditions(1)
    register = code.lasting(code.compare(Op.GT, 0, 1.0), 2 * SECOND)
    runs = built(code)
    runs.watch([register], array("I", [0]))
    assert runs.feed(sample(0, 2.0, SECOND)) == [(SECOND, SECOND + 7, register, F)]
    assert runs.advance(2 * SECOND, 1) == []
    assert runs.advance(3 * SECOND, 99) == [(3 * SECOND, 99, register, T)]


def test_watching_anew_starts_from_unknown() -> None:
    runs, high, _ = watching([0, 1])
    runs.feed(sample(0, 2.0, 10))
    runs.watch([high], array("I", [0]))
    assert runs.feed(sample(0, 2.0, 20)) == [(20, 27, high, T)]


def test_registers_of_another_kind() -> None:
    code = conditions(1)
    number, truth = code.tag(0), code.op(Op.TRUE)
    runs = built(code)
    with pytest.raises(ValueError, match="kind"):
        runs.truth(number)
    with pytest.raises(ValueError, match="kind"):
        runs.number(truth)
    with pytest.raises(ValueError, match="kind"):
        runs.watch([number], array("I", [0]))
    for look in (runs.truth, runs.number, runs.starting, runs.deciding):
        with pytest.raises(IndexError):
            look(2)
    with pytest.raises(IndexError):
        runs.write(1, 0.0, 2, 0, 0)


def test_before_the_first_scan_everything_is_unknown() -> None:
    code = conditions(1)
    number, truth = code.tag(0), code.op(Op.TRUE)
    runs = built(code)
    assert runs.truth(truth) == U
    assert runs.number(number)[1] == BAD


def test_the_tag_that_decides() -> None:
    code = conditions(4)
    legs = [code.compare(Op.GT, slot, 1.0) for slot in range(3)]
    count = code.moon(2, legs)
    flipped = code.op(Op.LT, code.const(1.0), code.tag(3))
    either = code.op(Op.OR, count, flipped)
    both = code.op(Op.AND, count, flipped)
    constant = code.op(Op.TRUE)
    runs = built(code)
    for slot, value in enumerate([0.0, 2.0, 2.0, 0.0]):
        put(runs, slot, value)
    runs.evaluate(1)
    assert [runs.deciding(leg) for leg in legs] == [0, 1, 2]
    assert runs.deciding(count) == 1  # the first vote that is true
    assert (runs.deciding(flipped), runs.deciding(constant)) == (3, NONE_U32)
    assert (runs.deciding(either), runs.deciding(both)) == (1, 3)


def test_a_refused_program_has_no_conditions() -> None:
    with pytest.raises(BlobRefused) as refused:
        Conditions(b"nothing")
    assert refused.value.rule == 1
    again = copy.copy(refused.value)
    assert (again.rule, str(again)) == (1, str(refused.value))


def test_the_program_of_the_guard_runs_here_too() -> None:
    blob = blobs.build(guard_program())
    cause = guard_program().interlocks[0].cause
    runs = Conditions(blob)
    runs.write(0, 2.0, GOOD, 0, SECOND)
    runs.write(1, 1.0, GOOD, 0, SECOND)
    runs.evaluate(SECOND)
    assert runs.truth(cause) == T
