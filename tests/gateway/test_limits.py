"""Alarms from limits: every sample counts, deadbands, delays, restarts."""

import math

from fastpath.codes import Quality, Reason
from gateway.alarms.limits import Limits
from gateway.logic.alarms import compile_alarms
from gateway.site.model import Config, Device, Duration, Site, Tag
from gateway.site.model import Limits as TagLimits
from gateway.store.alert import AlertDraft
from tests.gateway.samples import samples_of

TAGS = ("air", "ch4", "plain")
S = 1_000_000_000


def limits_of(**given: TagLimits) -> Limits:
    tags = tuple(
        Tag(id=ident, device="plc", unit="%CH4", limits=given.get(ident)) for ident in TAGS
    )
    config = Config(
        site=Site(id="shaft"),
        device=(Device(id="plc", driver="modbus-tcp", address="127.0.0.1:502"),),
        tag=tags,
    )
    return Limits(compile_alarms(config), TAGS)


def high(delay: int = 0, deadband: float = 0.1) -> TagLimits:
    return TagLimits(
        high=1.0,
        high_high=1.5,
        deadband=deadband,
        delay=Duration(delay),
        priority="high",
        level="orange",
        guidance="Look.",
    )


def short(drafts: list[AlertDraft]) -> list[tuple[str, str, float | None]]:
    return [(draft.source.id, draft.state, draft.value) for draft in drafts]


def test_an_alarm_begins_at_the_limit_and_ends_past_the_deadband() -> None:
    limits = limits_of(ch4=high())
    values = [0.5, 1.0, 0.95, 0.91, 1.2, 0.89, 0.95]
    drafts = limits.feed(samples_of([(1, v, i * 100) for i, v in enumerate(values)]))
    assert short(drafts) == [("ch4.high", "raised", 1.0), ("ch4.high", "cleared", 0.89)]
    begin, end = drafts
    assert (begin.kind, begin.priority, begin.level) == ("alarm", "high", "orange")
    assert (begin.limit, begin.unit, begin.guidance) == (1.0, "%CH4", "Look.")
    assert begin.utc_ns == 100_000_000
    assert (end.kind, end.subject) == ("alarm_end", begin.subject)
    assert begin.cause == "ch4 1 %CH4: high limit 1 %CH4"


def test_no_sample_is_skipped() -> None:
    """A peak between two values that are fine, all in one batch."""
    limits = limits_of(ch4=high())
    drafts = limits.feed(samples_of([(1, 0.2, 0), (1, 1.7, 10), (1, 0.2, 20), (0, 9.0, 20)]))
    assert short(drafts) == [
        ("ch4.high", "raised", 1.7),
        ("ch4.high_high", "raised", 1.7),
        ("ch4.high", "cleared", 0.2),
        ("ch4.high_high", "cleared", 0.2),
    ]


def test_low_limits_point_the_other_way() -> None:
    limits = limits_of(air=TagLimits(low=0.5, low_low=0.2, deadband=0.1))
    drafts = limits.feed(samples_of([(0, 0.5, 0), (0, 0.55, 1), (0, 0.61, 2)]))
    assert short(drafts) == [("air.low", "raised", 0.5), ("air.low", "cleared", 0.61)]
    assert drafts[0].cause == "air 0.5 %CH4: low limit 0.5 %CH4"


def test_a_delay_ends_while_the_value_stands_still() -> None:
    limits = limits_of(ch4=high(delay=2 * S))
    assert limits.feed(samples_of([(1, 1.2, 1_000)])) == []
    assert limits.advance(2_900_000_000, 7) == []
    (draft,) = limits.advance(3_000_000_000, 7)
    assert (draft.source.id, draft.state, draft.utc_ns) == ("ch4.high", "raised", 7)


def test_bad_values_change_nothing() -> None:
    limits = limits_of(ch4=high())
    assert len(limits.feed(samples_of([(1, 1.2, 0)]))) == 1
    bad = samples_of([(1, math.nan, 10)], quality=Quality.BAD, reason=Reason.COMM_FAILURE)
    assert limits.feed(bad) == []
    assert limits.feed(samples_of([(1, 1.2, 20)])) == []
    assert short(limits.feed(samples_of([(1, 0.1, 30)]))) == [("ch4.high", "cleared", 0.1)]


def test_a_raised_alarm_survives_a_restart() -> None:
    limits = limits_of(ch4=high())
    limits.restore(["alarm:ch4.high", "device:plc"])
    assert limits.orphans() == []
    assert limits.feed(samples_of([(1, 1.3, 0)])) == []  # said already
    assert short(limits.feed(samples_of([(1, 0.5, 10)]))) == [("ch4.high", "cleared", 0.5)]


def test_inside_the_deadband_a_raised_alarm_stands_after_a_restart() -> None:
    limits = limits_of(ch4=high())
    limits.restore(["alarm:ch4.high"])
    assert limits.feed(samples_of([(1, 0.95, 0), (1, 0.92, 10)])) == []
    bad = samples_of([(1, math.nan, 15)], quality=Quality.BAD, reason=Reason.STALE)
    assert limits.feed(bad) == []
    assert short(limits.feed(samples_of([(1, 0.85, 20)]))) == [("ch4.high", "cleared", 0.85)]
    assert short(limits.feed(samples_of([(1, 1.0, 30)]))) == [("ch4.high", "raised", 1.0)]


def test_a_delayed_alarm_that_stood_is_not_ended_by_its_delay() -> None:
    limits = limits_of(ch4=high(delay=5 * S))
    limits.restore(["alarm:ch4.high"])
    assert limits.feed(samples_of([(1, 1.2, 0)])) == []
    assert limits.advance(6 * S, 6 * S) == []
    assert short(limits.feed(samples_of([(1, 0.1, 7_000)]))) == [("ch4.high", "cleared", 0.1)]


def test_an_alarm_that_is_gone_from_the_site_file_ends() -> None:
    limits = limits_of(ch4=high())
    limits.restore(["alarm:old.high", "alarm:ch4.high"])
    assert short(limits.orphans()) == [("old.high", "cleared", None)]
    assert limits.orphans() == []


def test_a_site_without_limits_has_none() -> None:
    limits = limits_of()
    assert limits.feed(samples_of([(1, 99.0, 0)])) == []
    assert limits.advance(S, S) == []
