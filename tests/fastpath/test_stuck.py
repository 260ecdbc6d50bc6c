"""A value that never moves, and a condition that nobody can evaluate: both are told."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    EventType,
    InterlockFlag,
    InterlockState,
    MessageType,
    OnBad,
    Op,
    OutputState,
    Quality,
    Reason,
    ResultCode,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND, Code
from tests.helpers.guard import mine, reset

STUCK = 5 * SECOND
NORMAL, TRIPPED, READY = (
    InterlockState.NORMAL, InterlockState.TRIPPED, InterlockState.READY_TO_RESET,
)  # fmt: skip


@pytest.fixture
def begin(stepping: Any) -> Iterator[Any]:
    """Starts a guard of the mine; ``stuck_ns`` of its transmitters, fields of its interlock."""
    guards = []

    def start(stuck_ns: int = 0, **changes: Any) -> Any:
        site = mine(502, **changes)
        site.tags = [replace(t, stuck_ns=stuck_ns if t.key < 20 else 0) for t in site.tags]
        guard = stepping.Stepper(blobs.build(site))
        guards.append(guard)
        return guard

    yield start
    for guard in guards:
        guard.close()


def read(guard: Any, *values: float | None, after_ns: int = 100 * MS) -> None:
    """A reading of each transmitter (None: failed) and a scan."""
    guard.advance(after_ns)
    for slot, value in enumerate(values):
        if value is None:
            guard.poll(slot, 0.0, Quality.BAD, Reason.DEVICE_FAILURE)
        else:
            guard.poll(slot, value)
    guard.poll(3, 1.0)
    guard.step()


def quality(guard: Any, slot: int = 0) -> tuple[Quality, Reason]:
    slot_view = guard.view.slot(slot)
    return Quality(slot_view.quality), Reason(slot_view.reason)


GOOD, FROZEN = (Quality.GOOD, Reason(0)), (Quality.BAD, Reason.STUCK)


# ---- stuck ---------------------------------------------------------------------------------------


def test_the_same_to_the_bit_for_its_time_is_stuck_until_it_moves(begin: Any) -> None:
    guard = begin(STUCK)
    for k in range(51):
        read(guard, 0.4, 0.4 + k / 1000, 0.4 + k / 1000)
        assert quality(guard) == (FROZEN if k == 50 else GOOD)
        assert quality(guard, 1) == GOOD
    read(guard, 0.4, 0.5, 0.5)
    assert quality(guard) == FROZEN
    read(guard, 0.4000001, 0.5, 0.5)
    assert quality(guard) == GOOD
    stuck = [payload_of(e)["reason"] for e in guard.events() if e.type == EventType.TAG_QUALITY]
    assert Reason.STUCK in stuck


def test_two_that_are_stuck_trip_a_2oo3(begin: Any) -> None:
    guard = begin(STUCK)
    for k in range(52):
        read(guard, 0.4, 0.4, 0.4 + k / 1000)
    assert guard.view.interlock(0).state == TRIPPED


@pytest.mark.parametrize("gap", ["failed", "silent"])
def test_only_the_time_of_good_readings_counts(begin: Any, gap: str) -> None:
    guard = begin(STUCK)
    for _ in range(30):
        read(guard, 0.4, 0.4, 0.4)
    if gap == "failed":
        for _ in range(40):
            read(guard, None, 0.4, 0.4)
    else:
        for _ in range(40):
            read(guard)
    for _ in range(20):
        read(guard, 0.4, 0.4, 0.4)
        assert quality(guard) == GOOD
    read(guard, 0.4, 0.4, 0.4)
    read(guard, 0.4, 0.4, 0.4)
    assert quality(guard) == FROZEN


def test_zero_and_minus_zero_are_a_movement_and_without_the_key_nothing_is_watched(
    begin: Any,
) -> None:
    guard = begin(STUCK)
    for k in range(70):
        read(guard, -0.0 if k % 2 else 0.0, 0.1, 0.1)
        assert quality(guard) == GOOD
    unwatched = begin()
    for _ in range(70):
        read(unwatched, 0.4, 0.4, 0.4)
    assert quality(unwatched) == GOOD


# ---- blind ---------------------------------------------------------------------------------------


def test_a_condition_whose_unknown_is_ignored_is_told_once_while_it_stays_so(begin: Any) -> None:
    guard = begin(on_bad=OnBad.IGNORE)
    read(guard, 0.4, 0.4, 0.4)
    since_ns = guard.mono_ns + 100 * MS
    for _ in range(250):
        read(guard, None, None, 0.4)
    blind = [e for e in guard.events() if e.type == EventType.CONDITION_BLIND]
    assert len(blind) == 1
    assert payload_of(blind[0]) == {"since_ns": since_ns, "slot": 0, "quality": Quality.BAD}
    assert blind[0].mono_ns - since_ns == 10 * SECOND
    assert guard.view.interlock(0).state == NORMAL
    read(guard, 0.4, 0.4, 0.4)
    for _ in range(101):
        read(guard, None, None, 0.4)
    assert len([e for e in guard.events() if e.type == EventType.CONDITION_BLIND]) == 2


# ---- latch = false -------------------------------------------------------------------------------


def test_a_manual_trip_waits_for_its_reset_also_when_the_cause_came_and_went(begin: Any) -> None:
    guard = begin(flags=InterlockFlag.ARMED)
    read(guard, 0.4, 0.4, 0.4)
    guard.send(MessageType.TRIP, messages.command(7, who="t"), b"t" * 16)
    read(guard, 0.4, 0.4, 0.4)
    assert guard.view.interlock(0).state == READY
    read(guard, 2.0, 2.0, 0.4)
    assert guard.view.interlock(0).state == TRIPPED
    for _ in range(5):
        read(guard, 0.4, 0.4, 0.4)
    assert guard.view.interlock(0).state == READY
    guard.send(MessageType.RESET, reset(2), b"r" * 16)
    read(guard, 0.4, 0.4, 0.4)
    assert guard.results()[b"r" * 16].code == ResultCode.DONE
    read(guard, 2.0, 2.0, 0.4)
    read(guard, 0.4, 0.4, 0.4)
    assert guard.view.interlock(0).state == NORMAL


# ---- delays of effects ---------------------------------------------------------------------------


def test_a_delayed_effect_runs_from_the_trip_over_a_kill_and_is_not_begun_anew(
    stepping: Any,
) -> None:
    site = mine(502)
    site.effects = [blobs.Effect(0, 0, 2 * SECOND)]
    blob = blobs.build(site)
    guard = stepping.Stepper(blob)
    read(guard, 0.4, 0.4, 0.4)
    for _ in range(10):
        read(guard, 2.0, 2.0, 0.4)
    guard.restart(blob)
    for _ in range(9):
        read(guard, 2.0, 2.0, 0.4)
    assert not guard.view.output(0).demands & 1
    read(guard, 2.0, 2.0, 0.4)
    read(guard, 2.0, 2.0, 0.4)
    assert guard.view.output(0).demands & 1
    read(guard, 0.4, 0.4, 0.4)
    assert guard.view.interlock(0).state == READY
    read(guard, 2.0, 2.0, 0.4)
    assert guard.view.interlock(0).generation == 2
    assert guard.view.output(0).demands & 1
    guard.close()


def test_an_output_is_not_let_go_while_another_trip_waits_for_its_effects_delay(
    stepping: Any,
) -> None:
    site = mine(502)
    site.interlocks[0] = replace(site.interlocks[0], permissive=NONE_U32)
    code = Code(site)
    late = code.compare(Op.GE, 0, 3.0)
    site.legs.append(blobs.Leg(1, late, 0, 3.0))
    site.interlocks.append(
        replace(
            site.interlocks[0], key=site.interlocks[0].key + 1, cause=late, order=1,
            group=NONE_U32, legs_first=len(site.legs) - 1, legs_count=1,
            effects_first=len(site.effects), effects_count=1,
        )
    )  # fmt: skip
    site.effects.append(blobs.Effect(1, 0, 2 * SECOND))
    guard = stepping.Stepper(blobs.build(site))
    read(guard, 0.4, 0.4, 0.4)
    read(guard, 3.5, 3.5, 0.4)
    assert [guard.view.interlock(i).state for i in range(2)] == [TRIPPED, TRIPPED]
    read(guard, 0.4, 0.4, 0.4)
    guard.send(MessageType.RESET, reset(1), b"r" * 16)
    read(guard, 0.4, 0.4, 0.4)
    assert guard.results()[b"r" * 16].code == ResultCode.DONE
    assert guard.view.output(0).state in (OutputState.TRIPPING, OutputState.TRIPPED)
    assert guard.wish(0) != 2
    guard.close()
