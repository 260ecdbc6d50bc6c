"""Windows: what they tell of samples, gaps and time, held to a list of all samples ever."""

import math
import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastpath import blob as blobs
from fastpath.codes import NONE_U32, Op, Quality, Reason, TagFlag, Truth, WindowKind
from fastpath.messages import SAMPLE
from fastpath.program import Conditions
from tests.helpers.blobs import MS, SECOND, Code, conditions

SPAN = 64 * MS  # a bucket is a millisecond
STALE = 20 * MS
KINDS = list(WindowKind)
BASE = 1_000 * SECOND


@dataclass
class Naive:
    """A window that keeps everything and looks at all of it, every time."""

    kind: WindowKind
    span_ns: int = SPAN
    stale_ns: int = 0
    limits: tuple[float, float] | None = None
    samples: list[tuple[int, float | None]] = field(default_factory=list)
    touches: list[int] = field(default_factory=list)

    def take(self, at_ns: int, value: float | None) -> None:
        """A sample; None is a bad one."""
        self.samples.append((at_ns, value))

    def held(self, now_ns: int) -> list[tuple[int, int, float]]:
        """When a good value counted, and which."""
        out = []
        ends = [at for at, _ in self.samples[1:]] + [now_ns]
        for (at, value), end in zip(self.samples, ends, strict=False):
            if value is None:
                continue
            proofs = [at, *(t for t in self.touches if at < t <= end)]
            for proof, until in zip(proofs, [*proofs[1:], end], strict=True):
                stale = proof + self.stale_ns if self.stale_ns else until
                out.append((proof, min(until, stale), value))
        return out

    def tell(self, now_ns: int) -> float | None:
        """What it tells, None while it is not covered."""
        width = self.span_ns // 64
        start = (now_ns // width - 63) * width
        pieces = [(max(a, start), b, v) for a, b, v in self.held(now_ns) if b > max(a, start)]
        covered = sum(b - a for a, b, _ in pieces)
        if covered < 0.8 * self.span_ns:
            return None
        inside = [(at, v) for at, v in self.samples if at >= start and v is not None]
        seen = [(a, v) for a, _, v in pieces] + inside
        good = [v for _, v in self.samples if v is not None]
        match self.kind:
            case WindowKind.MEAN:
                return math.fsum(v * (b - a) for a, b, v in pieces) / covered
            case WindowKind.LOWEST:
                return min(v for _, v in seen)
            case WindowKind.HIGHEST:
                return max(v for _, v in seen)
            case WindowKind.TOTAL:
                return math.fsum(v for _, v in inside)
            case WindowKind.RATE:
                first = min(seen, key=lambda piece: piece[0])[1]
                return (good[-1] - first) / (covered / SECOND)
        return self._delta(start)

    def _delta(self, start_ns: int) -> float:
        counted = 0.0
        good = [(at, v) for at, v in self.samples if v is not None]
        for (_, before), (at, after) in pairwise(good):
            if at >= start_ns:
                counted += self._step(before, after)
        return counted

    def _step(self, before: float, after: float) -> float:
        if after >= before:
            return after - before
        if self.limits is None:
            return max(after, 0.0)
        low, high = self.limits
        quarter = high / 4 - low / 4
        if before >= high - quarter and after <= low + quarter:
            return max((high - before) + (after - low), 0.0)
        return max(after - low, 0.0)


def window(kind: WindowKind, span_ns: int = SPAN, **tag: Any) -> tuple[Code, int]:
    """A program of one tag and one window over it."""
    code = conditions(1, **tag)
    return code, code.window(kind, 0, span_ns)


def scan_of(inside: Any, code: Code) -> Any:
    return inside.Scan(blobs.build(code.program))


def put(scan: Any, value: float | None, mono_ns: int) -> None:
    if value is None:
        scan.write(0, math.nan, Quality.BAD, Reason.COMM_FAILURE, mono_ns)
    else:
        scan.write(0, value, Quality.GOOD, 0, mono_ns)


def told(scan: Any, register: int, now_ns: int) -> float | None:
    """What a window tells, None while it is bad."""
    assert scan.evaluate(now_ns) == 1
    value, bad = scan.number(register)
    return None if bad else value


def same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6)


