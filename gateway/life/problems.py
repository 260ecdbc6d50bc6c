"""What is wrong now, outside the guard: logged once, shown while it lasts, told by an alert.

Whoever finds a problem calls :meth:`Problems.raised` as often as it likes; only the first call
counts until it is :meth:`Problems.cleared`. The alerts wait here until the ledger takes them: so
many in order, and where they are too many, the newest state of each subject behind them.
"""

import asyncio
import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from gateway.errors import StoreError
from gateway.store.alert import AlertDraft, Kind, Priority, Source, State
from gateway.store.undivided import undivided

_LOGGER = logging.getLogger(__name__)

WAITING_ALERTS_MAX: Final = 1_000
LEDGER_RETRY_S: Final = 1.0
_BATCH_MAX: Final = 100
# The alert's kind by the problem's; every other problem is the gateway's own.
_ALERT_KINDS: Final[dict[str, Kind]] = {
    "device": "device",
    "points": "device",
    "backup": "device",
    "alive": "device",
    "certificate_1d": "device",
    "certificate_7d": "device",
    "certificate_30d": "device",
    "signal": "device",
    "substitution": "command",
    "condition": "alarm",
    "guard": "guard",
    "program": "program",
}
_END_KINDS: Final[dict[Kind, Kind]] = {"alarm": "alarm_end"}


class AlertSink(Protocol):
    """What takes alerts for good: the ledger."""

    async def append(self, drafts: Sequence[AlertDraft]) -> Any:
        """Store the alerts. Raises StoreError."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong now; ``kind`` and ``ident`` are the source of its alert."""

    kind: str
    ident: str
    text: str
    since_utc_ns: int


