"""What a signal makes of readings, one by one; the figures of NE 43, not ours."""

import math
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fastpath.codes import Quality, Reason
from gateway.life.problems import Problems
from gateway.plant.signal_alerts import WELL_NS, SignalAlerts
from gateway.plant.signals import Conditioner, conditioner_of
from gateway.plant.totals import FILE, Total, Totals
from gateway.site.model import Duration, Point, Signal, Tag
from gateway.site.signal_rules import folded, rate_of

SECOND = 1_000_000_000
GOOD, UNCERTAIN, BAD = Quality.GOOD, Quality.UNCERTAIN, Quality.BAD
LOOP: dict[str, Any] = {"kind": "4-20mA"}


def tag(signal: dict[str, Any] | None = None, **fields: Any) -> Tag:
    made = Signal(**signal) if signal is not None else None
    return Tag(id="t", device="d", point=Point(address="ir:0"), signal=made, **fields)


def taken(conditioner: Conditioner, *values: float, every_ns: int = SECOND) -> list[Any]:
    return [conditioner.take(value, GOOD, 0, (i + 1) * every_ns) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("current", "value", "quality", "reason"),
    [
        (3.59, math.nan, BAD, Reason.DEVICE_FAILURE),
        (3.6, -2.5, UNCERTAIN, Reason.OUT_OF_RANGE),
        (3.79, -1.3125, UNCERTAIN, Reason.OUT_OF_RANGE),
        (3.8, -1.25, GOOD, 0),
        (4.0, 0.0, GOOD, 0),
        (12.0, 50.0, GOOD, 0),
        (20.0, 100.0, GOOD, 0),
        (20.5, 103.125, GOOD, 0),
        (20.51, 103.1875, UNCERTAIN, Reason.OUT_OF_RANGE),
        (21.0, 106.25, UNCERTAIN, Reason.OUT_OF_RANGE),
        (21.01, math.nan, BAD, Reason.DEVICE_FAILURE),
        (0.0, math.nan, BAD, Reason.DEVICE_FAILURE),
    ],
)
def test_the_limits_of_ne_43(current: float, value: float, quality: int, reason: int) -> None:
    [found] = taken(Conditioner(tag(LOOP, range=(0.0, 100.0))), current)
    assert found[0] == pytest.approx(value, nan_ok=True)
    assert found[1:] == (quality, reason)


@pytest.mark.parametrize("current", [3.59, 3.6, 3.79, 3.81, 12.0, 20.49, 20.51, 21.01])
@pytest.mark.parametrize("uncertain", ["bad", "use"])
def test_the_guard_has_the_same_by_scale_offset_and_range(current: float, uncertain: str) -> None:
    said = tag(LOOP, range=(-20.0, 60.0), uncertain=uncertain)
    fast = folded(said)
    assert fast.signal is None
    assert fast.point is not None
    assert fast.range is not None
    value = current * fast.point.scale + fast.point.offset
    [(slow, quality, _)] = taken(Conditioner(said), current)
    usable = quality == GOOD or (quality == UNCERTAIN and uncertain == "use")
    assert (fast.range[0] <= value <= fast.range[1]) == usable
    if usable:
        assert value == pytest.approx(slow)


def test_the_root_and_its_low_flow_cutoff() -> None:
    root = Conditioner(tag(LOOP | {"sqrt": True, "cutoff": 0.1}, range=(0.0, 200.0)))
    values = [found[0] for found in taken(root, 3.9, 4.0, 4.1, 4.16, 4.64, 8.0, 20.0)]
    # 4.1 mA is a root of 0.079, below the cutoff; 4.16 mA is just 0.1.
    assert values == pytest.approx([0, 0, 0, 20, 40, 100, 200])


def test_a_table_of_currents_ends_at_its_ends() -> None:
    table = ((4.0, 0.0), (8.0, 55.0), (20.0, 410.0))
    volume = Conditioner(tag(LOOP | {"table": table}))
    values = [found[0] for found in taken(volume, 3.9, 4.0, 6.0, 8.0, 14.0, 20.3)]
    assert values == pytest.approx([0, 0, 27.5, 55, 232.5, 410])


def test_nothing_is_known_beyond_a_table_of_values() -> None:
    by_table = Conditioner(tag({"table": ((0.0, 10.0), (5.0, 0.0))}, range=(0.0, 10.0)))
    assert taken(by_table, 0.0, 2.5, 5.0) == [(10.0, GOOD, 0), (5.0, GOOD, 0), (0.0, GOOD, 0)]
    [(value, quality, reason)] = taken(by_table, 5.01)
    assert math.isnan(value)
    assert (quality, reason) == (BAD, Reason.OUT_OF_RANGE)


