"""One program after another: what is carried, what begins anew, what is refused, what weakens."""

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath.codes import (
    NONE_U32,
    EventType,
    InterlockFlag,
    InterlockState,
    MessageType,
    OnBad,
    Op,
    OutputState,
    Owner,
    RecordMode,
    ResultCode,
    TagFlag,
    WindowKind,
)
from fastpath.records import payload_of
from tests.helpers.blobs import MS, SECOND, Code, conditions, guard_program
from tests.helpers.guard import reset

ARMED = InterlockFlag.LATCH | InterlockFlag.ARMED
MOVING_AT = 848  # of the header: the latches are being moved
SPARE = 2 * 128  # bytes of a pair


def plant(
    interlocks: list[dict[str, Any]],
    outputs: tuple[int, ...] = (3, 4),
    *,
    fallbacks: tuple[tuple[int, int], ...] = (),
    changed: dict[int, dict[str, Any]] | None = None,
    **header: Any,
) -> blobs.Program:
    """Interlocks by key over a tag each (key + 1000), until 0.5 below; effects by output key.

    ``changed`` replaces fields of outputs; ``header`` of the program.
    """
    tags = sorted(item["key"] + 1000 for item in interlocks)
    code = conditions(len(tags), start_within_ns=SECOND)
    program = code.program
    program.tags = [
        blobs.Tag(
            key, 0.0, 100.0, SECOND, owner=Owner.GATEWAY, record=RecordMode.ALL,
            flags=TagFlag.HAS_RANGE | TagFlag.IN_INTERLOCK,
        )
        for key in tags
    ]  # fmt: skip
    program.groups = [blobs.Group(5, 2)]
    program.devices = guard_program().devices
    coil = guard_program().outputs[0]
    program.outputs = [
        replace(
            coil,
            **{"key": key, "address": key, "readback": NONE_U32} | (changed or {}).get(key, {}),
        )
        for key in outputs
    ]
    program.fallbacks = [blobs.Fallback(outputs.index(a), outputs.index(b)) for a, b in fallbacks]
    for index, item in enumerate(sorted(interlocks, key=lambda item: item["key"])):
        _interlock(code, index, tags.index(item["key"] + 1000), dict(item), outputs)
    for name, value in header.items():
        setattr(program, name, value)
    return program


def _interlock(
    code: Code, index: int, slot: int, item: dict[str, Any], outputs: tuple[int, ...]
) -> None:
    program = code.program
    key = item["key"]
    on = code.compare(Op.GE, slot, item.pop("limit", 10.0))
    cause = code.until(on, code.compare(Op.LT, slot, 5.0))
    program.nodes[-1] = replace(program.nodes[-1], interlock=index, key=5000 + key)
    effects = item.pop("effects", ((3, 0),))
    first = len(program.effects)
    for output, delay_ns in effects:
        program.effects.append(blobs.Effect(index, outputs.index(output), delay_ns))
    base = blobs.Interlock(
        key=key, fingerprint=key, delay_ns=0, bad_for_ns=0, hold_max_ns=0, min_trip_ns=0,
        response_ns=2 * SECOND, bypass_max_ns=SECOND, order=index, cause=cause,
        permissive=NONE_U32, group=NONE_U32, flags=ARMED, on_bad=OnBad.TRIP,
        legs_first=len(program.legs), legs_count=1, effects_first=first,
        effects_count=len(effects),
    )  # fmt: skip
    program.legs.append(blobs.Leg(index, cause, slot, 10.0))
    program.interlocks.append(replace(base, **item))


A: dict[str, Any] = {"key": 20}
B: dict[str, Any] = {"key": 30, "effects": ((4, 0),)}


class Plant:
    """A stepped guard with values for its tags by interlock key."""

    def __init__(self, stepping: Any, program: blobs.Program) -> None:
        self.stepping = stepping
        self.program = program
        self.guard = stepping.Stepper(blobs.build(program))
        self.values: dict[int, float] = {}

    def scan(self, after_ns: int = 10 * MS) -> None:
        """Every tag has its value, 1.0 where none is set."""
        self.guard.advance(after_ns)
        for slot, tag in enumerate(self.program.tags):
            self.guard.poll(slot, self.values.get(tag.key - 1000, 1.0))
        self.guard.step()

    def wait(self, seconds: float) -> None:
        """Scans until then, close enough to each other to be no pause."""
        for _ in range(int(seconds / 0.5)):
            self.scan(500 * MS)

    def swap(self, program: blobs.Program) -> tuple[int, int]:
        """(code, weakened) of a swap; scans once more where it runs."""
        weakened = self.guard.offer(blobs.build(program))
        self.guard.step(10 * MS)
        code = self.guard.load_code
        if code == ResultCode.DONE:
            self.program = program
        self.scan()
        return code, weakened

    def interlock(self, key: int) -> Any:
        """Its latch."""
        index = [item.key for item in self.program.interlocks].index(key)
        return self.guard.view.interlock(index)

    def output(self, key: int) -> Any:
        """Its latch."""
        return self.guard.view.output([item.key for item in self.program.outputs].index(key))

    def told(self) -> dict[str, Any]:
        """The newest PROGRAM record."""
        return payload_of([e for e in self.guard.events() if e.type == EventType.PROGRAM][-1])

    def confirm(self, key: int) -> None:
        """Its write went out and was echoed."""
        index = [item.key for item in self.program.outputs].index(key)
        assert self.guard.wish(index)
        self.guard.sent(index)
        self.guard.replied(index)
        self.scan()


