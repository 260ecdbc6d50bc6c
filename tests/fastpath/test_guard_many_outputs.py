"""Many outputs of one device in one scan: the fewest requests."""

from dataclasses import replace

import pytest

from fastpath import blob as blobs
from fastpath.codes import EventType, OutputKind, OutputState, ResultCode
from tests.helpers.device import Device
from tests.helpers.guard import GuardProcess, mine
from tests.helpers.guarding import methane
from tests.helpers.outputs import add_output

FIRST = 1000


def many(device: Device, count: int, kind: OutputKind) -> blobs.Program:
    """So many outputs side by side, their keys in another order than their addresses."""
    program = mine(device.port)
    place = [(i * 211) % count for i in range(count)]  # 211 is prime
    changes = {"kind": kind, "trip": 0, "normal": 1, "readback": 0xFFFFFFFF}
    program.outputs[0] = replace(program.outputs[0], address=FIRST + place[0], **changes)
    for i in range(1, count):
        add_output(program, 3 + i, address=FIRST + place[i])
    program.effects = [blobs.Effect(0, i) for i in range(count)]
    program.interlocks[0] = replace(program.interlocks[0], effects_count=count)
    return program


@pytest.mark.parametrize(
    ("kind", "count", "sizes"),
    [(OutputKind.COIL, 512, [512]), (OutputKind.REGISTER, 200, [123, 77])],
)
async def test_they_go_in_the_fewest_requests(
    guard: GuardProcess, device: Device, kind: OutputKind, count: int, sizes: list[int]
) -> None:
    await guard.start()
    assert guard.load(many(device, count, kind)).code == ResultCode.DONE
    await guard.until(lambda: guard.view is not None and guard.view.slot(2).value > 0)
    methane(device, 1.6, 1.7, 0.4)
    await guard.until(
        lambda: all(guard.output(i).state == OutputState.TRIPPED for i in range(count))
    )
    function = 15 if kind == OutputKind.COIL else 16
    writes = [a for a in device.asked if a.function == function and a.address >= FIRST]
    assert sorted((len(a.written) for a in writes[: len(sizes)]), reverse=True) == sizes
    assert all(set(a.written) == {0} for a in writes)
    assert {a.address + i for a in writes[: len(sizes)] for i in range(len(a.written))} == set(
        range(FIRST, FIRST + count)
    )
    trips = guard.events(EventType.OUT_TRIP)
    assert len(trips) == count
    assert len({e.scan for e in trips}) == 1