def test_what_is_bad_stays_bad_and_what_is_doubted_doubted() -> None:
    loop = Conditioner(tag(LOOP, range=(0.0, 100.0)))
    value, *rest = loop.take(12.0, BAD, Reason.DEVICE_FAILURE, SECOND)
    assert math.isnan(value)  # 12 mA are no value of this tag
    assert rest == [BAD, Reason.DEVICE_FAILURE]
    assert loop.trouble == ""
    assert loop.take(12.0, UNCERTAIN, Reason.PRECISION, 2 * SECOND) == (
        50.0, UNCERTAIN, Reason.PRECISION,
    )  # fmt: skip


def test_a_failed_signal_poisons_neither_rate_nor_total() -> None:
    limited = Conditioner(tag(LOOP | {"rate_max": "1/s"}, range=(0.0, 100.0)))
    assert [found[1] for found in taken(limited, 12.0, 2.0, 12.1)] == [GOOD, BAD, GOOD]
    total = Total("x", None, None, lambda: None)
    counter = Conditioner(tag({"kind": "counter"}, range=(0.0, 1000.0)), total)
    assert [found[0] for found in taken(counter, 10.0, 5000.0, 12.0)] == [10.0, 5000.0, 12.0]
    assert total.total == 12.0


# ---- plausibility and standing still (D14, D12)


def test_a_step_is_doubted_until_it_could_have_come_about() -> None:
    limited = Conditioner(tag({"rate_max": "5 %CH4/s"}, unit="%CH4", range=(0.0, 100.0)))
    found = taken(limited, 1.0, 5.9, 30.0, 30.0, 30.0, 30.0, 30.0, 31.0)
    assert [each[1] for each in found] == [GOOD, GOOD] + [UNCERTAIN] * 4 + [GOOD] * 2
    assert {each[0] for each in found[2:7]} == {30.0}
    assert limited.trouble == ""


def test_a_spike_is_doubted_alone() -> None:
    limited = Conditioner(tag({"rate_max": "60/min"}))
    found = taken(limited, 1.0, 9.0, 1.5)
    assert found == [(1.0, GOOD, 0), (9.0, UNCERTAIN, Reason.OUT_OF_RANGE), (1.5, GOOD, 0)]


@pytest.mark.parametrize(
    ("text", "unit", "rate"),
    [
        ("5 %CH4/s", "%CH4", 5.0),
        ("90 m3/h/min", "m3/h", 1.5),
        ("0.5/ms", "", 500.0),
        ("36 kPa/h", "kPa", 0.01),
        ("5 %CH4", "%CH4", None),
        ("5 kPa/s", "Pa", None),
        ("0 kPa/s", "kPa", None),
        ("-5 kPa/s", "kPa", None),
        ("5kPa/s", "kPa", None),
    ],
)
def test_rates(text: str, unit: str, rate: float | None) -> None:
    found = rate_of(text, unit)
    assert found == (pytest.approx(rate) if rate is not None else None)


def test_the_same_to_the_bit_for_its_time_is_stuck_also_where_the_cutoff_hides_it() -> None:
    flow = tag(LOOP | {"sqrt": True, "cutoff": 0.5}, range=(0.0, 1.0))
    alive = Conditioner(structs.replace(flow, stuck_after=Duration(3 * SECOND)))
    assert [found[1] for found in taken(alive, 4.1, 4.2, 4.1, 4.2, 4.1, 4.2)] == [GOOD] * 6
    still = Conditioner(structs.replace(flow, stuck_after=Duration(3 * SECOND)))
    found = taken(still, *[4.1] * 5, 4.2)
    assert [each[1:] for each in found] == [(GOOD, 0)] * 3 + [(BAD, Reason.STUCK)] * 2 + [(GOOD, 0)]


def test_time_without_good_readings_is_no_time_of_standing_still() -> None:
    still = Conditioner(tag(stuck_after=Duration(3 * SECOND)))
    seen = [(5.0, GOOD), (5.0, BAD), (5.0, GOOD), (5.0, GOOD), (5.0, GOOD), (5.0, GOOD)]
    found = [
        still.take(value, quality, 0, (1 + 10 * i) * SECOND if i < 2 else (20 + i) * SECOND)[1]
        for i, (value, quality) in enumerate(seen)
    ]
    assert found == [GOOD, BAD, GOOD, GOOD, GOOD, BAD]
    assert Conditioner(tag(stuck_after=Duration(1))).take(0.0, GOOD, 0, 1)[1] == GOOD


def test_zero_and_minus_zero_are_two() -> None:
    still = Conditioner(tag(stuck_after=Duration(2 * SECOND)))
    assert [found[1] for found in taken(still, 0.0, -0.0, 0.0, -0.0)] == [GOOD] * 4


