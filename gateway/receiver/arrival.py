"""What arrives, read: alerts, messages of samples, gap markers and the word of a gateway's state.

Only what a platform needs is looked at; fields that are not known here are kept as they came.
"""

import json
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

ALERTS: Final = "alerts"  # {"alerts": [...]} or one alert
SAMPLES: Final = "samples"  # {"samples": [...]} or one message
STATUS: Final = "status"

ALERT_LANE: Final = "alert"
_SENDING: Final = ("historical", "audit_head")  # of an alert: what may differ when it comes again
_SEQ_MAX: Final = 2**63 - 1
_T_NS_MAX: Final = 2**63 - 1  # as the file keeps times
_DT_MS_MAX: Final = 1e12  # within a message: 31 years
_ABSENT: Final = Raw()


class NotUnderstood(Exception):
    """The bytes are not what they should be; the text says where."""


class Arrival(Struct, frozen=True):
    """One HTTP body or MQTT payload.

    ``gateway``: who alone may be the sender, by the topic's rights; "": the way in does not say.
    """

    kind: str
    body: bytes
    gateway: str = ""


class Gap(Struct, frozen=True):
    """``first..last`` of a sequence will not come."""

    first: int
    last: int
    reason: str = ""


class Alert(Struct, frozen=True):
    """An alert, or the marker of a gap in their sequence."""

    id: str
    gateway: str
    epoch: int
    seq: int
    kind: str = ""
    state: str = ""
    ref: str | None = None
    time: str = ""
    gap: Gap | None = None

    @property
    def lane(self) -> str:
        """Alerts have one sequence per gateway and epoch, whichever uplink brings them."""
        return ALERT_LANE

    @property
    def uplink(self) -> str:
        """Not part of an alert's identity."""
        return ""


class Samples(Struct, frozen=True):
    """A message of samples in columns, or the marker of a gap in their sequence."""

    epoch: int
    seq: int
    gateway: str
    t0_ns: int
    dt_ms: list[float]
    tags: list[str]
    v: list[list[float | None]]
    q: list[list[int | None]] | None = None
    uplink: str = ""
    historical: bool = False
    gap: Gap | None = None

    @property
    def lane(self) -> str:
        """Live and backfill are numbered each for itself."""
        return "backfill" if self.historical else "live"

    @property
    def span_ns(self) -> tuple[int, int]:
        """First and last time."""
        if not self.dt_ms:
            return self.t0_ns, self.t0_ns
        return (
            self.t0_ns + round(min(self.dt_ms) * 1_000_000),
            self.t0_ns + round(max(self.dt_ms) * 1_000_000),
        )

    def count(self) -> int:
        """How many samples: with qualities a null value is one too, without them it is none."""
        rows: list[Any] = self.v if self.q is None else self.q
        return sum(len(row) - row.count(None) for row in rows)


class Status(Struct, frozen=True):
    """The word of one gateway's uplink: online, offline."""

    gateway: str
    state: str
    uplink: str = ""


Head = Alert | Samples


class Item(Struct, frozen=True):
    """One alert or message: what was read of it, and its JSON as it came."""

    head: Head
    body: bytes

    def digest(self) -> bytes:
        """Of the bytes: the same bytes are the same item."""
        return blake2b(self.body, digest_size=8).digest()


class _Event(Struct, frozen=True):
    """A CloudEvent around an alert."""

    data: Raw


class _Alerts(Struct, frozen=True):
    alerts: list[Raw]


class _Messages(Struct, frozen=True):
    samples: list[Raw]


class _Kind(Struct, frozen=True):
    """What tells one alert or message from a list of them, and an event from its alert."""

    alerts: Raw = _ABSENT
    samples: Raw = _ABSENT
    specversion: Raw = _ABSENT


_KIND: Final = msgspec.json.Decoder(_Kind)
_EVENT: Final = msgspec.json.Decoder(_Event)
_ALERTS: Final = msgspec.json.Decoder(_Alerts)
_MESSAGES: Final = msgspec.json.Decoder(_Messages)
_ALERT: Final = msgspec.json.Decoder(Alert)
_SAMPLES: Final = msgspec.json.Decoder(Samples)
_STATUS: Final = msgspec.json.Decoder(Status)


