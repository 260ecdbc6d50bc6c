"""Times from before the wall clock was synchronised, and the record that corrects them.

A machine without a clock of its own starts in some other year. What is recorded until something
keeps its clock is marked (``clock_synced`` false); once something does, an event says by how much
those times were off and which alerts they are in. Order never depends on times: that is (epoch,
sequence).
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from gateway.errors import StoreError
from gateway.life.clock import synchronised
from gateway.store.alert import AlertDraft, Correction, Source
from gateway.store.undivided import undivided
from gateway.times import boot_ns as boot_ns_now

_LOGGER = logging.getLogger(__name__)

LOOK_S: Final = 0.25
SETTLE_NS: Final = 2_000_000_000  # the guard looks once a second, what it has recorded comes late
STEP_NS: Final = 100_000_000  # less is slewed by NTP all the time
SPANS_MAX: Final = 32  # so often the clock may be set before it is synchronised
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Alerts(Protocol):
    """Where alerts are numbered: the ledger."""

    @property
    def epoch(self) -> int:
        """0 while it was never open."""

    @property
    def head(self) -> int:
        """Sequence of the last alert."""

    async def append(self, drafts: Sequence[AlertDraft]) -> Any:
        """Store alerts. Raises StoreError."""


class _Span(msgspec.Struct):
    """While the clock was off by the same."""

    offset_ns: int  # UTC, as the clock had it, less boot time
    epoch: int
    first_seq: int
    from_utc_ns: int


class _Open(msgspec.Struct):
    """What is not corrected yet, and the boot that it is of."""

    boot: str
    spans: list[_Span]


class ClockWatch:
    """What is not corrected yet is kept in ``file``: a restart of the gateway forgets none of it.

    A restart of the machine ends it: nobody knows by how much the times before that were off.
    """

    def __init__(
        self,
        file: Path,
        ledger: Alerts,
        *,
        synced: Callable[[], bool] = synchronised,
        utc_ns: Callable[[], int] = time.time_ns,
        boot_ns: Callable[[], int] = boot_ns_now,
        boot: str | None = None,
    ) -> None:
        self._file = file
        self._ledger = ledger
        self._synced = synced
        self._utc_ns = utc_ns
        self._boot_ns = boot_ns
        self._boot = _BOOT_ID.read_text().strip() if boot is None else boot
        self._open = _read(file)
        self._drafts: list[AlertDraft] = []  # the corrections, until the ledger has taken them
        self._storing = asyncio.Lock()
        self._synced_ns: int | None = None  # boot time since when it is synchronised

    async def run(self) -> None:
        """Look for ever; returns only by cancellation."""
        while True:
            with contextlib.suppress(StoreError):  # told by the store; looked at again
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Note that times are not to be trusted, or correct them now that they are."""
        if not self._ledger.epoch:
            return
        if self._drafts:
            await self._tell()
        now_ns = self._boot_ns()
        offset_ns = self._utc_ns() - now_ns
        if self._open is not None and self._open.boot != self._boot:
            await self._correct(self._open, None)
        if self._synced():
            self._synced_ns = now_ns if self._synced_ns is None else self._synced_ns
            if self._open is not None and now_ns - self._synced_ns >= SETTLE_NS:
                await self._correct(self._open, offset_ns)
            return
        self._synced_ns = None
        spans = [] if self._open is None else self._open.spans
        known = bool(spans) and abs(offset_ns - spans[-1].offset_ns) < STEP_NS
        if not known and len(spans) < SPANS_MAX:
            ledger = self._ledger
            spans.append(_Span(offset_ns, ledger.epoch, ledger.head + 1, self._utc_ns()))
            self._keep(_Open(self._boot, spans))

    async def _correct(self, found: _Open, offset_ns: int | None) -> None:
        drafts = []
        for i, span in enumerate(found.spans):
            after = found.spans[i + 1] if i + 1 < len(found.spans) else None
            by_ns = None if offset_ns is None else offset_ns - span.offset_ns
            if by_ns is None or abs(by_ns) >= STEP_NS:
                drafts.append(self._draft(span, after, by_ns))
        self._drafts = drafts
        await self._tell()

    async def _tell(self) -> None:
        """What the ledger did not take is appended again as the same, never made anew."""
        await undivided(self._storing, self._store)

    async def _store(self) -> None:
        """Tell it, then forget it: a crash between both tells it twice, never not at all."""
        if self._drafts:
            await self._ledger.append(self._drafts)
        for draft in self._drafts:
            _LOGGER.warning("clock: %s", draft.cause)
        self._drafts = []
        self._open = None
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _draft(self, span: _Span, after: _Span | None, by_ns: int | None) -> AlertDraft:
        ledger = self._ledger
        if after is not None and after.epoch == span.epoch:
            last_seq = after.first_seq - 1
        elif after is None and span.epoch == ledger.epoch:
            last_seq = ledger.head
        else:
            last_seq = None  # the rest of an epoch that has ended
        if by_ns is None:
            cause = "the machine was started again before its clock was synchronised: earlier "
            cause += "times that are marked so cannot be corrected"
        else:
            cause = f"the clock is synchronised: add {by_ns / 1e9:+.3f} s to the times from before"
        return AlertDraft(
            kind="gateway",
            state="event",
            source=Source("gateway", "clock"),
            priority="medium",
            cause=cause,
            value=None if by_ns is None else by_ns / 1e9,
            unit=None if by_ns is None else "s",
            correction=Correction(
                epoch=span.epoch,
                first_seq=span.first_seq,
                last_seq=last_seq,
                offset_ns=by_ns,
                from_utc_ns=span.from_utc_ns,
                to_utc_ns=None if by_ns is None else self._end_ns(span, after, by_ns),
            ),
        )

    def _end_ns(self, span: _Span, after: _Span | None, by_ns: int) -> int:
        """When the span ended, by the clock as it was in it."""
        if after is None:
            return self._utc_ns() - by_ns
        return after.from_utc_ns - (after.offset_ns - span.offset_ns)

    def _keep(self, found: _Open) -> None:
        self._open = found
        fresh = self._file.with_name(f".{self._file.name}")
        try:
            fresh.write_bytes(msgspec.json.encode(found))
            os.replace(fresh, self._file)
        except OSError as error:
            _LOGGER.debug("%s: %s", self._file, error)


def _read(file: Path) -> _Open | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Open)
    except (OSError, msgspec.MsgspecError):
        return None
