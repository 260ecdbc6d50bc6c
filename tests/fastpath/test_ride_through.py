"""What is unknown for a while: how long it is ridden through, and what a pause makes of it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath.codes import EventType, InterlockState, Quality, Reason
from tests.helpers.blobs import MS, SECOND
from tests.helpers.guard import mine

NORMAL, TRIPPED = InterlockState.NORMAL, InterlockState.TRIPPED
STEP_NS = 100 * MS
LONG_NS = 60 * SECOND  # of staleness: nothing here goes stale by itself


@pytest.fixture
def begin(stepping: Any) -> Iterator[Any]:
    """Starts a guard of the mine; fields of its interlock."""
    guards = []

    def start(**changes: Any) -> Any:
        site = mine(502, **changes)
        site.tags = [replace(t, stale_after_ns=LONG_NS) for t in site.tags]
        guard = stepping.Stepper(blobs.build(site))
        guards.append(guard)
        return guard

    yield start
    for guard in guards:
        guard.close()


def read(guard: Any, *, failed: bool = False) -> InterlockState:
    """A reading of all transmitters, two of three failed or none, and a scan: the state."""
    guard.advance(STEP_NS)
    for slot in range(3):
        if failed and slot < 2:
            guard.poll(slot, 0.0, Quality.BAD, Reason.DEVICE_FAILURE)
        else:
            guard.poll(slot, 0.4)
    guard.poll(3, 1.0)
    guard.step()
    return InterlockState(guard.view.interlock(0).state)


def test_a_sensor_that_flickers_does_not_extend_bad_for(begin: Any) -> None:
    guard = begin(bad_for_ns=SECOND)
    assert read(guard) == NORMAL
    states = []
    for k in range(12):  # two scans unknown, one good: never good for as long as bad_for
        states.append(read(guard, failed=k % 3 != 2))
    # The first unknown was one second ago in the eleventh scan.
    assert states[:10] == [NORMAL] * 10
    assert states[10] == TRIPPED


def test_good_for_as_long_as_bad_for_begins_it_anew(begin: Any) -> None:
    guard = begin(bad_for_ns=300 * MS)
    read(guard)
    for _ in range(3):
        assert read(guard, failed=True) == NORMAL
        assert read(guard, failed=True) == NORMAL
        assert [read(guard) for _ in range(4)] == [NORMAL] * 4


def test_after_a_pause_every_input_is_stale_first(begin: Any) -> None:
    guard = begin()
    assert read(guard) == NORMAL
    guard.advance(2 * SECOND)  # far from stale, were it not for the pause
    guard.step()
    assert [guard.view.slot(slot).quality for slot in range(4)] == [Quality.BAD] * 4
    assert guard.view.interlock(0).state == TRIPPED
    assert [e.type for e in guard.view.events(0, 100)].count(EventType.PAUSE) == 1
