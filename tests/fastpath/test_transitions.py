"""Scripted lives that take every row of the three state tables; a row not taken is named."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import (
    NONE_U32,
    InterlockFlag,
    MessageType,
    OnBad,
    OutputFlag,
    ResultCode,
)
from tests.fastpath.transitions import TABLES, missing, taken
from tests.helpers.blobs import MS, SECOND
from tests.helpers.guard import mine
from tests.helpers.lives import Life, Scan
from tests.helpers.outputs import add_interlock, add_output, via_gateway

Begin = Callable[..., Life]
Script = Callable[[Begin], None]
ARMED, LATCH = InterlockFlag.ARMED, InterlockFlag.LATCH
GAS, AIR = 2.0, 0.4


def site(**changes: Any) -> blobs.Program:
    return mine(502, **{"bypass_max_ns": 100 * SECOND, **changes})


def tripped(life: Life) -> None:
    life.scan()
    life.gas(GAS)
    life.scan(times=3)


# ---- interlocks ----------------------------------------------------------------------------------


def resets(begin: Begin) -> None:
    life = begin(site())
    life.scan(times=2)
    assert life.reset() == ResultCode.ALREADY
    tripped(life)
    assert life.reset() == ResultCode.CAUSE_PRESENT
    life.plant.bad = {0, 1, 2}
    life.scan()
    assert life.reset() == ResultCode.CAUSE_UNKNOWN
    life.plant.bad = set()
    life.gas(AIR)
    life.gas(1.2, AIR, AIR)  # not permitted
    assert life.reset() == ResultCode.PERMISSIVE
    life.gas(AIR)
    assert life.reset(off=1) == ResultCode.WRONG_GENERATION
    life.gas(GAS)
    life.gas(AIR)
    assert life.reset() == ResultCode.DONE
    life.scan(times=3)


def without_a_latch(begin: Begin) -> None:
    life = begin(site(flags=ARMED, min_trip_ns=SECOND))
    tripped(life)
    life.gas(AIR)
    assert life.reset() == ResultCode.MINIMUM_TRIP_TIME
    life.until(2 * SECOND)
    life.lose_power()
    life.scan(times=3)


def delays(begin: Begin) -> None:
    life = begin(site(delay_ns=SECOND))
    life.scan()
    for _ in range(2):
        life.gas(GAS)
        life.gas(AIR)
    life.gas(GAS)
    assert life.reset() == ResultCode.CAUSE_PRESENT
    life.restart()
    life.scan()
    life.swap(site(delay_ns=SECOND, min_trip_ns=MS))
    life.until(SECOND)
    life.gas(AIR)
    life.reset()
    life.gas(GAS)
    assert life.order(MessageType.TRIP, 7) == ResultCode.DONE


def unknowns(begin: Begin) -> None:
    life = begin(site(on_bad=OnBad.IGNORE))
    tripped(life)
    life.gas(AIR)
    life.plant.bad = {0, 1, 2}
    life.scan()


def by_hand(begin: Begin) -> None:
    life = begin(site(min_trip_ns=SECOND))
    life.scan()
    for _ in range(2):
        assert life.order(MessageType.TRIP, 7) == ResultCode.DONE
        assert life.order(MessageType.TRIP, 7) == ResultCode.ALREADY
        life.until(2 * SECOND)  # ready
    assert life.reset() == ResultCode.DONE
    assert bypass(life) == ResultCode.DONE
    assert life.order(MessageType.TRIP, 7) == ResultCode.DONE


def lives(begin: Begin) -> None:
    """Restarts and swaps in each state."""
    life = begin(site())
    life.scan()
    for number, gas in enumerate((AIR, GAS, AIR), start=1):
        life.gas(gas)
        life.scan(times=2)
        life.restart()
        life.scan()
        life.swap(site(min_trip_ns=number))
        life.scan()
    life.lose_power()
    life.scan(times=3)


def groups(begin: Begin) -> None:
    program = site()
    add_interlock(program, 8, 0)
    add_interlock(program, 9, 0, delay_ns=50 * MS)
    life = begin(program)
    tripped(life)
    life.until(SECOND)


def damage(begin: Begin) -> None:
    life = begin(site())
    life.scan(times=2)
    interlock, output = life.guard.interlock_at(0), life.guard.output_at(0)
    life.guard.memory_at(interlock + 8, 1)[0] ^= 4
    life.guard.memory_at(output + 8, 1)[0] ^= 4
    life.restart()
    life.scan()


def broken_code(begin: Begin) -> None:
    life = begin(site(min_trip_ns=SECOND))
    life.scan()
    life.guard.break_code()
    life.scan()


def overrun(begin: Begin) -> None:
    life = begin(site(), start_ns=SECOND)  # an hour ago, by the real clock: a scan takes long
    life.scan()


# ---- bypasses ------------------------------------------------------------------------------------


def bypass(life: Life, duration_ns: int = 10 * SECOND, key: int = 7) -> int | None:
    return life.order(MessageType.BYPASS_START, key, kind=1, duration_ns=duration_ns, ledger_seq=1)


def end(life: Life) -> int | None:
    return life.order(MessageType.BYPASS_END, 7, kind=1)


def withheld(begin: Begin) -> None:
    life = begin(site())
    life.scan(times=2)
    bypass(life)
    life.gas(GAS)
    life.gas(AIR)
    life.until(10 * SECOND)
    bypass(life)
    life.gas(GAS)
    life.until(11 * SECOND)
    life.gas(AIR)
    life.reset()
    for gas in (AIR, GAS):
        bypass(life)
        life.gas(gas)
        assert end(life) == ResultCode.DONE


def begun_on_a_trip(begin: Begin) -> None:
    for gas, reset in ((GAS, True), (AIR, True), (GAS, False), (AIR, False)):
        life = begin(site(min_trip_ns=30 * SECOND, permissive=NONE_U32))
        tripped(life)
        bypass(life)
        life.gas(gas)
        if reset:
            assert life.reset() == ResultCode.DONE
        life.until(12 * SECOND)
    life = begin(site())
    tripped(life)
    life.gas(AIR)
    bypass(life)
    life.restart()
    life.scan()
    life.lose_power()
    life.scan()
    life = begin(site(delay_ns=SECOND))
    life.scan()
    life.gas(GAS)
    bypass(life)


def forbidden(begin: Begin) -> None:
    for gas in (AIR, GAS):
        life = begin(site())
        life.scan(times=2)
        bypass(life)
        life.gas(gas)
        life.swap(site(flags=ARMED | LATCH | InterlockFlag.NO_BYPASS))
        life.scan()
        assert bypass(life) == ResultCode.NOT_ALLOWED


def limits(begin: Begin) -> None:
    program = site()
    add_interlock(program, 8, 0)
    life = begin(program)
    life.scan()
    assert bypass(life, 101 * SECOND) == ResultCode.LIMIT
    assert bypass(life) == ResultCode.DONE
    assert bypass(life, key=8) == ResultCode.LIMIT  # one of its group


# ---- outputs -------------------------------------------------------------------------------------


def breaker(**changes: Any) -> blobs.Program:
    """With a main switch (key 4) for when the breaker fails."""
    program = site()
    program.outputs[0] = replace(program.outputs[0], **changes)
    add_output(program, 4)
    program.fallbacks = [blobs.Fallback(0, 1)]
    return program


def failures(begin: Begin) -> None:
    for how in ("refused", "silent"):
        life = begin(breaker())
        life.scan()
        life.plant.answers = {0: how, 1: how}
        life.gas(GAS)
        life.until(7 * SECOND)  # nothing is confirmed for longer than the watchdog
        life.plant.answers = {}
        life.until(2 * SECOND)
        life.plant.follows = False
        life.plant.contact = 1.0
        life.until(2 * SECOND)
        life.restart()
        life.scan()


def unverified(begin: Begin) -> None:
    life = begin(site())
    tripped(life)
    life.guard.link_down(0)
    life.scan(times=2)
    life.guard.link_up(0)
    life.scan(times=3)
    life.plant.bad = {3}
    life.scan(times=2)


def releases(begin: Begin) -> None:
    """The demand ends in each state that trips."""
    for how in ("good", "lost", "refused"):
        life = begin(breaker())
        life.scan()
        life.plant.answers = {0: how}
        life.gas(GAS)
        if how == "lost":
            life.restart()
            life.scan()
        else:
            life.scan(times=5)
        life.gas(AIR)
        life.reset()
        life.scan(times=3)
    life = begin(breaker(flags=OutputFlag(0)))
    tripped(life)
    life.gas(AIR)
    life.reset()


def held(begin: Begin) -> None:
    """A release that is not taken, and one that comes too late."""
    for how, ns in (("refused", 4 * SECOND), ("lost", 11 * SECOND)):
        life = begin(site())
        tripped(life)
        life.gas(AIR)
        life.plant.answers = {0: how}
        life.reset()
        life.until(ns)
        life.restart()
        life.scan()
        assert life.order(MessageType.RELEASE, 3, ledger_seq=1) == ResultCode.DONE
        life.restart()
        life.gas(GAS)
        life.gas(AIR)
        life.plant.answers = {}
        life.scan(times=2)
        life.plant.answers = {0: "lost"}
        life.reset()
        life.gas(GAS)


def slow_outputs(begin: Begin) -> None:
    program = site()
    add_output(program, 4)
    via_gateway(program, 1, confirm_ns=500 * MS)
    program.effects = [blobs.Effect(0, 1)]
    program.fallbacks = [blobs.Fallback(1, 0)]
    life = begin(program)
    life.scan()
    life.gas(GAS)
    life.plant.answers = {1: "lost"}
    life.until(SECOND)  # nobody is there
    life = begin(program)
    life.plant.answers = {1: "lost"}
    life.guard.connect()
    life.scan()
    life.gas(GAS)
    generation = life.state.outputs[4].generation
    life.guard.send(MessageType.OUTPUT_RESULT, messages.OUTPUT_RESULT.pack(4, generation, 1))
    life.scan(times=2)


LIVES: tuple[Script, ...] = (
    resets, without_a_latch, delays, unknowns, by_hand, lives, groups, damage, broken_code,
    overrun, withheld, begun_on_a_trip, forbidden, limits, failures, unverified, releases, held,
    slow_outputs,
)  # fmt: skip


def played(stepper_type: Any, script: Script) -> list[Scan]:
    """The traces of all the lives of a script."""
    begun: list[Life] = []

    def begin(program: blobs.Program, **how: Any) -> Life:
        begun.append(Life(stepper_type, program, **how))
        return begun[-1]

    try:
        script(begin)
    finally:
        for life in begun:
            life.close()
    return [scan for life in begun for scan in life.trace]


def test_every_row_of_the_state_tables_is_taken(
    stepping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found: set[tuple[str, str]] = set()
    scans = 0
    for script in LIVES:
        trace = played(stepping.Stepper, script)
        found |= taken(trace)
        scans += len(trace)
    counts = ", ".join(f"{table} {len(rows)}" for table, rows in TABLES.items())
    with capsys.disabled():
        print(f"\n{len(found)} rows taken in {scans} scans (of {counts})")
    left = missing(found)
    assert not left, "\n".join(["not taken:", *left])


def test_nothing_permits_a_reset_while_the_cause_is_there(stepping: Any) -> None:
    def reset(begin: Begin) -> None:
        life = begin(site(permissive=NONE_U32))
        tripped(life)
        assert life.reset() == ResultCode.CAUSE_PRESENT
        assert life.guard.view.interlock(0).state == 3  # TRIPPED

    played(stepping.Stepper, reset)