@pytest.fixture
def begin(stepping: Any) -> Iterator[Callable[..., Plant]]:
    made: list[Plant] = []

    def start(program: blobs.Program) -> Plant:
        made.append(Plant(stepping, program))
        made[-1].scan()
        return made[-1]

    yield start
    for one in made:
        one.guard.close()


def tripped(begin: Callable[..., Plant], program: blobs.Program) -> Plant:
    """Interlock 20 has tripped output 3, confirmed."""
    one = begin(program)
    one.values[20] = 11.0
    one.scan()
    one.confirm(3)
    assert one.output(3).state == OutputState.TRIPPED
    return one


def test_states_move_with_their_keys(begin: Callable[..., Plant]) -> None:
    one = tripped(begin, plant([A, B]))
    before = one.interlock(20)
    code, weakened = one.swap(plant([{"key": 7}, A, B, {"key": 40}], (1, 3, 4)))
    assert (code, weakened) == (ResultCode.DONE, 0)
    assert one.interlock(20) == before
    assert one.output(3).state == OutputState.TRIPPED
    assert one.interlock(7).state == one.interlock(30).state == InterlockState.NORMAL
    assert one.output(1).state == OutputState.HELD
    told = one.told()
    assert (told["kept"], told["changed"], told["weakened"]) == (2, 2, 0)
    assert 0 < told["swap_ns"] < SECOND


def test_another_fingerprint_keeps_the_trip_and_forgets_its_nodes(
    begin: Callable[..., Plant],
) -> None:
    one = tripped(begin, plant([A, B]))
    one.values[20] = 1.0
    one.scan()
    assert one.interlock(20).state == InterlockState.READY_TO_RESET
    one.values[20] = 7.0  # inside the band: what it was, which is false
    one.scan()
    assert one.interlock(20).state == InterlockState.READY_TO_RESET
    changed = plant([A | {"fingerprint": 21}, B])
    assert one.swap(changed) == (ResultCode.DONE, 1)
    # Its memory is new, so inside the band nothing is known, and on_bad decides.
    assert one.interlock(20).state == InterlockState.TRIPPED
    assert one.interlock(20).generation == 2
    one.guard.send(MessageType.RESET, reset(2, 20), b"r" * 16)
    one.scan()
    assert one.guard.results()[b"r" * 16].code == ResultCode.CAUSE_UNKNOWN
    one.values[20] = 1.0
    one.scan()
    assert one.interlock(20).state == InterlockState.READY_TO_RESET


def test_a_changed_interlock_that_holds_nothing_has_an_innocent_past(
    begin: Callable[..., Plant],
) -> None:
    one = begin(plant([A, B]))
    one.values[20] = 7.0
    one.scan()
    one.swap(plant([A | {"fingerprint": 21}, B]))
    one.wait(2)
    assert one.interlock(20).state == InterlockState.NORMAL


def test_a_tag_that_is_none_of_its_own_puts_no_ride_through_off(
    begin: Callable[..., Plant],
) -> None:
    """A window that is uncovered since its sensor failed is not starting once more."""
    one = begin(averaged())
    one.wait(5)
    assert one.interlock(20).state == InterlockState.NORMAL
    for after in range(20):
        if after == 12:
            one.guard.offer(blobs.build(averaged({"key": 21})))
        one.guard.step(500 * MS)
        if one.guard.load_code == ResultCode.DONE and after == 12:
            one.program = averaged({"key": 21})
    assert one.guard.load_code == ResultCode.DONE
    assert one.interlock(20).state == InterlockState.TRIPPED