def test_a_tag_without_any_of_it_costs_nothing() -> None:
    assert conditioner_of(tag(range=(0.0, 1.0)), lambda: pytest.fail("no total")) is None


# ---- counters (D15)


def test_a_total_never_decreases_over_wraps_and_resets() -> None:
    total = Total("x", 65536.0, None, lambda: None)
    counter = Conditioner(tag({"kind": "counter", "bits": 16}), total)
    found = taken(counter, 65000.0, 65500.0, 100.0, 200.0, 50000.0, 3.0, 10.0)
    # 136 of the wrap; 50000 - 200; then 3 is no wrap of 15,539 that fits: half the way round is.
    assert [each[0] for each in found] == [65000, 65500, 65636, 65736, 115536, 131075, 131082]
    reset = taken(counter, 9.0, 12.0)
    assert reset[0] == (131082.0, UNCERTAIN, Reason.DEVICE_FAILURE)
    assert reset[1] == (131085.0, GOOD, 0)


def test_a_reset_without_a_wrap_is_told_and_counted_on() -> None:
    counter = Conditioner(tag({"kind": "counter"}), Total("x", None, None, lambda: None))
    found = []
    for i, raw in enumerate((100.0, 250.0, 0.0)):
        found.append(counter.take(raw, GOOD, 0, (i + 1) * SECOND))
    assert "stepped back from 250 to 0" in counter.trouble
    found.append(counter.take(40.0, GOOD, 0, 9 * SECOND))
    assert [each[0] for each in found] == [100, 250, 250, 290]
    assert [each[1] for each in found] == [GOOD, GOOD, UNCERTAIN, GOOD]


@pytest.mark.parametrize("zeros", [1, 3])
def test_zeros_of_a_meter_that_starts_are_no_wrap(zeros: int) -> None:
    total = Total("x", 65536.0, None, lambda: None)
    counter = Conditioner(tag({"kind": "counter", "bits": 16}), total)
    found = taken(counter, 60000.0, *(0.0,) * zeros, 60005.0)
    assert [each[0] for each in found] == [60000.0] * (1 + zeros) + [60005.0]


def test_a_wrap_to_zero_counts_with_the_next_reading() -> None:
    total = Total("x", 65536.0, None, lambda: None)
    counter = Conditioner(tag({"kind": "counter", "bits": 16}), total)
    found = taken(counter, 65530.0, 0.0, 0.0, 4.0)
    assert [each[0] for each in found] == [65530.0, 65530.0, 65530.0, 65540.0]


def test_totals_go_on_over_a_restart_by_the_difference(tmp_path: Path) -> None:
    path = tmp_path / FILE
    first = Totals(path)
    counted = first.of("t", "hr:0", 65536.0)
    for raw in (65000.0, 65500.0, 100.0):
        counted.count(raw)
    first.save()
    counted.count(400.0)  # not saved any more: a kill
    again = Totals(path).of("t", "hr:0", 65536.0)
    assert again.count(1000.0) == ""
    assert again.total == 66536.0  # as if nothing had been
    other = Totals(path).of("t", "hr:7", 65536.0)
    other.count(5.0)
    assert other.total == 5.0  # another point is another counter


def test_a_damaged_file_of_totals_is_no_reason_not_to_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_text('{"t": {"of": "hr:0", "tot')
    total = Totals(tmp_path / FILE).of("t", "hr:0", None)
    total.count(7.0)
    assert total.total == 7.0
    assert "counters begin anew" in caplog.text


# ---- alerts


def test_trouble_is_one_alert_until_it_is_over_for_a_while() -> None:
    problems = Problems()
    alerts = SignalAlerts(["a", "b"], problems)
    for second in range(60):  # it flickers
        alerts.look(1, "the signal has failed" if second % 2 else "", second * SECOND)
    [problem] = problems.active()
    assert (problem.kind, problem.ident) == ("signal", "b")
    assert problems.raised_total["signal"] == 1
    alerts.look(1, "", 59 * SECOND + WELL_NS - 1)
    assert problems.active()
    alerts.look(1, "", 59 * SECOND + WELL_NS)
    assert not problems.active()


def test_what_an_earlier_life_raised_is_cleared_and_nothing_else_is_said() -> None:
    problems = Problems()
    problems.follow(["problem:signal:b"])
    alerts = SignalAlerts(["a", "b"], problems)
    alerts.look(0, "", SECOND)
    alerts.look(1, "", SECOND)
    [draft] = problems._waiting
    assert (draft.state, draft.subject) == ("cleared", "problem:signal:b")