values = st.one_of(st.none(), st.integers(0, 100).map(float), st.floats(-1e6, 1e6))
stories = st.lists(
    st.tuples(
        st.integers(0, 30 * MS).map(lambda n: n // 7),  # after the one before
        st.sampled_from(["sample"] * 6 + ["touch", "look"]),
        values,
    ),
    max_size=120,
)


@pytest.mark.parametrize("kind", KINDS)
@given(
    story=stories, stale_ns=st.sampled_from([0, STALE]), limits=st.sampled_from([None, (0, 100)]),
    looks=st.lists(st.integers(0, 100 * MS), max_size=3),
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_window_tells_what_a_list_of_all_samples_tells(
    inside: Any, kind: WindowKind, story: list[tuple[int, str, float | None]], stale_ns: int,
    limits: tuple[float, float] | None, looks: list[int],
) -> None:  # fmt: skip
    tag: dict[str, Any] = {"stale_after_ns": stale_ns}
    if limits:
        tag |= {"low": limits[0], "high": limits[1], "flags": TagFlag.HAS_RANGE}
    code, register = window(kind, **tag)
    scan, naive = scan_of(inside, code), Naive(kind, stale_ns=stale_ns, limits=limits)
    now_ns = BASE
    for after_ns, what, value in story:
        now_ns += after_ns
        if what == "sample":
            put(scan, value, now_ns)
            naive.take(now_ns, value)
        elif what == "touch" and naive.samples and naive.samples[-1][1] is not None:
            scan.touch(0, now_ns)
            naive.touches.append(now_ns)
        if what == "look":
            assert same(told(scan, register, now_ns), naive.tell(now_ns))
    for after_ns in [0, *looks]:
        now_ns += after_ns
        assert same(told(scan, register, now_ns), naive.tell(now_ns))


@pytest.mark.parametrize("kind", KINDS)
def test_when_a_scan_looks_changes_nothing(inside: Any, kind: WindowKind) -> None:
    """To the last bit: one scan at the end says what a scan after each microsecond says."""
    code, register = window(kind)
    often, once = scan_of(inside, code), scan_of(inside, code)
    for k in range(400):
        at_ns = BASE + k * 333_333
        value = math.sin(k) * 10
        put(often, value, at_ns)
        put(once, value, at_ns)
        told(often, register, at_ns + 17)
    now_ns = BASE + 400 * 333_333
    assert told(often, register, now_ns) == told(once, register, now_ns)


# ---- what each kind is for -----------------------------------------------------------------------


def filled(inside: Any, kind: WindowKind, values: list[float], **tag: Any) -> float | None:
    """What a window over a second tells of so many values at equal distances in it."""
    code, register = window(kind, SECOND, **tag)
    scan = scan_of(inside, code)
    each = SECOND // len(values)
    for k, value in enumerate(values):
        put(scan, value, BASE + k * each)
    return told(scan, register, BASE + SECOND - 1)


def test_a_mean_is_weighted_by_time(inside: Any) -> None:
    code, register = window(WindowKind.MEAN, SECOND)
    scan = scan_of(inside, code)
    put(scan, 10.0, BASE)
    put(scan, 2.0, BASE + 250 * MS)
    assert told(scan, register, BASE + SECOND - 1) == pytest.approx(4.0)


def test_a_ramp_has_its_rate(inside: Any) -> None:
    assert filled(inside, WindowKind.RATE, [0.5 * k for k in range(100)]) == pytest.approx(49.5)


def test_a_jump_is_seen_by_a_rate_whatever_came_before_it_was_held(inside: Any) -> None:
    code, register = window(WindowKind.RATE, 10 * SECOND)
    scan = scan_of(inside, code)
    put(scan, 1.0, BASE)
    put(scan, 6.0, BASE + 3600 * SECOND)
    assert told(scan, register, BASE + 3605 * SECOND) == pytest.approx(0.5, rel=0.02)
    assert told(scan, register, BASE + 3611 * SECOND) == 0.0


@pytest.mark.parametrize(
    ("counter", "limits", "expected"),
    [([1, 2, 5, 5, 9], None, 8), ([60, 90, 3, 10], (0, 99), 30 + 12 + 7),
     ([60, 70, 3, 10], (0, 99), 10 + 3 + 7), ([5, 9, 2, 4], None, 4 + 2 + 2),
     ([-5, -1, -4, 0], None, 4 + 0 + 4), ([50, 60, 40, 45], (0, 99), 10 + 40 + 5)],
    ids=["counts", "wraps", "begins anew", "anew without a range", "below zero", "steps back"],
)  # fmt: skip
def test_a_delta_is_never_negative(
    inside: Any, counter: list[float], limits: tuple[float, float] | None, expected: float
) -> None:
    tag: dict[str, Any] = {}
    if limits:
        tag = {"low": limits[0], "high": limits[1], "flags": TagFlag.HAS_RANGE}
    assert filled(inside, WindowKind.DELTA, counter, **tag) == expected


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_no_counter_makes_a_delta_negative(inside: Any, counter: list[float]) -> None:
    delta = filled(inside, WindowKind.DELTA, counter)
    assert delta is None or delta >= 0


def test_a_counter_goes_on_counting_over_a_gap(inside: Any) -> None:
    code, register = window(WindowKind.DELTA, SECOND)
    scan = scan_of(inside, code)
    put(scan, 10.0, BASE)
    put(scan, None, BASE + 100 * MS)
    put(scan, 17.0, BASE + 200 * MS)
    assert told(scan, register, BASE + SECOND - 1) == 7.0


def test_a_total_counts_each_sample_once(inside: Any) -> None:
    code, register = window(WindowKind.TOTAL, SECOND)
    scan = scan_of(inside, code)
    put(scan, 2.0, BASE)
    put(scan, 3.0, BASE + 100 * MS)
    scan.touch(0, BASE + 500 * MS)
    assert told(scan, register, BASE + 900 * MS) == 5.0


# ---- covered, or not -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_bad_until_80_percent_are_covered_and_while_starting_excused(
    inside: Any, kind: WindowKind
) -> None:
    code = conditions(1, start_within_ns=100 * MS)
    register = code.window(kind, 0, SECOND)
    is_bad = code.op(Op.IS_BAD, register)
    scan = scan_of(inside, code)
    scan.started(BASE)
    put(scan, 1.0, BASE)
    for after_ms, known in [(0, False), (799, False), (800, True), (999, True), (5000, True)]:
        assert (told(scan, register, BASE + after_ms * MS) is not None) == known
        assert scan.starting(register) == (not known)
        assert scan.truth(is_bad) == (Truth.FALSE if known else Truth.UNKNOWN)


def test_it_is_starting_for_its_span_at_most(inside: Any) -> None:
    code = conditions(1, start_within_ns=100 * MS)
    register = code.window(WindowKind.MEAN, 0, SECOND)
    scan = scan_of(inside, code)
    scan.started(BASE)
    for after_ns, starting in [(0, 1), (SECOND - 1, 1), (SECOND, 0)]:
        told(scan, register, BASE + after_ns)
        assert scan.starting(register) == starting


def test_it_stays_known_while_the_present_sample_is_bad_and_not_for_ever(inside: Any) -> None:
    code, register = window(WindowKind.MEAN, SECOND)
    scan = scan_of(inside, code)
    put(scan, 4.0, BASE)
    put(scan, None, BASE + SECOND)
    assert told(scan, register, BASE + 1150 * MS) == 4.0
    assert told(scan, register, BASE + 1250 * MS) is None


def test_a_stale_value_does_not_cover(inside: Any) -> None:
    code, register = window(WindowKind.MEAN, SECOND, stale_after_ns=500 * MS)
    scan = scan_of(inside, code)
    put(scan, 4.0, BASE)
    assert told(scan, register, BASE + 900 * MS) is None
    put(scan, 4.0, BASE + 900 * MS)
    assert told(scan, register, BASE + 1200 * MS) is None  # 300 + 300 ms of the last second
    put(scan, 4.0, BASE + 1300 * MS)
    assert told(scan, register, BASE + 1750 * MS) == 4.0


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_leaves_no_trace(inside: Any, kind: WindowKind, poison: float) -> None:
    """A NaN is a gap of its own length; the same window without it says the same."""
    code, register = window(kind, SECOND)
    hurt, clean = scan_of(inside, code), scan_of(inside, code)
    for k in range(100):
        value = None if k == 50 else float(k)
        put(clean, value, BASE + k * 10 * MS)
        put(hurt, poison if k == 50 else value, BASE + k * 10 * MS)
    now_ns = BASE + SECOND - 1
    assert told(hurt, register, now_ns) == told(clean, register, now_ns) is not None


@pytest.mark.parametrize("kind", [WindowKind.MEAN, WindowKind.TOTAL, WindowKind.DELTA])
def test_a_sum_beyond_all_numbers_is_bad_and_then_forgotten(inside: Any, kind: WindowKind) -> None:
    code, register = window(kind, SECOND)
    scan = scan_of(inside, code)
    for k in range(300):
        value = (-1.7e308, 1.7e308)[k % 2] if kind == WindowKind.DELTA else 1.7e308
        put(scan, value if 90 <= k < 100 else 1.0, BASE + k * 10 * MS)
        if k == 99:
            assert told(scan, register, BASE + k * 10 * MS) is None
    expected = {WindowKind.MEAN: 1.0, WindowKind.DELTA: 0.0}
    assert told(scan, register, BASE + 2999 * MS) == expected.get(kind, 100.0)


@pytest.mark.parametrize("tiny", [5e-324, -5e-324, 2.2e-308, -0.0])
@pytest.mark.parametrize("kind", [WindowKind.MEAN, WindowKind.LOWEST, WindowKind.HIGHEST])
def test_denormals_are_numbers(inside: Any, kind: WindowKind, tiny: float) -> None:
    assert filled(inside, kind, [tiny] * 10) == pytest.approx(tiny, rel=1e-9, abs=1e-323)


def test_uncertain_counts_where_the_tag_says_so(inside: Any) -> None:
    for flags, expected in [(0, None), (TagFlag.UNCERTAIN_USE, 3.0)]:
        code, register = window(WindowKind.MEAN, SECOND, flags=flags)
        scan = scan_of(inside, code)
        scan.write(0, 3.0, Quality.UNCERTAIN, 0, BASE)
        assert told(scan, register, BASE + SECOND) == expected


def test_samples_out_of_order_count_as_now(inside: Any) -> None:
    code, register = window(WindowKind.TOTAL, SECOND)
    scan = scan_of(inside, code)
    put(scan, 1.0, BASE)
    put(scan, 2.0, BASE - 5 * SECOND)
    assert told(scan, register, BASE + 900 * MS) == 3.0


def test_two_windows_over_one_tag(inside: Any) -> None:
    code = conditions(2)
    registers = [code.window(kind, 1, span) for kind, span in
                 [(WindowKind.LOWEST, SECOND), (WindowKind.HIGHEST, SECOND),
                  (WindowKind.MEAN, 2 * SECOND)]]  # fmt: skip
    scan = scan_of(inside, code)
    scan.write(0, 99.0, Quality.GOOD, 0, BASE)
    for k in range(20):
        scan.write(1, float(k), Quality.GOOD, 0, BASE + k * 100 * MS)
    got = [told(scan, register, BASE + 1999 * MS) for register in registers]
    assert got == [pytest.approx(10.0, abs=1), 19.0, pytest.approx(9.5, abs=0.01)]


# ---- memory that outlives its writer -------------------------------------------------------------

LOCK_AT, SPAN_AT, KEY_AT = 0, 8, 24 + 64 * 24


def whole(inside: Any) -> tuple[Any, int]:
    """A window that was covered when its writer died."""
    code, register = window(WindowKind.MEAN, SECOND)
    scan = scan_of(inside, code)
    for k in range(11):
        put(scan, 5.0, BASE + k * 100 * MS)
    return scan, register


def test_a_whole_window_goes_on_in_the_next_life(inside: Any) -> None:
    scan, register = whole(inside)
    assert scan.recover(BASE + 1100 * MS) == 0
    assert told(scan, register, BASE + 1100 * MS) == 5.0
    assert told(scan, register, BASE + 1300 * MS) is None  # nobody has read it since
    put(scan, 5.0, BASE + 1300 * MS)
    assert told(scan, register, BASE + 1700 * MS) is None  # 200 + 400 ms of the last second
    assert told(scan, register, BASE + 2150 * MS) == 5.0


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [(LOCK_AT, "<Q", 7), (SPAN_AT, "<q", 2 * SECOND), (KEY_AT, "<Q", 4711),
     (KEY_AT + 16, "<q", BASE + 9 * SECOND)],
    ids=["lock left odd", "another span", "another key", "from the future"],
)  # fmt: skip
def test_a_damaged_window_begins_empty_and_is_counted(
    inside: Any, at: int, layout: str, value: int
) -> None:
    scan, register = whole(inside)
    struct.pack_into(layout, scan.window_memory(0), at, value)
    assert scan.recover(BASE + 1100 * MS) == 1
    assert told(scan, register, BASE + 1100 * MS) is None
    put(scan, 7.0, BASE + 1100 * MS)
    assert told(scan, register, BASE + 1900 * MS) == 7.0


