"""Where the guard and the reference once disagreed, each in its smallest history."""

from typing import Any

import msgspec
import pytest

from fastpath.codes import (
    EventType,
    InterlockLatchFlag,
    InterlockState,
    OutputCode,
    OutputDemand,
    OutputState,
)
from fastpath.records import payload_of
from gateway.site import model
from gateway.site.model import Config
from tests.helpers import twins
from tests.helpers.blobs import MS, SECOND
from tests.helpers.histories import DEVICES, Step
from tests.helpers.twins import Trace

TAGS = tuple(
    model.Tag(
        id=each, device="plc", point=model.Point(address=where),
        poll=model.Duration(50 * MS), stale_after=model.Duration(20 * SECOND), record="change",
    )
    for each, where in (("b1", "di:0"), ("b2.on", "di:1"), ("n1", "ir:0"))
)  # fmt: skip


def output(ident: str, number: int = 0, **changes: Any) -> model.Output:
    """One that answers at once."""
    return model.Output(
        id=ident, device="plc", address=f"c:{number}", trip=False, normal=True, **changes
    )


def interlock(ident: str, *outputs: str, delay_ns: int = 0, **changes: Any) -> model.Interlock:
    """Armed, with b1 for its cause; its effects ``delay_ns`` later."""
    wanted: dict[str, Any] = {"cause": "b1", "armed": True, **changes}
    effects = tuple(model.Effect(output=each, delay=model.Duration(delay_ns)) for each in outputs)
    return model.Interlock(id=ident, effects=effects, response=model.Duration(2 * SECOND), **wanted)


def site(outputs: list[model.Output], interlocks: list[model.Interlock]) -> Config:
    """So many of them at one PLC with a heartbeat."""
    return Config(
        site=model.Site(id="north"), device=DEVICES, tag=TAGS, output=tuple(outputs),
        interlock=tuple(interlocks),
    )  # fmt: skip


def lived(stepping: Any, config: Config, *steps: Any, edited: Config | None = None) -> list[Trace]:
    """A history of (op, ..., ns until the scan), through both guards."""
    history = [Step(tuple(ops), after_ns) for *ops, after_ns in steps]
    return twins.run(
        stepping.Stepper, config, [] if edited is None else [edited], history
    ).trace  # fmt: skip


def codes(scan: Trace, kind: EventType) -> list[int]:
    """Of the scan's records of one type."""
    return [payload_of(each)["code"] for each in scan.events if each.type == kind]


CALM, GAS = ("calm", 0.0, False), ("calm", 0.0, True)
RESET, RELEASE = ("reset", "all", 0, 1), ("release", "all", 1, 0)


@pytest.mark.parametrize("permissive", ["b2.on", "1oo1(b2.on)", "not 1oo1(b2.on)"])
def test_a_bypassed_tag_permits_nothing_however_it_votes(stepping: Any, permissive: str) -> None:
    one = interlock("i1", "o1", permissive=permissive, bypass_votes="trip")
    trace = lived(
        stepping, site([output("o1")], [one]),
        (("trip", "i1"), 10 * MS), (("bypass", "tag", "b2.on", SECOND, 1), 10 * MS), (10 * MS,),
    )  # fmt: skip
    assert trace[-1].interlocks["i1"].state == InterlockState.TRIPPED


def test_what_is_awaited_is_demanded_to_a_release_of_the_same_scan(stepping: Any) -> None:
    """The reset comes first, but the demand is that of the last scan."""
    one = interlock("i1", "o1", delay_ns=SECOND, cause="not b1")
    trace = lived(
        stepping, site([output("o1")], [one]),
        (CALM, 10 * MS), (GAS, 10 * MS), (RESET, RELEASE, 10 * MS), (RELEASE, 10 * MS),
    )  # fmt: skip
    assert [sorted(each.code for each in scan.results.values()) for scan in trace[-2:]] == [
        [1, 4], [1],
    ]  # fmt: skip


def test_a_torn_latch_keeps_the_failure_and_no_silence(stepping: Any) -> None:
    """What a damaged copy says of the demand was once believed."""
    for copy, byte in (("a", 8), ("a", 12), ("b", 12)):
        config = site([output("o1", silence=model.Duration(30 * SECOND))], [interlock("i1", "o1")])
        trace = lived(
            stepping, config,
            (CALM, ("replies", "o1", "refused"), 10 * MS), (GAS, 10 * MS), (SECOND,),
            (RELEASE, 10 * MS), (("torn", "output", 0, copy, byte), 10 * MS),
        )  # fmt: skip
        assert OutputDemand.SILENCED & trace[-2].outputs["o1"].demands
        kept = OutputDemand.CAUSE | OutputDemand.FAILED
        assert trace[-1].outputs["o1"].demands == kept
        assert trace[-1].outputs["o1"].state == OutputState.TRIPPING