def averaged(*more: dict[str, Any]) -> blobs.Program:
    """Interlock 20 over a mean of 5 s that holds its last result for 6 s; others beside it."""
    held = A | {"on_bad": OnBad.HOLD, "hold_max_ns": 6 * SECOND}
    program = plant([held, *more])
    code = Code(program)
    mean = code.window(WindowKind.MEAN, 0, 5 * SECOND, 0)
    cause = code.op(Op.GE, mean, code.const(10.0))
    either = code.op(Op.OR, program.interlocks[0].cause, cause)
    program.interlocks[0] = replace(program.interlocks[0], cause=either)
    return program


def test_a_delay_goes_on_counting(begin: Callable[..., Plant]) -> None:
    one = begin(plant([A | {"delay_ns": 10 * SECOND}, B]))
    one.values[20] = 11.0
    one.scan()
    assert one.interlock(20).state == InterlockState.PENDING
    one.wait(3)
    # Another delay is another fingerprint; three seconds of it have passed.
    one.swap(plant([A | {"delay_ns": 5 * SECOND, "fingerprint": 21}, B]))
    assert one.interlock(20).state == InterlockState.PENDING
    one.wait(1)
    assert one.interlock(20).state == InterlockState.PENDING
    one.wait(1)
    assert one.interlock(20).state == InterlockState.TRIPPED


REMOVES = {
    "gone": plant([B]),
    "renamed": plant([A | {"key": 21}, B]),
    "disarmed": plant([A | {"flags": InterlockFlag.LATCH}, B]),
    "without its effect": plant([A | {"effects": ((4, 0),)}, B]),
    "with a later effect": plant([A | {"effects": ((3, 60 * SECOND),)}, B]),
    "output gone": plant([A | {"effects": ((4, 0),)}, B], (4,)),
}


@pytest.mark.parametrize("state", [InterlockState.TRIPPED, InterlockState.READY_TO_RESET])
@pytest.mark.parametrize("name", REMOVES)
def test_a_trip_never_vanishes(
    begin: Callable[..., Plant], name: str, state: InterlockState
) -> None:
    one = tripped(begin, plant([A, B]))
    if state == InterlockState.READY_TO_RESET:
        one.values[20] = 1.0
        one.scan()
    program = one.guard.view.header().program
    assert one.swap(REMOVES[name])[0] == ResultCode.WOULD_REMOVE_TRIP
    assert one.guard.view.header().program == program
    assert one.interlock(20).state == state
    assert one.output(3).state == OutputState.TRIPPED


@pytest.mark.parametrize("name", REMOVES)
def test_what_is_not_tripped_may_go(begin: Callable[..., Plant], name: str) -> None:
    one = begin(plant([A, B]))
    code, weakened = one.swap(REMOVES[name])
    assert code == ResultCode.DONE
    assert weakened == 1


def test_an_output_on_its_way_back_may_not_go(begin: Callable[..., Plant]) -> None:
    one = tripped(begin, plant([A, B]))
    one.values[20] = 1.0
    one.scan()
    one.guard.send(MessageType.RESET, reset(1, 20))
    one.scan()
    assert one.output(3).state == OutputState.RELEASING
    assert one.swap(REMOVES["output gone"])[0] == ResultCode.WOULD_REMOVE_TRIP
    one.confirm(3)
    assert one.swap(REMOVES["output gone"])[0] == ResultCode.DONE


@pytest.mark.parametrize("change", [{"address": 77}, {"trip": 1, "normal": 0}])
def test_a_tripped_output_written_otherwise_is_written_anew(
    begin: Callable[..., Plant], change: dict[str, int]
) -> None:
    one = tripped(begin, plant([A, B]))
    assert one.swap(plant([A, B], changed={3: change})) == (ResultCode.DONE, 1)
    assert one.output(3).state == OutputState.TRIPPING
    one.confirm(3)
    assert one.output(3).state == OutputState.TRIPPED
    assert one.output(3).commanded == change.get("trip", 0)


def test_a_tripped_output_that_stays_is_left_alone(begin: Callable[..., Plant]) -> None:
    one = tripped(begin, plant([A, B]))
    one.swap(plant([A, B], changed={3: {"reassert_ns": 2 * SECOND}}))
    assert one.output(3).state == OutputState.TRIPPED
    assert one.output(3).confirmed


def test_a_released_output_somewhere_else_is_held(begin: Callable[..., Plant]) -> None:
    one = tripped(begin, plant([A, B]))
    one.values[20] = 1.0
    one.scan()
    one.guard.send(MessageType.RESET, reset(1, 20))
    one.scan()
    one.confirm(3)
    assert one.output(3).state == OutputState.RELEASED
    one.swap(plant([A, B], changed={3: {"address": 77}}))
    assert one.output(3).state == OutputState.HELD
    assert one.guard.wish(0) == 0


