"""What a receiving platform does with what arrives: doubles out, sequences watched, the rest kept.

Called by one thread. An answer is given when everything of the call is committed.
"""

import logging
import sqlite3
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from gateway.receiver.archive import Archive
from gateway.receiver.arrival import (
    STATUS,
    Alert,
    Arrival,
    Head,
    Item,
    NotUnderstood,
    items_of,
    same,
    status_of,
)
from gateway.receiver.report import alerts_after, report
from gateway.receiver.stream import Key, Stream

_LOGGER = logging.getLogger(__name__)

RUNS_MAX: Final = 10_000


class Outcome(Struct, frozen=True):
    """Stored; or refused for good; or not taken now, and not the sender's fault."""

    stored: int = 0
    refused: str = ""
    later: str = ""


class Platform:
    """Takes arrivals into an open archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._streams: dict[Key, Stream] | None = None
        self._changed: set[Key] = set()
        self._came: list[Head] = []  # of the transaction that is open
        self._runs: deque[list[Any]] = deque(maxlen=RUNS_MAX)  # [lane, first, last] as they came
        self._trouble = ""

    def take(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """One outcome each; durable before it returns. Never raises: senders wait for an answer."""
        try:
            return self._stored(arrivals)
        except (sqlite3.Error, MemoryError) as error:
            self._undo()
            self._say(f"cannot be stored, the senders keep it: {error}")
            return [Outcome(later=str(error))] * len(arrivals)
        except Exception as error:  # what no check has foreseen must not stop the others
            self._undo()
            if len(arrivals) > 1:
                return [outcome for each in arrivals for outcome in self.take([each])]
            _LOGGER.exception("receive: %s that cannot be taken is refused", arrivals[0].kind)
            self.refuse("failed")
            return [Outcome(refused=f"{arrivals[0].kind}: {error}")]

    def refuse(self, reason: str) -> None:
        """Count what was turned away before anything was read of it."""
        try:
            self._archive.refused(reason)
        except sqlite3.Error as error:
            self._say(f"cannot be stored: {error}")

    def report(self) -> dict[str, Any]:
        """What it has, and in which order it came."""
        return {**report(self._archive.connection), "order": list(self._runs)}

    def alerts_after(self, arrival: int, limit: int) -> list[dict[str, Any]]:
        """The alerts that arrived after that one, in the order of arrival."""
        return alerts_after(self._archive.connection, arrival, limit)

    def _stored(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """All of them in one transaction. What raises leaves it open."""
        archive = self._archive
        if self._streams is None:
            self._streams = archive.streams()
        archive.begin()
        outcomes = [self._one(arrival) for arrival in arrivals]
        for key in self._changed:
            archive.save(self._streams[key])
        archive.commit()
        for key in self._changed:
            self._streams[key].came.touched.clear()
        self._changed.clear()
        for head in self._came:
            self._arrived(head)
        self._came.clear()
        self._say("")
        return outcomes

    def _one(self, arrival: Arrival) -> Outcome:
        try:
            if arrival.kind == STATUS:
                self._archive.status(status_of(arrival))
                return Outcome(stored=1)
            items = items_of(arrival)
        except NotUnderstood as error:
            self._archive.refused("not understood")
            return Outcome(refused=str(error))
        for item in items:
            self._take(item)
        return Outcome(stored=len(items))

    def _take(self, item: Item) -> None:
        head = item.head
        stream = self._stream(head)
        self._came.append(head)
        if head.gap is not None:
            if (head.gap.first, head.gap.last) in stream.gaps:
                stream.doubles += 1
                return
            stream.gaps[head.gap.first, head.gap.last] = head.gap.reason
            self._archive.gap(stream, head.gap)
            if isinstance(head, Alert):
                self._archive.put(stream, item)
        elif head.seq in stream.came:
            self._again(stream, item)
        elif self._archive.put(stream, item):
            stream.take(head)
        else:
            self._differs(stream, item)

    def _again(self, stream: Stream, item: Item) -> None:
        stored = self._archive.stored(stream, item)
        if stored and stored[0] != item.digest() and not same(stored[1], item.body):
            self._differs(stream, item)
        else:
            stream.doubles += 1

    def _differs(self, stream: Stream, item: Item) -> None:
        stream.differing += 1
        self._archive.differing(stream, item)
        key = stream.key
        _LOGGER.error(
            "%s %s%s: number %d of epoch %d came again with OTHER content; the first one is kept",
            key.gateway, f"{key.uplink} " if key.uplink else "", key.lane, item.head.seq, key.epoch,
        )  # fmt: skip

    def _stream(self, head: Head) -> Stream:
        key = Key(head.gateway, head.uplink, head.epoch, head.lane)
        streams = self._streams
        if streams is None:
            streams = self._streams = self._archive.streams()
        if key not in streams:
            streams[key] = self._archive.new_stream(key)
        self._changed.add(key)
        return streams[key]

    def _arrived(self, head: Head) -> None:
        first = head.gap.first if head.gap else head.seq
        runs = self._runs
        if runs and runs[-1][0] == head.lane and runs[-1][2] + 1 == first:
            runs[-1][2] = head.seq
        else:
            runs.append([head.lane, first, head.seq])

    def _undo(self) -> None:
        """What is known is what the file has; it is read again at the next call."""
        self._archive.rollback()
        self._streams = None
        self._changed.clear()
        self._came.clear()

    def _say(self, trouble: str) -> None:
        """Once when it begins, once when it is over."""
        if trouble and not self._trouble:
            _LOGGER.error("receive: %s", trouble)
        elif self._trouble and not trouble:
            _LOGGER.warning("receive: what arrives is stored again")
        self._trouble = trouble