def test_a_silenced_siren_that_stands_in_for_what_fails_sounds_again(stepping: Any) -> None:
    siren = output("o2", 1, silence=model.Duration(30 * SECOND))
    config = site(
        [output("o1", fallback=("o2",)), siren], [interlock("i1", "o1"), interlock("i2", "o2")]
    )
    trace = lived(
        stepping, config,
        (CALM, 10 * MS), (("replies", "o1", "none"), GAS, 10 * MS),
        (("release", "o2", 1, 0), 10 * MS), (SECOND,),
    )  # fmt: skip
    assert codes(trace[-1], EventType.OUT_FAILED) == [OutputCode.TIMEOUT]
    assert codes(trace[-1], EventType.OUT_TRIP) == [OutputCode.SOUNDS_AGAIN]


def test_a_trip_is_heard_although_a_program_took_as_many_away(stepping: Any) -> None:
    """What trips anew sounds a silenced siren, also while what tripped before leaves the site."""
    siren = output("o1", silence=model.Duration(30 * SECOND))
    stays = interlock("i1", "o1", cause="b1", latch=False)
    gone = interlock("i2", "o1", cause="b2.on")
    keeps = interlock("i3", "o1", cause="sys.gateway.alive")
    trace = lived(
        stepping, site([siren], [stays, gone, keeps]),
        (("calm", 0.0, False), 10 * MS),
        (("trip", "i2"), 10 * MS), (RESET, 10 * MS), (("trip", "i3"), 10 * MS),
        (RELEASE, 10 * MS), (("swap", 1), 10 * MS),
        (("plant", "b1", (1.0, 2, 0)), 10 * MS),
        edited=site([siren], [stays, keeps]),
    )  # fmt: skip
    assert codes(trace[-1], EventType.OUT_TRIP) == [OutputCode.SOUNDS_AGAIN]


def test_a_covered_window_that_overflows_is_not_waited_for(stepping: Any) -> None:
    """It is bad at once, not starting: 1e300 over a quarter of a second in ns is no number."""
    one = interlock("i1", "o1", cause="(n1 = mean(n1, 250ms)) for 5ms")
    trace = lived(
        stepping, site([output("o1")], [one]),
        (("plant", "n1", (1e300, 2, 0)), 10 * MS), (250 * MS,), (10 * MS,),
    )  # fmt: skip
    assert trace[-1].interlocks["i1"].state == InterlockState.TRIPPED


def test_a_tripped_output_that_is_given_a_normal_value_stays_confirmed(stepping: Any) -> None:
    """The same trip value is written to the same place."""
    config = site([output("o1")], [interlock("i1", "o1")])
    trace = lived(
        stepping, site([msgspec.structs.replace(config.output[0], trip=True, normal=None)],
                       [interlock("i1", "o1")]),
        (CALM, 10 * MS), (GAS, 10 * MS), (10 * MS,), (("swap", 1), 10 * MS), (10 * MS,),
        edited=site([msgspec.structs.replace(config.output[0], trip=True, normal=False)],
                    [interlock("i1", "o1")]),
    )  # fmt: skip
    assert trace[-1].outputs["o1"].state == OutputState.TRIPPED
    assert trace[-1].outputs["o1"].confirmed


def test_a_word_of_the_gateway_before_it_was_asked_waits_for_a_newer_reading(stepping: Any) -> None:
    """After a restart: the result of the life before, and a reading of nobody knows when."""
    slow = msgspec.structs.replace(output("o1", readback="not b2.on"), via="gateway")
    trace = lived(
        stepping, site([slow], [interlock("i1", "o1")]),
        (("plant", "b2.on", (1.0, 2, 0)), ("trip", "i1"), ("contacts", False), 10 * MS),
        (("restart",), ("result", "o1", 0, 1), 10 * MS), (10 * MS,),
    )  # fmt: skip
    assert [scan.outputs["o1"].confirmed for scan in trace[-2:]] == [0, 1]


def test_a_bypass_that_came_over_a_reboot_is_ended_with_its_torn_latch(stepping: Any) -> None:
    trace = lived(
        stepping, site([output("o1")], [interlock("i1", "o1")]),
        (CALM, SECOND), (("bypass", "interlock", "i1", 60 * SECOND, 1), 10 * MS), (10 * MS,),
        (("reboot",), ("torn", "interlock", 0, "a", 8), 10 * MS),
    )  # fmt: skip
    kinds = [each.type for scan in trace for each in scan.events]
    assert kinds.count(EventType.BYPASS) == 1
    assert kinds.count(EventType.BYPASS_END) == 1
    assert kinds.index(EventType.TRIP) < kinds.index(EventType.BYPASS_END)


def test_a_swap_gives_grace_to_those_that_read_what_is_new(stepping: Any) -> None:
    never_fed = msgspec.structs.replace(TAGS[2], id="n3", device="logger")
    one = interlock("i2", "o1", cause="b1 and n3 > 2")
    configs = [
        msgspec.structs.replace(
            site([output("o1")], [interlock("i1", "o1", cause=cause), one]), tag=(*TAGS, never_fed)
        )
        for cause in ("b1", "not sys.gateway.alive")
    ]
    trace = lived(
        stepping, configs[0], *((10 * MS,) for _ in range(18)), (("swap", 1), 6 * SECOND),
        (10 * MS,), edited=configs[1],
    )  # fmt: skip
    assert EventType.PROGRAM in {each.type for each in trace[-1].events}
    flags = InterlockLatchFlag(trace[-1].interlocks["i2"].flags)
    assert InterlockLatchFlag.STARTING not in flags
