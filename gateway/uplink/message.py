"""What leaves: the JSON of alerts, of samples in columns, of gap markers, and CloudEvents 1.0.

An alert's body is the ledger's; only ``historical`` and ``audit_head`` are added here, so that an
alert that is sent again is the same but for those two. A gap marker has the sequence of what is
missing and an id of its own (``…/gap``), so that the missing alert may still come later under its
own id.

Samples: ``v[i][j]`` and ``q[i][j]`` are tag i at ``t0_ns + dt_ms[j]`` milliseconds. Without ``q``
(quality + 4 x reason, ``fastpath.codes``) every sample is GOOD and a null in ``v`` says that this
tag has none at that time. With it a null in ``q`` says so, and a null in ``v`` beside a quality is
a sample that is no number.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from fastpath.codes import Quality
from fastpath.columns import ABSENT, quality_byte
from gateway.store.alert import AlertItem, Source, rfc3339
from gateway.store.items import SampleItem
from gateway.uplink.base import ALERT, BACKFILL, GapItem, KeptItem, Outgoing

_GOOD: Final = quality_byte(Quality.GOOD, 0)
_FINE: Final = bytes((_GOOD, ABSENT))
_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000


class Sender(Struct, frozen=True):
    """Who sends, and through which uplink."""

    gateway: str
    site: str
    uplink: str
    exercise: bool = False  # everything that it sends is one


class Head(Struct, frozen=True):
    """What routing, ages and CloudEvents need of an alert."""

    id: str
    kind: str
    recorded: str
    source: Source | None = None
    time: str = ""


def encode(sender: Sender, lane: str, out: Outgoing) -> bytes:
    """The JSON of one item, as it stands in an MQTT payload or inside an HTTP body."""
    item = out.item
    if isinstance(item, AlertItem):
        return _alert(item, out)
    if isinstance(item, KeptItem):
        return item.body
    if isinstance(item, SampleItem):
        message = _samples(sender, lane, item, out.epoch)
    elif lane == ALERT:
        message = _gap_alert(sender, item, out)
    else:
        message = _gap_samples(sender, lane, item, out.epoch)
    if sender.exercise:
        message["exercise"] = True
    return msgspec.json.encode(message)


def alerts_body(sender: Sender, alerts: Sequence[bytes]) -> bytes:
    """``{"alerts": [CloudEvent, …]}`` of encoded alerts."""
    return msgspec.json.encode({"alerts": [_cloud_event(sender, alert) for alert in alerts]})


def alert_group(alerts: Sequence[bytes]) -> bytes:
    """``{"alerts": [alert, …]}`` of encoded alerts."""
    return b'{"alerts":[' + b",".join(alerts) + b"]}"


def samples_body(messages: Sequence[bytes]) -> bytes:
    """``{"samples": [message, …]}`` of encoded messages in columns."""
    return b'{"samples":[' + b",".join(messages) + b"]}"


def stamp_ns(out: Outgoing) -> int:
    """UTC ns at which the item came into being; 0 where it does not say."""
    item = out.item
    if isinstance(item, SampleItem):
        return item.t0_ns
    if isinstance(item, AlertItem):
        return _utc_ns(head_of(item.body).recorded)
    return 0


def head_of(alert: bytes) -> Head:
    """The head of an encoded alert; empty fields where it is not one."""
    try:
        return msgspec.json.decode(alert, type=Head)
    except msgspec.MsgspecError:
        return Head(id="", kind="", recorded="")


def _alert(item: AlertItem, out: Outgoing) -> bytes:
    fields: dict[str, Any] = msgspec.json.decode(item.body, type=dict[str, Raw])
    fields["historical"] = out.historical
    fields["audit_head"] = out.audit_head
    return msgspec.json.encode(fields)


def _samples(sender: Sender, lane: str, item: SampleItem, epoch: int) -> dict[str, Any]:
    message = {
        "gateway": sender.gateway,
        "uplink": sender.uplink,  # each numbers its lanes for itself
        "epoch": epoch,
        "seq": item.seq,
        "historical": lane == BACKFILL,
        "t0_ns": item.t0_ns,
        "dt_ms": _ms(item.dt_ns),
        "tags": item.tags,
        "v": item.values,  # what is not finite becomes null
    }
    if not _all_fine(item):
        message["q"] = [[None if q == ABSENT else q for q in row] for row in item.qualities]
    return message


def _gap_alert(sender: Sender, item: GapItem, out: Outgoing) -> dict[str, Any]:
    now = rfc3339(item.utc_ns)
    ident = f"{sender.gateway}/{out.epoch}/{item.seq}"
    return {
        "id": f"{ident}/gap",
        "gateway": sender.gateway,
        "epoch": out.epoch,
        "seq": item.seq,
        "kind": "gap",
        "state": "event",
        "site": sender.site,
        "source": {"kind": "uplink", "id": sender.uplink},
        "time": now,
        "recorded": now,
        "clock_synced": False,
        "priority": "medium",
        "cause": f"{_missing(item, 'alert')} will not come: {item.reason}",
        "gap": _gap(item),
        "historical": out.historical,
        "audit_head": out.audit_head,
    }


def _gap_samples(sender: Sender, lane: str, item: GapItem, epoch: int) -> dict[str, Any]:
    return {
        "gateway": sender.gateway,
        "uplink": sender.uplink,
        "epoch": epoch,
        "seq": item.seq,
        "historical": lane == BACKFILL,
        "t0_ns": item.utc_ns,
        "dt_ms": [],
        "tags": [],
        "v": [],
        "gap": _gap(item),
    }


def _gap(item: GapItem) -> dict[str, Any]:
    return {"first": item.first, "last": item.seq, "reason": item.reason}


def _missing(item: GapItem, noun: str) -> str:
    return f"{noun} {item.seq}" if item.first == item.seq else f"{noun}s {item.first}-{item.seq}"


def _cloud_event(sender: Sender, alert: bytes) -> dict[str, Any]:
    head = head_of(alert)
    return {
        "specversion": "1.0",
        "id": head.id,
        "source": f"/sitewarden/{sender.gateway}",
        "type": f"sitewarden.alert.{head.kind}",
        "subject": f"{head.source.kind}/{head.source.id}" if head.source else sender.site,
        "time": head.time or head.recorded,
        "datacontenttype": "application/json",
        "data": Raw(alert),
    }


def _ms(times_ns: Sequence[int]) -> Sequence[float]:
    """Milliseconds: whole where all of them are, else with the nanoseconds as decimals."""
    whole = [ns // _NS_PER_MS for ns in times_ns]
    if sum(whole) * _NS_PER_MS == sum(times_ns):
        return whole
    return [ns / _NS_PER_MS for ns in times_ns]


def _all_fine(item: SampleItem) -> bool:
    """Whether each sample is GOOD and a number; a cell that is ABSENT has none (NaN).

    False also where a sum overflows: then the qualities are sent without need.
    """
    qualities = b"".join(item.qualities)
    if qualities.translate(None, _FINE):
        return False
    absent = qualities.count(ABSENT)
    if not absent:
        return isfinite(sum(map(sum, item.values)))
    return sum(sum(map(isfinite, row)) for row in item.values) == len(qualities) - absent


def _utc_ns(text: str) -> int:
    """UTC ns of an RFC 3339 text, to the microsecond; 0 where it is not one."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        return 0
    delta = moment - datetime.fromtimestamp(0, UTC)
    return (delta.days * 86_400 + delta.seconds) * _NS_PER_S + delta.microseconds * 1_000
