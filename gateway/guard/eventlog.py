"""The guard's news in the gateway's own log: one line each, a storm cut short and counted."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastpath.records import Event
    from gateway.store.alert import AlertDraft

_LOGGER = logging.getLogger(__name__)

LINES_MAX: Final = 50  # in one span
SPAN_NS: Final = 10_000_000_000
_LOUD: Final = frozenset({"critical", "high"})


class EventLog:
    """Observes the journal. ``draft_of`` gives the alert that a record is, or None."""

    def __init__(
        self,
        draft_of: "Callable[[Event], AlertDraft | None]",
        *,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._draft_of = draft_of
        self._monotonic_ns = monotonic_ns
        self._span_ns = -SPAN_NS
        self._lines = 0
        self._left_out = 0

    def observe(self, event: "Event") -> None:
        """Log one record, if people are to know of it."""
        draft = self._draft_of(event)
        if draft is None or not self._may_log():
            return
        loud = draft.state != "cleared" and draft.priority in _LOUD
        level = logging.WARNING if loud else logging.INFO
        source = f"{draft.source.kind} {draft.source.id}"
        _LOGGER.log(level, "%s: %s %s: %s", source, draft.kind, draft.state, draft.cause)

    def _may_log(self) -> bool:
        now_ns = self._monotonic_ns()
        if now_ns - self._span_ns >= SPAN_NS:
            if self._left_out:
                _LOGGER.warning("%d lines about the guard were left out", self._left_out)
            self._span_ns, self._lines, self._left_out = now_ns, 0, 0
        self._lines += 1
        if self._lines <= LINES_MAX:
            return True
        self._left_out += 1
        return False