def test_a_window_that_never_was_is_not_damaged(inside: Any) -> None:
    code, register = window(WindowKind.MEAN, SECOND)
    scan = scan_of(inside, code)
    memory = scan.window_memory(0)
    memory[:] = bytes(len(memory))
    assert scan.recover(BASE) == 0
    put(scan, 7.0, BASE)
    assert told(scan, register, BASE + 900 * MS) == 7.0


# ---- the gateway's, filled from history ----------------------------------------------------------


def records(*samples: tuple[int, float]) -> bytes:
    return b"".join(SAMPLE.pack(77, Quality.GOOD, 0, 0, value, at, 0) for at, value in samples)


def test_history_fills_a_window_also_from_before_the_boot() -> None:
    code, register = window(WindowKind.DELTA, 3600 * SECOND)
    runs = Conditions(blobs.build(code.program))
    runs.fill(0, b"")
    runs.fill(0, records(*((k * 60 * SECOND, 100.0 + k) for k in range(-60, 0))))
    runs.evaluate(SECOND)
    assert runs.number(register) == (59.0, Quality.GOOD)
    runs.fill(0, records((-SECOND * 60, 500.0)))  # not newer: left out
    runs.write(0, 104.0, Quality.GOOD, 0, 2 * SECOND)
    runs.evaluate(2 * SECOND)
    assert runs.number(register) == (64.0, Quality.GOOD)


