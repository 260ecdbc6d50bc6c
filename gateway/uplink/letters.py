"""Items that the other end refuses for good: their markers, and the dead letters that keep them.

Letters are rationed, so that a platform that turns everything down cannot fill the ledger with
them, nor itself with alerts about them.
"""

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.store.alert import AlertDraft, AlertItem, Source
from gateway.uplink import message
from gateway.uplink.base import AlertSource, GapItem, Outgoing, Refused

if TYPE_CHECKING:
    from gateway.uplink.message import Sender

_LOGGER = logging.getLogger(__name__)

AT_ONCE: Final = 20
ONE_EVERY_S: Final = 60.0


class Letters:
    """The dead letters of one uplink."""

    def __init__(self, ledger: AlertSource, sender: "Sender") -> None:
        self._ledger = ledger
        self._sender = sender
        self._left = float(AT_ONCE)
        self._seen_s: float | None = None
        self.kept: Counter[str] = Counter()  # by reason

    def left(self, now_s: float) -> int:
        """How many may be kept now."""
        if self._seen_s is not None:
            grown = self._left + (now_s - self._seen_s) / ONE_EVERY_S
            self._left = min(float(AT_ONCE), grown)
        self._seen_s = now_s
        return int(self._left)

    async def keep(self, lane: str, out: Outgoing, why: Refused) -> None:
        """Keep an item and tell of it, durably; nothing where that was done. Raises StoreError."""
        item = out.item
        if isinstance(item, GapItem):  # has nothing of its own to keep
            return
        sender = self._sender
        body = item.body if isinstance(item, AlertItem) else message.encode(sender, lane, out)
        text = f"{lane} item {item.seq} was refused by {sender.uplink}: {why.reason} {why.detail}"
        draft = AlertDraft(
            kind="gap",
            state="event",
            source=Source("uplink", sender.uplink),
            priority="high",
            cause=printable(text),
        )
        told = None if message.head_of(body).kind == "gap" else draft  # or one begets the next
        fresh = await self._ledger.letter(
            sender.uplink, lane, item.seq, why.reason, body, told, epoch=out.epoch
        )
        if not fresh:
            return
        self.kept[why.reason] += 1
        self._left -= 1.0
        _LOGGER.warning("%s; set aside", printable(text))


def marker_of(out: Outgoing, why: Refused, now_utc_ns: int) -> Outgoing:
    """What is sent in the place of a refused item."""
    item = out.item
    first = item.first if isinstance(item, GapItem) else item.seq
    gap = GapItem(first, item.seq, why.reason, message.stamp_ns(out) or now_utc_ns)
    return msgspec.structs.replace(out, item=gap)


def printable(text: str) -> str:
    """A foreign text, fit for a terminal and a log."""
    return "".join(char if char.isprintable() else "?" for char in text).strip()
