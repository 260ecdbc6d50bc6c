"""What leaves: alerts, columns, markers and CloudEvents."""

import json
import math

import msgspec
import pytest

from fastpath.columns import ABSENT
from gateway.store.items import SampleItem
from gateway.uplink import message
from gateway.uplink.base import GapItem, Outgoing
from tests.helpers.uplinks import EPOCH, GOOD, SENDER, T0_NS, alert_out, row_out

UNCERTAIN = 1


def _encoded(lane: str, out: Outgoing) -> dict[str, object]:
    decoded: dict[str, object] = json.loads(message.encode(SENDER, lane, out))
    return decoded


def test_an_alert_is_the_ledgers_body_and_two_fields_more() -> None:
    out = alert_out(7)
    sent = _encoded("alert", out)
    assert sent.pop("historical") is False
    assert sent.pop("audit_head") == "a1"
    assert sent == json.loads(out.item.body)  # type: ignore[union-attr]


def test_an_alert_sent_again_differs_in_two_fields_alone() -> None:
    first = _encoded("alert", alert_out(7))
    again = _encoded(
        "alert", msgspec.structs.replace(alert_out(7), historical=True, audit_head="a2")
    )
    assert {key for key in first if first[key] != again[key]} == {"historical", "audit_head"}


def test_numbers_of_an_alert_are_not_touched() -> None:
    body = b'{"id":"x","kind":"alarm","recorded":"","value":1.50,"limit":1e2}'
    sent = message.encode(SENDER, "alert", alert_out(1, body))
    assert b'"value":1.50' in sent
    assert b'"limit":1e2' in sent


def test_samples_in_columns() -> None:
    assert _encoded("backfill", row_out(3)) == {
        "gateway": "gw-1",
        "uplink": "platform",
        "epoch": EPOCH + 1,
        "seq": 3,
        "historical": True,
        "t0_ns": T0_NS + 3_000_000_000,
        "dt_ms": [0, 500],
        "tags": ["ch4.t1", "air.speed"],
        "v": [[3.25, 3.5], [3.0, None]],  # no q: null is a cell without a sample
    }


@pytest.mark.parametrize("lane", ["live", "backfill"])
def test_historical_is_the_lane(lane: str) -> None:
    assert _encoded(lane, row_out())["historical"] is (lane == "backfill")


def test_qualities_are_left_out_when_all_are_good() -> None:
    item = SampleItem(1, T0_NS, (0,), ("a",), ((1.5,),), (bytes((GOOD,)),))
    assert "q" not in _encoded("live", Outgoing(item, epoch=1))


@pytest.mark.parametrize(
    ("values", "qualities"),
    [
        ((1.5, math.nan, 2.0), (GOOD, ABSENT, UNCERTAIN)),
        ((math.nan, 1.5, math.nan), (GOOD, GOOD, ABSENT)),  # one that is no number
        ((1.5, 2.5, 3.5), (GOOD, ABSENT, GOOD)),  # a value where no sample is
    ],
)
def test_qualities_are_there_where_a_null_would_not_say_it(
    values: tuple[float, ...], qualities: tuple[int, ...]
) -> None:
    item = SampleItem(1, T0_NS, (0, 1, 2), ("a",), (values,), (bytes(qualities),))
    sent = _encoded("live", Outgoing(item, epoch=1))
    assert sent["q"] == [[None if q == ABSENT else q for q in qualities]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_null_with_its_quality(value: float) -> None:
    item = SampleItem(1, T0_NS, (0,), ("a",), ((value,),), (bytes((GOOD,)),))
    sent = _encoded("live", Outgoing(item, epoch=1))
    assert sent["v"] == [[None]]
    assert sent["q"] == [[GOOD]]


@pytest.mark.parametrize("ns", [0, 1, 999_999, 1_000_001, 499_999_999, 86_399_999_999_999])
def test_times_come_back_to_the_nanosecond(ns: int) -> None:
    item = SampleItem(1, T0_NS, (ns,), ("a",), ((1.0,),), (bytes((GOOD,)),))
    dt_ms = _encoded("live", Outgoing(item, epoch=1))["dt_ms"]
    assert isinstance(dt_ms, list)
    assert round(dt_ms[0] * 1_000_000) == ns


@pytest.mark.parametrize("value", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 2.0**53])
def test_values_come_back_bit_by_bit(value: float) -> None:
    item = SampleItem(1, T0_NS, (0,), ("a",), ((value,),), (bytes((GOOD,)),))
    sent = _encoded("live", Outgoing(item, epoch=1))["v"]
    assert isinstance(sent, list)
    assert math.copysign(1, sent[0][0]) == math.copysign(1, value)
    assert sent[0][0] == value


def test_a_gap_among_alerts_has_the_number_but_not_the_id_of_what_is_missing() -> None:
    out = Outgoing(GapItem(9, 9, "packet_too_large", T0_NS), epoch=EPOCH, audit_head="a1")
    sent = _encoded("alert", out)
    assert sent["seq"] == 9
    assert sent["id"] == f"gw-1/{EPOCH}/9/gap"
    assert sent["kind"] == "gap"
    assert sent["gap"] == {"first": 9, "last": 9, "reason": "packet_too_large"}
    assert "packet_too_large" in str(sent["cause"])


def test_a_gap_among_samples_has_no_samples() -> None:
    sent = _encoded("backfill", Outgoing(GapItem(4, 8, "shed", T0_NS), epoch=EPOCH))
    assert (sent["seq"], sent["tags"], sent["v"]) == (8, [], [])
    assert sent["gap"] == {"first": 4, "last": 8, "reason": "shed"}
    assert sent["historical"] is True


def test_cloud_events() -> None:
    encoded = message.encode(SENDER, "alert", alert_out(2))
    body = json.loads(message.alerts_body(SENDER, [encoded, encoded]))
    assert list(body) == ["alerts"]
    event = body["alerts"][0]
    assert event.pop("data") == json.loads(encoded)
    assert event == {
        "specversion": "1.0",
        "id": f"gw-1/{EPOCH}/2",
        "source": "/sitewarden/gw-1",
        "type": "sitewarden.alert.alarm",
        "subject": "tag/ch4.t1",
        "time": "2025-11-24T16:00:00.000000001Z",
        "datacontenttype": "application/json",
    }
    assert body["alerts"][1]["id"] == event["id"]


def test_samples_body_is_a_list_of_messages() -> None:
    encoded = [message.encode(SENDER, "live", row_out(seq)) for seq in (1, 2)]
    assert json.loads(message.samples_body(encoded)) == {
        "samples": [json.loads(each) for each in encoded]
    }


def test_ages() -> None:
    assert message.stamp_ns(row_out(3)) == T0_NS + 3_000_000_000
    assert message.stamp_ns(alert_out(1)) == 1_764_000_000_000_000_000
    assert message.stamp_ns(alert_out(1, b"not JSON")) == 0
    assert message.stamp_ns(alert_out(1, b'{"id":"x","kind":"k","recorded":"soon"}')) == 0
