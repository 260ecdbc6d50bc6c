"""Counters' totals: they never decrease, neither over a wrap, a reset nor a restart of the gateway.

``counters.json`` in the state directory has each counter's total and the raw value that it was
counted to. Whoever starts goes on from there by the difference, so its age does not matter; it is
written at every wrap or reset, every ten seconds where something was counted, and at the end.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from gateway.paths import replace_file

_LOGGER = logging.getLogger(__name__)

SAVE_S: Final = 10.0
FILE: Final = "counters.json"


class Kept(Struct, frozen=True):
    """One counter in the file. ``of``: what is counted, so that another point begins anew."""

    of: str
    total: float
    raw: float


class Total:
    """One counter. ``wrap``: where its register begins anew, in the tag's unit; None: unknown."""

    def __init__(
        self, of: str, wrap: float | None, kept: Kept | None, odd: Callable[[], None]
    ) -> None:
        same = kept is not None and kept.of == of
        self.of: Final = of
        self.total = kept.total if kept is not None and same else 0.0
        self.raw = kept.raw if kept is not None and same else None
        self._wrap = wrap
        self._fell_from: float | None = None  # by the last step
        self._odd = odd  # called where the difference alone would not do

    def count(self, raw: float) -> str:
        """Count up to ``raw``; what is odd about the step, "" for nothing.

        A step back is a wrap where that is the smaller half of the way round, else a reset: what
        was counted between the last poll and it is lost, nothing is counted twice. A wrap to zero
        counts with the next reading that is none: a meter that starts shows zeros too.
        """
        before, self.raw = self.raw, raw
        if before is None:
            self.total = max(self.total, raw)
            self._odd()
            return ""
        if self._fell_from is not None and raw > before:
            if before == 0 and raw >= self._fell_from:  # a single zero, as of a meter that starts
                before = self._fell_from
            self._fell_from = None
        step = raw - before
        if step >= 0:
            self.total += step
            return ""
        self._odd()
        self._fell_from = before
        if self._wrap is not None and 0 <= step + self._wrap < self._wrap / 2:
            if raw == 0:
                self.raw = before
            else:
                self.total += step + self._wrap
            return ""
        return f"the counter stepped back from {before:.15g} to {raw:.15g}: reset, counted on"


class Totals:
    """The counters of a site and their file; ``path`` None: they live as long as the process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept = _read(path) if path is not None else {}
        self._totals: dict[str, Total] = {}
        self._odd = asyncio.Event()
        self._saved: dict[str, Kept] = {}
        self._failed = False

    @property
    def counts(self) -> bool:
        """Whether there is anything to count."""
        return bool(self._totals)

    def of(self, ident: str, of: str, wrap: float | None) -> Total:
        """The total of a tag, going on from what the file has."""
        total = Total(of, wrap, self._kept.get(ident), self._odd.set)
        self._totals[ident] = total
        return total

    async def run(self) -> None:
        """Keep the file for ever; at the end once more."""
        try:
            while True:
                try:
                    async with asyncio.timeout(SAVE_S):
                        await self._odd.wait()
                except TimeoutError:
                    pass
                self._odd.clear()
                await asyncio.to_thread(self.save)
        finally:
            self.save()

    def save(self) -> None:
        """Write what changed; a disk that does not take it is told once and asked again."""
        kept = {
            ident: Kept(each.of, each.total, each.raw)
            for ident, each in self._totals.items()
            if each.raw is not None
        }
        if self._path is None or not kept or kept == self._saved:
            return
        try:
            replace_file(self._path, msgspec.json.encode(kept), sync=True)
        except OSError as error:
            if not self._failed:
                _LOGGER.warning("%s: %s; totals would be lost by a restart", self._path, error)
            self._failed = True
            return
        self._saved, self._failed = kept, False


def _read(path: Path) -> dict[str, Kept]:
    """What the file has; nothing where there is none, and a line in the log where it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Kept])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        _LOGGER.warning("%s: %s; counters begin anew", path, error)
        return {}