def test_feeding_and_filling_say_the_same() -> None:
    code, register = window(WindowKind.MEAN, SECOND)
    blob = blobs.build(code.program)
    fed, filled = Conditions(blob), Conditions(blob)
    fed.watch([], memoryview(struct.pack("<78I", *[NONE_U32] * 77, 0)).cast("I"))  # type: ignore[arg-type]
    story = records(*((BASE + k * 70 * MS, k * 1.5) for k in range(1, 15)))
    fed.feed(story)
    filled.fill(0, story)
    now_ns = BASE + 15 * 70 * MS
    for runs in (fed, filled):
        runs.evaluate(now_ns)
    assert fed.number(register) == filled.number(register)
    assert fed.number(register)[1] == Quality.GOOD


def test_filling_says_what_it_does_not_take() -> None:
    code, _ = window(WindowKind.MEAN, SECOND)
    runs = Conditions(blobs.build(code.program))
    with pytest.raises(IndexError):
        runs.fill(1, b"")
    with pytest.raises(ValueError, match="whole"):
        runs.fill(0, bytes(31))


def test_bisecting_the_moment_of_coverage(inside: Any) -> None:
    """Known once and for all from one moment on, to the nanosecond."""
    code, register = window(WindowKind.MEAN, SECOND)
    scan = scan_of(inside, code)
    put(scan, 1.0, BASE)
    at = bisect_right(
        range(SECOND), 0, key=lambda ns: int(told(scan, register, BASE + ns) is not None)
    )
    assert at == 800 * MS