SAME = [A, B]
WEAKENS: dict[str, tuple[blobs.Program, blobs.Program, int]] = {
    "nothing": (plant(SAME), plant(SAME), 0),
    "one more": (plant(SAME), plant([A, B, {"key": 40}]), 0),
    "one more effect": (plant(SAME), plant([A | {"effects": ((3, 0), (4, 0))}, B]), 0),
    "an unarmed one goes": (plant([A, B | {"flags": InterlockFlag.LATCH}]), plant([A]), 0),
    "armed": (plant([A, B | {"flags": InterlockFlag.LATCH}]), plant(SAME), 0),
    "gone": (plant(SAME), plant([B]), 1),
    "both changed": (
        plant(SAME), plant([A | {"fingerprint": 1}, B | {"fingerprint": 2}]), 2,
    ),
    "an effect later": (plant(SAME), plant([A | {"effects": ((3, MS),)}, B]), 1),
    "its output slower": (plant(SAME), plant(SAME, changed={3: {"confirm_ns": SECOND}}), 1),
    "its device": (
        plant(SAME), plant(SAME, devices=[replace(guard_program().devices[0], port=503)]), 2,
    ),
    "a fallback less": (plant(SAME, fallbacks=((3, 4),)), plant(SAME), 1),
    "a fallback more": (plant(SAME), plant(SAME, fallbacks=((3, 4),)), 0),
    "more bypassed at once": (
        plant([A | {"group": 0}, B]), plant([A | {"group": 0}, B], groups=[blobs.Group(5, 3)]), 1,
    ),
    "a slower tick": (plant(SAME), plant(SAME, tick_ns=20 * MS), 2),
    "a faster tick": (plant(SAME), plant(SAME, tick_ns=5 * MS), 0),
    "overruns": (plant(SAME), plant(SAME, on_overrun=2), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", WEAKENS)
def test_what_weakens_is_counted(begin: Callable[..., Plant], name: str) -> None:
    old, new, count = WEAKENS[name]
    one = begin(old)
    assert one.swap(new) == (ResultCode.DONE, count)
    if name != "nothing":
        assert one.told()["weakened"] == count


def test_a_guard_that_dies_between_moving_and_moved_knows_every_latch(
    begin: Callable[..., Plant],
) -> None:
    """Half the table overwritten, the copy whole: what the copy says counts."""
    one = tripped(begin, plant([A, B]))
    offsets = _regions(one.guard)
    pairs = one.guard.memory_at(offsets[1], 2 * SPARE)
    spare = one.guard.memory_at(offsets[11], 2 * SPARE)
    spare[:] = pairs
    outputs = one.guard.memory_at(offsets[3], 2 * SPARE)
    one.guard.memory_at(offsets[11] + 1024 * SPARE, 2 * SPARE)[:] = outputs
    pairs[:] = bytes(2 * SPARE)
    outputs[:] = bytes(2 * SPARE)
    struct.pack_into("<I", one.guard.memory_at(MOVING_AT, 4), 0, 1)
    for view in (pairs, spare, outputs):
        view.release()
    one.guard.restart(blobs.build(one.program))
    assert one.interlock(20).state == InterlockState.TRIPPED
    assert one.interlock(20).generation == 1
    assert one.interlock(30).state == InterlockState.NORMAL
    assert one.output(3).state == OutputState.TRIPPING
    assert one.guard.restored == 0
    assert bytes(one.guard.memory_at(MOVING_AT, 4)) == bytes(4)


def _regions(guard: Any) -> dict[int, int]:
    header = bytes(guard.memory_at(0, 512))
    return {
        ident: offset
        for ident, _version, offset, _bytes, _count in struct.iter_unpack(
            "<IIQII", header[64 : 64 + 11 * 24]
        )
    }


def test_many_swaps_lose_nothing(begin: Callable[..., Plant]) -> None:
    """Interlocks come and go at random around those that are tripped."""
    chance = random.Random(7)
    keys = list(range(10, 60))
    held = set(chance.sample(keys, 9))
    first = plant([{"key": key} for key in keys], (3, 4))
    one = begin(first)
    for key in held:
        one.values[key] = 11.0
    one.scan()
    for _ in range(40):
        others = [key for key in keys if key not in held and chance.random() < 0.5]
        code, _ = one.swap(plant([{"key": key} for key in sorted(held | set(others))], (3, 4)))
        assert code == ResultCode.DONE
        for item in one.program.interlocks:
            latch = one.interlock(item.key)
            assert latch.key == item.key
            assert (latch.state == InterlockState.TRIPPED) == (item.key in held)
            assert latch.generation == (1 if item.key in held else 0)