class Problems:
    """The list of what is wrong, and the queue of alerts about it."""

    def __init__(self, *, utc_ns: Callable[[], int] = time.time_ns) -> None:
        self._utc_ns = utc_ns
        self._active: dict[tuple[str, str], Problem] = {}
        self._known: set[tuple[str, str]] = set()  # said anything of it in this life
        self._before: frozenset[str] | None = None  # subjects that an earlier life left raised
        self._waiting: deque[AlertDraft] = deque()
        self._behind: dict[str, AlertDraft] = {}  # found no place to wait, by subject
        self._storing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._refused = False
        self.on_stored: Callable[[], None] = _nothing  # new alerts are in the ledger
        self.raised_total: Counter[str] = Counter()  # by kind
        self.dropped: Counter[str] = Counter()  # alerts that are never told, by reason

    def active(self) -> list[Problem]:
        """What is wrong now, oldest first."""
        return list(self._active.values())

    def follow(self, subjects: Iterable[str]) -> None:
        """What the ledger has as raised: nothing else of an earlier life has to be cleared."""
        self._before = frozenset(subjects) | (self._before or frozenset())

    def raised(
        self,
        kind: str,
        ident: str,
        text: str,
        *,
        priority: Priority = "high",
        logged: bool = False,
    ) -> None:
        """Tell that something is wrong; a later call only renews the text.

        ``logged``: whoever found it has written its own line.
        """
        key = (kind, ident)
        before = self._active.get(key)
        since_ns = before.since_utc_ns if before else self._utc_ns()
        self._active[key] = Problem(kind, ident, text, since_ns)
        self._known.add(key)
        if before is not None:
            return
        if not logged:
            _LOGGER.warning("%s %s: %s", kind, ident, text)
        self.raised_total[kind] += 1
        self._put(kind, ident, "raised", text, priority)

    def cleared(self, kind: str, ident: str, text: str, *, logged: bool = False) -> None:
        """Tell that it is over; ``logged`` as with :meth:`raised`.

        The first time it goes to the ledger in any case: an earlier life may have raised it.
        """
        key = (kind, ident)
        if self._active.pop(key, None) is not None:
            if not logged:
                _LOGGER.info("%s %s: %s", kind, ident, text)
        elif key in self._known or self._is_new(kind, ident):
            self._known.add(key)
            return
        self._known.add(key)
        self._put(kind, ident, "cleared", text, "low")

    def clear_others(self, kind: str, prefix: str, keep: set[str], text: str) -> None:
        """All of a kind whose ident begins so are over, but those; of an earlier life as well."""
        found = {ident for each, ident in self._active if each == kind}
        begin = _subject(kind, "")
        for subject in self._before or ():
            if subject.startswith(begin) and (kind, subject.removeprefix(begin)) not in self._known:
                found.add(subject.removeprefix(begin))
        for ident in sorted(found - keep):
            if ident.startswith(prefix):
                self.cleared(kind, ident, text)

    def event(
        self,
        kind: str,
        ident: str,
        text: str,
        *,
        priority: Priority = "low",
        alert_kind: Kind | None = None,
    ) -> None:
        """Tell of something that has no end: one alert, of ``alert_kind`` where it has its own."""
        _LOGGER.info("%s %s: %s", kind, ident, text)
        self._put(kind, ident, "event", text, priority, alert_kind)

    async def run(self, ledger: AlertSink) -> None:
        """Bring the waiting alerts into the ledger, for ever; returns only by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                if not await self.flush(ledger):
                    await asyncio.sleep(LEDGER_RETRY_S)

    async def flush(self, ledger: AlertSink) -> bool:
        """One try to store what waits; False when the ledger does not take it now."""
        if not self._waiting:
            return True
        try:
            await undivided(self._storing, partial(self._store_oldest, ledger))
        except StoreError as error:
            if not self._refused:
                _LOGGER.debug("alerts wait for the ledger: %s", error)  # it is a problem itself
            self._refused = True
            return False
        self._refused = False
        self.on_stored()
        return True

    async def _store_oldest(self, ledger: AlertSink) -> None:
        """Not to be divided: an event that is stored and still waits is told twice."""
        batch = list(itertools.islice(self._waiting, _BATCH_MAX))
        if batch:
            await ledger.append(batch)
        for _ in batch:
            self._waiting.popleft()
        while self._behind and len(self._waiting) < WAITING_ALERTS_MAX:
            self._waiting.append(self._behind.pop(next(iter(self._behind))))

    def _is_new(self, kind: str, ident: str) -> bool:
        """Whether no earlier life has raised this."""
        return self._before is not None and _subject(kind, ident) not in self._before

    def _put(
        self,
        kind: str,
        ident: str,
        state: State,
        text: str,
        priority: Priority,
        alert_kind: Kind | None = None,
    ) -> None:
        alert: Kind = alert_kind or _ALERT_KINDS.get(kind, "gateway")
        draft = AlertDraft(
            kind=_END_KINDS.get(alert, alert) if state == "cleared" else alert,
            state=state,
            source=Source(kind, ident),
            utc_ns=self._utc_ns(),
            priority=priority,
            cause=text,
            subject="" if state == "event" else _subject(kind, ident),
        )
        if self._behind or len(self._waiting) >= WAITING_ALERTS_MAX:
            self._put_behind(draft)
        else:
            self._waiting.append(draft)
        self._wake.set()

    def _put_behind(self, draft: AlertDraft) -> None:
        """One for each subject; an end there takes its raise with it, and the other way round."""
        if not draft.subject:
            self.dropped["alerts_full"] += 1
        elif (before := self._behind.pop(draft.subject, None)) is None:
            self._behind[draft.subject] = draft
        elif before.state == draft.state:  # "cleared" of an earlier life may come twice
            self._behind[draft.subject] = before
            self.dropped["alerts_full"] += 1
        else:
            self.dropped["alerts_full"] += 2


def _subject(kind: str, ident: str) -> str:
    return f"problem:{kind}:{ident}"


def _nothing() -> None:
    """What happens where nobody waits for stored alerts."""