def items_of(arrival: Arrival) -> list[Item]:
    """Every alert or message of it. Raises NotUnderstood, and then none of it is taken."""
    try:
        read = _alert if arrival.kind == ALERTS else _message
        items = [read(raw) for raw in _raws(arrival)]
    except msgspec.MsgspecError as error:
        msg = f"{arrival.kind}: {error}"
        raise NotUnderstood(msg) from error
    except (UnicodeDecodeError, RecursionError) as error:
        msg = f"{arrival.kind}: no JSON"
        raise NotUnderstood(msg) from error
    for item in items:
        _check_sender(arrival, item.head.gateway)
    return items


def status_of(arrival: Arrival) -> Status:
    """Raises NotUnderstood."""
    try:
        status = _STATUS.decode(arrival.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"status: {error}"
        raise NotUnderstood(msg) from error
    _check_sender(arrival, status.gateway)
    return status


def same(one: bytes, other: bytes) -> bool:
    """Whether two items of one identity say the same, apart from what belongs to the sending."""
    first, second = json.loads(one), json.loads(other)
    return bool({**first, **dict.fromkeys(_SENDING)} == {**second, **dict.fromkeys(_SENDING)})


def _raws(arrival: Arrival) -> list[bytes]:
    kind = _KIND.decode(arrival.body)
    if arrival.kind == SAMPLES:
        if kind.samples is _ABSENT:
            return [arrival.body]
        return [bytes(raw) for raw in _MESSAGES.decode(arrival.body).samples]
    if kind.alerts is _ABSENT:
        return [arrival.body]
    return [bytes(raw) for raw in _ALERTS.decode(arrival.body).alerts]


def _alert(body: bytes) -> Item:
    """An alert as it is, or in a CloudEvent."""
    if _KIND.decode(body).specversion is not _ABSENT:
        body = bytes(_EVENT.decode(body).data)
    head = _ALERT.decode(body)
    _check(head)
    wanted = f"{head.gateway}/{head.epoch}/{head.seq}" + ("/gap" if head.gap else "")
    if head.id != wanted:
        msg = f"alerts: number {head.seq} has the id {head.id[:100]!r}, expected {wanted[:100]!r}"
        raise NotUnderstood(msg)
    return Item(head, body)


def _message(body: bytes) -> Item:
    head = _SAMPLES.decode(body)
    _check(head)
    times = len(head.dt_ms)
    columns: list[list[Any]] = [*head.v, *(head.q or [])]
    if len(head.v) != len(head.tags) or (head.q is not None and len(head.q) != len(head.tags)):
        msg = f"samples: message {head.seq} has {len(head.tags)} tags, other columns"
        raise NotUnderstood(msg)
    if any(len(column) != times for column in columns):
        msg = f"samples: message {head.seq} has {times} times, columns of another length"
        raise NotUnderstood(msg)
    if any(abs(dt_ms) > _DT_MS_MAX for dt_ms in head.dt_ms):
        msg = f"samples: message {head.seq} has a dt_ms beyond {_DT_MS_MAX:.0f}"
        raise NotUnderstood(msg)
    if any(abs(t_ns) > _T_NS_MAX for t_ns in head.span_ns):
        msg = f"samples: message {head.seq} has a t0_ns beyond 64 bits"
        raise NotUnderstood(msg)
    return Item(head, body)


def _check_sender(arrival: Arrival, gateway: str) -> None:
    if arrival.gateway and gateway != arrival.gateway:
        msg = f"{arrival.kind}: {arrival.gateway[:100]!r} may not speak for {gateway[:100]!r}"
        raise NotUnderstood(msg)


def _check(head: Head) -> None:
    first = head.gap.first if head.gap else head.seq
    last = head.gap.last if head.gap else head.seq
    if not 1 <= first <= last <= _SEQ_MAX or not 0 <= head.epoch <= _SEQ_MAX:
        msg = f"sequence {first}..{last} of epoch {head.epoch}: expected 1 or more, rising"
        raise NotUnderstood(msg)
