"""Laws over the traces of random lives: of what is tripped, reset, bypassed, recorded, swapped.

And that a worse input never removes a trip. Seeds are fixed, so that a failure is the same again.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    EventFlag,
    EventType,
    InterlockFlag,
    InterlockLatchFlag,
    InterlockState,
    MessageType,
    OutputState,
    Truth,
)
from tests.fastpath.transitions import TRIPS
from tests.helpers.blobs import MS, SECOND
from tests.helpers.guard import mine
from tests.helpers.lives import Life, Scan, definition, effects_of, of
from tests.helpers.outputs import add_interlock, add_output

NORMAL, PENDING, TRIPPED, READY = InterlockState
HOLDS = (TRIPPED, READY)
BYPASSED, WITHHELD = InterlockLatchFlag.BYPASSED, InterlockLatchFlag.WITHHELD
FIRST = InterlockLatchFlag.FIRST_OUT
AFTER = (10 * MS, 10 * MS, 50 * MS, 300 * MS, 2 * SECOND)
GAS = (0.4, 0.4, 0.4, 1.2, 1.6, 2.0)
LIVES = 60
STEPS = 40


def site(chance: random.Random) -> blobs.Program:
    """Two interlocks of one group and two breakers."""
    latch = chance.choice([InterlockFlag.LATCH, InterlockFlag.LATCH, InterlockFlag(0)])
    program = mine(
        502, bypass_max_ns=100 * SECOND, delay_ns=chance.choice([0, 0, 100 * MS]),
        min_trip_ns=chance.choice([0, SECOND]), flags=latch | InterlockFlag.ARMED,
    )  # fmt: skip
    add_output(program, 4)
    add_interlock(program, 8, 0, 1, flags=InterlockFlag.LATCH | InterlockFlag.ARMED)
    return program


def act(life: Life, chance: random.Random, other: blobs.Program) -> None:
    """One thing that happens."""
    key = chance.choice([7, 8])
    match chance.randrange(14):
        case 0 | 1 | 2 | 3:
            life.plant.gas = [chance.choice(GAS) for _ in range(3)]
        case 4 | 5:
            life.plant.gas, life.plant.bad, life.plant.mute = [0.4] * 3, set(), set()
        case 6:
            life.plant.bad = {chance.randrange(4)}
        case 7:
            life.plant.answers = {0: chance.choice(["good", "refused", "silent", "lost"])}
        case 8 | 9:
            life.reset(key)
        case 10:
            life.order(MessageType.BYPASS_START, key, kind=1, duration_ns=3 * SECOND, ledger_seq=1)
        case 11:
            life.order(chance.choice([MessageType.TRIP, MessageType.BYPASS_END]), key, kind=1)
        case 12:
            chance.choice([life.restart, life.restart, life.lose_power])()
        case 13:
            life.swap(other)


def lived(stepper_type: Any, seed: int) -> list[Scan]:
    chance = random.Random(seed)
    life = Life(stepper_type, site(chance))
    other = site(chance)
    try:
        for _ in range(STEPS):
            act(life, chance, other)
            life.scan(chance.choice(AFTER))
    finally:
        life.close()
    return life.trace


# ---- laws of one scan: how often each had something to say ---------------------------------------


def what_holds_commands(scan: Scan, key: int) -> int:
    """Tripped or ready, and not withheld: each of its outputs is commanded to trip."""
    one = scan.after.interlocks[key]
    if one.state not in HOLDS or one.flags & WITHHELD:
        return 0
    assert all(scan.after.outputs[each].state in TRIPS for each in effects_of(scan, key))
    return 1


def only_a_reset_frees(scan: Scan, key: int) -> int:
    """With a latch: tripped to normal by one authorised reset, clear and permitted, or a bypass."""
    old, new = scan.before.interlocks[key], scan.after.interlocks[key]
    if not definition(scan, key).flags & InterlockFlag.LATCH or old.flags & WITHHELD:
        return 0
    if old.state not in HOLDS or new.state in HOLDS:
        return 0
    assert len(of(scan, key, EventType.RESET)) == 1
    assert any(o.kind == MessageType.RESET and o.key == key and o.code == 1 for o in scan.orders)
    assert scan.permits[key]
    assert scan.causes[key] == Truth.FALSE or old.flags & BYPASSED
    return 1


def normal_is_written_where_nothing_demands(scan: Scan, key: int) -> int:
    one = scan.after.interlocks[key]
    wished = [each for each in effects_of(scan, key) if scan.after.wishes[each] == 2]
    for each in wished:
        assert scan.after.outputs[each].state == OutputState.RELEASING
        assert one.state not in HOLDS or one.flags & WITHHELD
        assert scan.causes[key] != Truth.TRUE or one.flags & WITHHELD or one.state == PENDING
    return len(wished)


def a_cause_acts_at_once(scan: Scan, key: int) -> int:
    one = scan.after.interlocks[key]
    if scan.causes[key] != Truth.TRUE or one.flags & WITHHELD or definition(scan, key).delay_ns:
        return 0
    assert one.state == TRIPPED
    for each in effects_of(scan, key):
        if scan.before.outputs[each].state not in TRIPS:
            assert scan.after.wishes[each] == 1
    return 1


def withheld_inside_a_live_bypass(scan: Scan, key: int) -> int:
    old, new = scan.before.interlocks[key], scan.after.interlocks[key]
    if new.flags & WITHHELD:
        assert new.flags & BYPASSED
        assert new.bypass_until_ns > scan.after.boot_ns
    if old.flags & new.flags & BYPASSED and old.bypass_id == new.bypass_id:
        assert new.bypass_until_ns <= old.bypass_until_ns
    return bool(new.flags & WITHHELD)


def first_out_stays(scan: Scan, key: int) -> int:
    """One per group; it ends only where none of the group is tripped or ready."""
    after = scan.after.interlocks
    held = [k for k, one in after.items() if one.state in HOLDS and not one.flags & WITHHELD]
    assert sum(bool(one.flags & FIRST) for one in after.values()) <= 1
    if not scan.before.interlocks[key].flags & FIRST or not held:
        return 0
    reset = any(e.type in (EventType.RESET, EventType.RETURN) for e in scan.events)
    assert after[key].flags & FIRST or reset
    return 1


STEPS_OF: dict[EventType, tuple[tuple[InterlockState, ...], InterlockState]] = {
    EventType.TRIP: ((NORMAL, PENDING, READY, TRIPPED), TRIPPED),
    EventType.READY: ((TRIPPED,), READY),
    EventType.NOT_READY: ((READY,), TRIPPED),
    EventType.PENDING: ((NORMAL,), PENDING),
    EventType.PENDING_END: ((PENDING,), NORMAL),
    EventType.RESET: ((READY, TRIPPED), NORMAL),
    EventType.RETURN: ((TRIPPED,), NORMAL),
}


def records_are_the_path(scan: Scan, key: int) -> int:
    """No step without its record, none twice, each from a state that has it."""
    state = InterlockState(scan.before.interlocks[key].state)
    count = 0
    for event in of(scan, key, *STEPS_OF, EventType.BYPASS_END):
        if event.type == EventType.BYPASS_END:
            # What was withheld never was a trip.
            withheld = scan.before.interlocks[key].flags & WITHHELD
            state = NORMAL if withheld and state == TRIPPED else state
            continue
        legal, after = STEPS_OF[EventType(event.type)]
        assert state in legal, (EventType(event.type), state)
        if event.flags & EventFlag.WITHHELD and event.type == EventType.TRIP:
            assert state in (NORMAL, PENDING)
        state = after
        count += 1
    assert scan.after.interlocks[key].state == state
    return count


def one_whole_program(scan: Scan, key: int) -> int:
    """Another hash only at a border, with its record."""
    if scan.before.program == scan.after.program:
        return 0
    told = [e for e in scan.events if e.type == EventType.PROGRAM]
    assert [e.payload[:32] for e in told] == [scan.before.program[:16] + scan.after.program[:16]]
    assert scan.after.program == blobs.build(scan.running)[blobs.HASH_AT : blobs.HASH_AT + 32]
    assert key in scan.after.interlocks
    return 1


Law = Callable[[Scan, int], int]
LAWS: dict[Law, int] = {  # and how often each must have had something to say
    what_holds_commands: 500, only_a_reset_frees: 10,
    normal_is_written_where_nothing_demands: 10, a_cause_acts_at_once: 200,
    withheld_inside_a_live_bypass: 50, first_out_stays: 300, records_are_the_path: 300,
    one_whole_program: 20,
}  # fmt: skip


def test_the_laws_hold_in_random_lives(stepping: Any) -> None:
    spoke: Counter[str] = Counter()
    for seed in range(LIVES):
        for scan in lived(stepping.Stepper, seed):
            for law in LAWS:
                if scan.begun and law is not records_are_the_path:
                    continue
                if scan.begun == "power":
                    continue
                for key in scan.running.interlocks:
                    try:
                        spoke[law.__name__] += law(scan, key.key)
                    except AssertionError as error:
                        error.add_note(f"{law.__name__}, seed {seed}, interlock {key.key}")
                        raise
    for law, least in LAWS.items():
        assert spoke[law.__name__] >= least, spoke


def test_no_bytes_change_a_latch_a_bypass_or_the_program(stepping: Any) -> None:
    """Random ones, and real headers before random bodies under keys that are not there."""
    chance = random.Random(1)
    life = Life(stepping.Stepper, site(chance))
    life.scan(times=2)
    life.gas(2.0)
    life.until(SECOND)  # no delay runs any more
    before, sent = life.state, 0
    try:
        for _ in range(2000):
            body = chance.randbytes(chance.randrange(1, 300))
            if chance.random() < 0.5:
                body = messages.pack(chance.choice(list(MessageType)), body, chance.randbytes(16))
            life.guard.raw(body)
            sent += 1
            after = life.scan().after
            assert after.program == before.program
            assert not after.tag_bypasses
            for key, one in after.interlocks.items():
                was = before.interlocks[key]
                assert (one.state, one.generation, one.flags) == (
                    was.state,
                    was.generation,
                    was.flags,
                )
            assert life.guard.asked() is None
    finally:
        life.close()
    assert sent == 2000


# ---- worse never removes a trip ------------------------------------------------------------------


def worsened(stepper_type: Any, seed: int, how: str) -> set[int]:
    """Keys of what was tripped in a life in which, from some step on, inputs are worse."""
    chance = random.Random(seed)
    program = mine(502, delay_ns=chance.choice([0, 100 * MS]))
    add_interlock(program, 8, 0, delay_ns=chance.choice([0, 50 * MS]))
    gas = [[chance.choice(GAS) for _ in range(3)] for _ in range(12)]
    point, slots = chance.randrange(1, 12), set(chance.sample(range(3), chance.randrange(1, 4)))
    life = Life(stepper_type, program)
    try:
        life.scan()
        for number, values in enumerate(gas):
            if number == point:  # what falls silent is stale before anything else changes
                life.plant.mute = slots if how == "stale" else set()
                life.until(600 * MS)
            life.plant.gas = list(values)
            if number >= point and how == "bad":
                life.plant.bad = slots
            elif number >= point and how == "nan":
                life.plant.gas = [
                    float("nan") if n in slots else each for n, each in enumerate(values)
                ]
            life.scan(100 * MS)
        life.until(SECOND)  # what is not read is stale by now
        return {k for k, one in life.state.interlocks.items() if one.state in HOLDS}
    finally:
        life.close()


def test_a_worse_input_never_removes_a_trip(stepping: Any) -> None:
    trips = 0
    for seed in range(60):
        calm = worsened(stepping.Stepper, seed, "not")
        trips += len(calm)
        for how in ("bad", "stale", "nan"):
            assert calm <= worsened(stepping.Stepper, seed, how), (seed, how)
    assert trips >= 40
