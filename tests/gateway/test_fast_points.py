"""Points that a fast device refuses, over a stand-in of guard.shm."""

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from fastpath.codes import DeviceState, Quality, Reason
from gateway.guard.apply import Running
from gateway.guard.fast_points import LOOKS, FastPoints
from gateway.life.problems import Problems
from gateway.site.model import Config, Device, Point, Site, Tag

PROGRAM = b"P" * 32
GOOD = (Quality.GOOD, 0)
REFUSED = (Quality.BAD, Reason.DEVICE_FAILURE)
STALE = (Quality.BAD, Reason.STALE)


class Bench:
    """One fast device with two tags; what the guard says of them is set by the test."""

    def __init__(self) -> None:
        self.state = DeviceState.UP
        self.program = PROGRAM
        self.slots = [GOOD, GOOD]
        self.problems = Problems()
        self.config = Config(
            site=Site(id="site"),
            device=(Device(id="plc", driver="modbus-tcp", address="h", fast=True),),
            tag=tuple(
                Tag(id=f"t{i}", device="plc", point=Point(address=f"ir:{i}")) for i in range(2)
            ),
        )
        slots = array("I", [0, 1])
        running = Running(PROGRAM, {"devices": ["plc"]}, slots, slots)
        view: Any = SimpleNamespace(
            header=lambda: SimpleNamespace(program=self.program),
            device=lambda _: SimpleNamespace(state=self.state),
            slot=self._slot,
        )
        self.points = FastPoints(self.config, lambda: view, lambda: running, self.problems)

    def _slot(self, index: int) -> SimpleNamespace:
        quality, reason = self.slots[index]
        return SimpleNamespace(quality=quality, reason=reason)

    def look(self, times: int = LOOKS) -> list[str]:
        for _ in range(times):
            self.points.look()
        return [f"{p.kind} {p.ident}: {p.text}" for p in self.problems.active()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_refused_point_is_told_while_it_lasts(bench: Bench) -> None:
    assert bench.look() == []
    bench.slots[1] = REFUSED
    assert bench.look(LOOKS - 1) == []
    assert bench.look(1) == ["points plc: t1: ir:1 is refused"]
    bench.look(100)
    assert bench.problems.raised_total["points"] == 1
    bench.slots[1] = GOOD
    assert bench.look() == []


def test_a_reconnect_proves_nothing(bench: Bench) -> None:
    bench.slots[0] = REFUSED
    told = bench.look()
    bench.state = DeviceState.DOWN
    assert bench.look() == told
    bench.state, bench.slots[0] = DeviceState.UP, STALE  # not asked again yet
    assert bench.look() == told


def test_a_short_refusal_and_an_old_value_are_not_told(bench: Bench) -> None:
    bench.slots = [REFUSED, STALE]
    bench.look(LOOKS - 1)
    bench.slots[0] = GOOD
    assert bench.look() == []


def test_another_program_is_not_read_by_our_slots(bench: Bench) -> None:
    bench.program = b"Q" * 32
    bench.slots[0] = REFUSED
    assert bench.look() == []
