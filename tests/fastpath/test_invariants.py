"""What holds in every life of a guard, over the traces of random sites and histories."""

from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from fastpath.codes import EventType, InterlockLatchFlag, InterlockState, OutputDemand, OutputState
from gateway.site.model import Config
from tests.fastpath.test_differential import Case, cases
from tests.helpers import twins
from tests.helpers.histories import SLOW, Op, Step
from tests.helpers.plants import GOOD
from tests.helpers.twins import Trace

HELD = (InterlockState.TRIPPED, InterlockState.READY_TO_RESET)
TRIPS = (OutputState.TRIPPING, OutputState.TRIPPED, OutputState.TRIP_FAILED)
TRIP, NORMAL = 1, 2  # wishes


def lives(count: int) -> settings:
    """So many, always the same ones."""
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


def without(history: list[Step], *names: str) -> list[Step]:
    """The same history in which some things do not happen."""
    return [
        Step(tuple(op for op in each.ops if op[0] not in names), each.after_ns) for each in history
    ]


# ---- laws of one run -----------------------------------------------------------------------------


def what_holds_commands(scan: Trace) -> int:
    """An armed interlock that is tripped or ready has its outputs at trip; sirens may be silent."""
    count = 0
    for one in scan.running.interlock:
        latch = scan.interlocks[one.id]
        if not one.armed or latch.state not in HELD or latch.flags & InterlockLatchFlag.WITHHELD:
            continue
        for effect in one.effects:
            output = scan.outputs[effect.output]
            if effect.delay == 0 and not output.demands & OutputDemand.SILENCED:
                count += 1
                assert output.state in TRIPS
    return count


def one_way_to_each_output(scan: Trace) -> int:
    """The guard's wire or the gateway, and no place that two outputs drive."""
    outputs = scan.running.output
    for one in outputs:
        if one.via == "gateway":
            assert scan.wishes[one.id] == 0
    places = [(one.device, one.unit, one.address) for one in outputs if one.via is None]
    assert len(places) == len(set(places))
    return sum(wish != 0 for wish in scan.wishes.values())


def normal_is_nobodys_second_wish(scan: Trace) -> int:
    """The normal value is wished for in RELEASING alone, where nothing demands the trip."""
    wished = [each for each, wish in scan.wishes.items() if wish == NORMAL]
    for each in wished:
        latch = scan.outputs[each]
        assert latch.state == OutputState.RELEASING
        demands = OutputDemand.CAUSE | OutputDemand.FALLBACK
        assert not latch.demands & demands or latch.demands & OutputDemand.SILENCED
    return len(wished)


def what_failed_has_its_fallbacks(scan: Trace) -> int:
    """From the scan of its failure on until it is let go."""
    failed = [
        each for each in scan.running.output
        if scan.outputs[each.id].demands & OutputDemand.FAILED
    ]  # fmt: skip
    for one in failed:
        for name in one.fallback:
            stands = scan.outputs[name]
            assert stands.demands & OutputDemand.FALLBACK
            assert stands.state in TRIPS or stands.demands & OutputDemand.SILENCED
    return sum(len(one.fallback) for one in failed)


@pytest.mark.timeout(300)
def test_the_laws_of_one_run(stepping: Any) -> None:
    laws = (
        what_holds_commands, one_way_to_each_output, normal_is_nobodys_second_wish,
        what_failed_has_its_fallbacks,
    )  # fmt: skip
    spoke: Counter[str] = Counter()

    @given(cases())
    @lives(60)
    def checked(case: Case) -> None:
        trace = twins.run(stepping.Stepper, *case).trace
        for scan in trace:
            for law in laws:
                spoke[law.__name__] += law(scan)
        for before, after in pairwise(trace):
            if before.life != after.life:  # what another process was told confirms nothing
                spoke["lives"] += 1
                for output in after.outputs.values():
                    assert output.state != OutputState.TRIPPED

    checked()
    assert all(spoke[law.__name__] >= 5 for law in laws), spoke
    assert spoke["lives"] >= 20


# ---- laws of two runs ----------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_no_wall_clock_moves_an_output(stepping: Any) -> None:
    """The same history without its steps of the wall clock commands the same."""

    @given(cases())
    @lives(25)
    def checked(case: Case) -> None:
        config, edited, history = case
        first = twins.run(stepping.Stepper, config, edited, history).trace
        second = twins.run(stepping.Stepper, config, edited, without(history, "utc")).trace
        assert [each.wishes for each in first] == [each.wishes for each in second]

    checked()


def of_its_own(config: Config) -> Config:
    """The site whose guard reads and writes everything itself, and asks nothing of the gateway."""
    replace = msgspec.structs.replace
    return replace(
        config,
        tag=tuple(replace(t, device="plc") if t.id == SLOW else t for t in config.tag),
        output=tuple(replace(each, via=None) for each in config.output),
        interlock=tuple(
            replace(
                each,
                cause=each.cause.replace("sys.gateway.alive", "b1"),
                permissive=each.permissive and each.permissive.replace("sys.gateway.alive", "b1"),
            )
            for each in config.interlock
        ),
    )


PEOPLE = ("trip", "reset", "release", "bypass", "bypass_end", "stop", "swap", "again")


def left_alone(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """Nothing comes of the gateway: what calms the plant calms the fast device alone."""
    found: list[Op] = []
    for op in ops:
        if op[0] == "calm":
            found += [("polling", True)]
            found += [("plant", each, (op[1], GOOD, 0)) for each in ("n1", "n2")]
            found += [("plant", each, (float(op[2]), GOOD, 0)) for each in ("b1", "b2.on")]
        elif op[0] not in ("sample", "result", "gateway"):
            found.append(op)
    return tuple(found)


def told(scan: Trace) -> list[Any]:
    """All that the guard did but with its gateway."""
    gateway = (EventType.GATEWAY_UP, EventType.GATEWAY_DOWN)
    events = sorted((each.type, each.key) for each in scan.events)
    states = [(name, each.state, each.generation) for name, each in scan.interlocks.items()]
    outputs = [(name, each.state, each.demands) for name, each in scan.outputs.items()]
    return [
        scan.wishes, scan.withheld, states, outputs,
        [each for each in events if each[0] not in gateway],
    ]  # fmt: skip


@pytest.mark.timeout(300)
def test_no_gateway_moves_an_output(stepping: Any) -> None:
    """One that speaks, one that is frozen and one that is dead make no difference to the guard."""
    wishes = 0

    @given(cases())
    @lives(25)
    def checked(case: Case) -> None:
        nonlocal wishes
        config = of_its_own(case[0])
        speaks = without(case[2], *PEOPLE)
        dead = [Step(left_alone(each.ops), each.after_ns) for each in speaks]
        frozen = [Step((("gateway", True), *dead[0].ops), dead[0].after_ns), *dead[1:]]
        runs = [twins.run(stepping.Stepper, config, [], each).trace for each in (speaks, frozen)]
        last = [told(scan) for scan in twins.run(stepping.Stepper, config, [], dead).trace]
        for trace in runs:
            assert [told(scan) for scan in trace] == last
        wishes += sum(wish == TRIP for scan in last for wish in scan[0].values())

    checked()
    assert wishes >= 20
