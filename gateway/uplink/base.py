"""What every uplink is, and what the pump needs of the stores.

An uplink knows one platform's protocol and nothing of cursors; the pump alone moves those. Items
are what the stores gave (``AlertItem``, ``SampleItem``) or a marker for what is not there
(``GapItem``), wrapped in an ``Outgoing`` with what only the moment of sending knows.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

from gateway.errors import UplinkError
from gateway.store.alert import AlertDraft, AlertItem, Priority
from gateway.store.items import SampleItem
from gateway.store.letter import Letter

ALERT: Final = "alert"
LIVE: Final = "live"
BACKFILL: Final = "backfill"
LANES: Final = (ALERT, LIVE, BACKFILL)  # in the order in which they are served


class Acknowledges(StrEnum):
    """What ACCEPTED means on an uplink."""

    NONE = "none"
    BROKER = "broker"
    STORED = "stored"
    APPLICATION = "application"


class GapItem(Struct, frozen=True):
    """A marker in the place of ``first..seq``, which will not come: refused, or shed unsent."""

    first: int
    seq: int
    reason: str
    utc_ns: int  # when it was found, or when what is missing came into being


class KeptItem(Struct, frozen=True):
    """Samples that were refused before, as they were sent then."""

    seq: int
    body: bytes  # the message's JSON


Item = AlertItem | SampleItem | KeptItem | GapItem


class Outgoing(Struct, frozen=True):
    """One item on its way."""

    item: Item
    epoch: int  # of the store that numbered it
    historical: bool = False
    audit_head: str = ""


class Accepted(Struct, frozen=True):
    """The other end has it, in the sense of ``Uplink.acknowledges``."""


class Retry(Struct, frozen=True):
    """Not taken now, and not the item's fault. Send it again after ``after_s`` (0: soon).

    ``denied``: this lane is not allowed or not known there (rights, address). It is retried slowly
    and told once, and the other lanes go on. Else the whole link pauses.

    ``fault``: what the item would be refused for (``Refused.reason``) if it alone were answered so,
    while others of its lane are taken; "" where the other end has asked to wait, whatever is sent.
    """

    after_s: float = 0.0
    reason: str = ""
    denied: bool = False
    fault: str = ""


class Refused(Struct, frozen=True):
    """This item will never be taken. ``reason`` is of a small fixed set (a metric's label)."""

    reason: str
    detail: str = ""


Verdict = Accepted | Retry | Refused
ACCEPTED: Final = Accepted()


class LinkRefusedError(UplinkError):
    """The other end answered and does not let us in: rights, certificate, a stolen session.

    No pause of seconds heals that: retried slowly, told once by an alert.
    """


class TakenOverError(LinkRefusedError):
    """Another client uses our name there. Retried slowly, told by the uplink's ``notice``."""


class UnansweredError(UplinkError):
    """Something was sent, and the link ended over it or fell silent: it may be the item's fault."""

    fault = "no_answer"  # what it would be refused for


class SuspectError(UplinkError):
    """The other end cut the link over what one item was: send them one at a time to find it."""


class Uplink(Protocol):
    """A connection to one platform. Raises UplinkError and nothing else."""

    acknowledges: Acknowledges

    async def connect(self) -> bool:
        """Open a new session. False: nobody has answered yet, the first verdict will tell."""

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        """Send all at once (at most ``window`` items) and give a verdict on each, in their order.

        May run once per lane at a time. Raises UplinkError when nothing is known of any item.
        """

    async def close(self) -> None:
        """Leave in an orderly way if that takes no more than a second; never raises."""


@runtime_checkable
class Noticing(Protocol):
    """What an uplink has besides when there is something to tell although the link may be up."""

    @property
    def notices(self) -> Mapping[str, str]:
        """By subject what is so now, for people; "" where it is not."""


@runtime_checkable
class Watched(Protocol):
    """What an uplink has besides when its session can end with nothing under way (MQTT)."""

    async def lost(self) -> None:
        """Raises UplinkError when the session ends; otherwise never returns."""


class AlertSource(Protocol):
    """What the pump needs of the ledger. All coroutines may raise StoreError."""

    @property
    def epoch(self) -> int:
        """UTC ns of the ledger's creation; 0 while it is not open."""

    @property
    def head(self) -> int:
        """Sequence of the last alert, 0 where there is none."""

    @property
    def audit_head(self) -> str:
        """Head of the audit's hash chain."""

    @property
    def bound_bytes(self) -> int:
        """Bytes of alerts that it has room for."""

    async def bytes_after(self, seq: int) -> int:
        """Bytes of the alerts above ``seq``; estimated where they are many."""

    async def alerts(self, after: int, limit: int) -> Sequence[AlertItem]:
        """The oldest alerts with a sequence above ``after``."""

    async def cursor(self, uplink: str, lane: str) -> int:
        """The last sequence that needs no sending any more."""

    async def move_cursor(self, uplink: str, lane: str, seq: int, *, epoch: int = 0) -> None:
        """Everything up to ``seq`` of this epoch needs no sending any more, durably."""

    async def letter(
        self,
        uplink: str,
        lane: str,
        seq: int,
        reason: str,
        body: bytes,
        draft: AlertDraft | None = None,
        *,
        epoch: int = 0,
    ) -> bool:
        """Keep a dead letter and append ``draft`` in one transaction.

        ``epoch``: of the store that numbered it. False, and nothing is done, where this letter is
        kept already.
        """

    def letters_marked(self, uplink: str) -> int:
        """How many dead letters of the uplink are to be sent again; from memory."""

    async def letters_to_send(self, uplink: str) -> Sequence[Letter]:
        """The oldest of those."""

    async def letter_sent(self, uplink: str, lane: str, epoch: int, seq: int) -> None:
        """The other end has it now, durably."""

    async def letter_refused(
        self, uplink: str, lane: str, epoch: int, seq: int, reason: str
    ) -> None:
        """It is dead again."""


class SampleSource(Protocol):
    """What the pump needs of the history. All coroutines may raise StoreError."""

    @property
    def epoch(self) -> int:
        """Of history.db itself: its lanes begin at 1 again when it was set aside."""

    @property
    def bound_bytes(self) -> int:
        """Stored bytes beyond which the oldest samples go."""

    async def bytes_since(self, utc_ns: int) -> int:
        """Stored bytes of samples from ``utc_ns`` on."""

    def lane_head(self, uplink: str, lane: str) -> int:
        """The last sequence of the lane, 0 where it is empty."""

    def unnumbered(self, uplink: str, lane: str) -> int:
        """What belongs to the lane and has no sequence yet."""

    def set_lane(self, uplink: str, lane: str) -> None:
        """Samples committed from now on belong to this lane of the uplink."""

    async def items(self, uplink: str, lane: str, after: int, limit: int) -> Sequence[SampleItem]:
        """The oldest messages above ``after``; it starts later where some were shed."""

    async def cursor(self, uplink: str, lane: str) -> int:
        """The last sequence that needs no sending any more."""

    async def move_cursor(self, uplink: str, lane: str, seq: int, *, epoch: int = 0) -> None:
        """Everything up to ``seq`` of this epoch needs no sending any more, durably."""


class Problems(Protocol):
    """Where a link that refuses us is told, once, until it is over."""

    def raised(self, kind: str, ident: str, text: str, *, priority: Priority = "high") -> None:
        """It is so now; said again as often as one likes."""

    def cleared(self, kind: str, ident: str, text: str) -> None:
        """It is over; harmless where it was not so."""
