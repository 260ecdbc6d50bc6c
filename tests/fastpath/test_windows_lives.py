"""Windows in a guard: what a kill, a swap, a pause and the gateway's touches do to them."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import Counter, InterlockState, MessageType, Op, Quality, ResultCode, WindowKind
from tests.helpers.blobs import MS, SECOND, Code
from tests.helpers.guard import mine

GAS, SLOW = 0, 5
SPAN = 2 * SECOND
WINDOW_REGION = 6
NORMAL, TRIPPED = InterlockState.NORMAL, InterlockState.TRIPPED


def program(
    span_ns: int = SPAN, fingerprint: int = 1, kind: WindowKind = WindowKind.MEAN, slot: int = GAS
) -> bytes:
    """The mine, cut by the mean of its first transmitter."""
    site = mine(502)
    code = Code(site)
    cause = code.op(Op.GT, code.window(kind, slot, span_ns, 0), code.const(1.0))
    site.interlocks = [replace(site.interlocks[0], cause=cause, fingerprint=fingerprint)]
    return blobs.build(site)


MEAN = len(mine(502).code)  # the register


@pytest.fixture
def guard(stepping: Any) -> Iterator[Any]:
    stepper = stepping.Stepper(program())
    yield stepper
    stepper.close()


def live(guard: Any, value: float, time_ns: int, every_ns: int = 100 * MS) -> None:
    """So long with readings of this value."""
    for _ in range(time_ns // every_ns):
        for slot in range(3):
            guard.poll(slot, value if slot == GAS else 0.0)
        guard.poll(3, 1.0)
        guard.step(every_ns)


def state(guard: Any) -> InterlockState:
    return InterlockState(guard.view.interlock(0).state)


def test_while_it_starts_it_trips_nothing_and_then_it_does(guard: Any) -> None:
    live(guard, 0.4, 1500 * MS)  # start_within is over, the window not covered
    assert guard.number(MEAN)[1]
    assert state(guard) == NORMAL
    live(guard, 0.4, SECOND)
    assert guard.number(MEAN)[0] == pytest.approx(0.4)
    live(guard, 3.0, SECOND)
    assert state(guard) == TRIPPED


def test_a_window_that_is_never_covered_trips_when_its_time_is_over(guard: Any) -> None:
    live(guard, 0.4, 500 * MS)
    guard.step(SPAN - 500 * MS - 1)
    assert state(guard) == NORMAL
    guard.step(10 * MS)
    assert state(guard) == TRIPPED


def test_a_kill_leaves_it_covered(guard: Any) -> None:
    live(guard, 0.4, 2 * SPAN)
    guard.restart(program())
    guard.step()
    assert guard.number(MEAN) == (pytest.approx(0.4), 0)
    assert guard.view.header().counters[Counter.WINDOWS_LOST] == 0


def test_a_kill_within_a_store_empties_it_and_is_counted(guard: Any) -> None:
    live(guard, 0.4, 2 * SPAN)
    header = bytes(guard.memory_at(0, 4096))
    ident, _, offset = struct.unpack_from("<IIQ", header, 64 + 24 * (WINDOW_REGION - 1))
    assert ident == WINDOW_REGION
    lock = guard.memory_at(offset, 1)
    lock[0] |= 1
    guard.restart(program())
    guard.step()
    assert guard.number(MEAN)[1]
    assert guard.view.header().counters[Counter.WINDOWS_LOST] == 1
    live(guard, 0.4, SPAN)
    assert not guard.number(MEAN)[1]
    assert state(guard) == NORMAL


def test_a_swap_carries_the_window_of_an_interlock_that_is_the_same(guard: Any) -> None:
    live(guard, 0.4, 2 * SPAN)
    site = mine(502)
    code = Code(site)
    code.window(WindowKind.HIGHEST, 1, SPAN, 0)  # another one comes to stand before it
    site.windows = [replace(site.windows[0], key=4711)]
    cause = code.op(Op.GT, code.op(Op.WINDOW, 1), code.const(1.0))
    site.windows.append(blobs.section(program(), "windows")[0])
    site.interlocks = [replace(site.interlocks[0], cause=cause, fingerprint=1)]
    guard.offer(blobs.build(site))
    guard.step(10 * MS)
    assert guard.load_code == ResultCode.DONE
    assert guard.number(MEAN)[1]
    assert guard.number(MEAN + 1) == (pytest.approx(0.4), 0)
    assert state(guard) == NORMAL


@pytest.mark.parametrize(
    "changed",
    [program(fingerprint=2), program(SPAN + 64), program(kind=WindowKind.HIGHEST), program(slot=1)],
    ids=["another condition", "another span", "another kind", "another tag"],
)
def test_a_swap_begins_the_window_of_another_condition_anew(guard: Any, changed: bytes) -> None:
    live(guard, 0.4, 2 * SPAN)
    guard.offer(changed)
    guard.step(10 * MS)
    assert guard.number(MEAN)[1]
    live(guard, 0.4, 2 * SPAN)
    assert not guard.number(MEAN)[1]


def test_an_interlock_that_is_new_or_another_starts_with_its_window(guard: Any) -> None:
    live(guard, 0.4, 2 * SPAN)
    guard.offer(program(SPAN + 64, fingerprint=2))
    live(guard, 0.4, SPAN - 100 * MS)
    assert state(guard) == NORMAL
    live(guard, 0.4, SPAN)
    assert state(guard) == NORMAL


def test_after_a_pause_nothing_was_held(guard: Any) -> None:
    live(guard, 0.4, 2 * SPAN)
    guard.boot_ns += 3600 * SECOND  # a suspend: this clock alone goes on
    guard.step(10 * MS)
    guard.step(450 * MS)
    assert guard.number(MEAN)[1]  # the value was not stale by its age, yet it covers no more


def test_touches_of_the_gateway_keep_a_slow_tag_covered(stepping: Any) -> None:
    guard = stepping.Stepper(program(slot=SLOW))
    try:
        guard.connect()
        sample = messages.SAMPLE.pack(SLOW, Quality.GOOD, 0, 0, 0.5, guard.mono_ns, guard.utc_ns)
        guard.send(MessageType.SAMPLES, sample)
        for _ in range(10):
            guard.step(500 * MS)
            body = messages.TOUCH.pack(guard.mono_ns, 1) + messages.RANGE.pack(SLOW, 1)
            guard.send(MessageType.TOUCH, body)
        guard.step(10 * MS)
        assert guard.number(MEAN) == (0.5, 0)
        assert state(guard) == NORMAL
        guard.step(SECOND + 400 * MS)
        assert guard.number(MEAN)[1]
    finally:
        guard.close()
