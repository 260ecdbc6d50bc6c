"""Values by hand in the place of readings: timed, reasoned, audited, UNCERTAIN (substituted).

For people, alarms and platforms while an instrument is away. No interlock takes one for good: the
guard gets it as BAD, and a tag that the guard reads itself has none. It is durable in the ledger
before it counts, goes on over a restart of the gateway, and ends with its time or with the boot.
"""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import StoreError
from gateway.logic.conditions import computed_of
from gateway.logic.tree import tags_of
from gateway.orders.outcome import Exit, Outcome, unknown
from gateway.store.audit_memory import SUBSTITUTE, SUBSTITUTE_END
from gateway.times import boot_ns, moment_words, span_words

if TYPE_CHECKING:
    from gateway.life.problems import Problems
    from gateway.site.model import Config, Tag
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)

KIND: Final = "substitution"
FOR_NS_MAX: Final = 24 * 3_600 * 1_000_000_000
LOOK_S: Final = 0.1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Substitution:
    """A live one. Times are boot time, ns."""

    value: float
    since_ns: int
    until_ns: int
    by: str
    reason: str


class Substitutions:
    """Begins and ends them. ``give`` sets a tag's value by hand, or None for its own again."""

    def __init__(
        self,
        config: "Config",
        ledger: "Ledger",
        problems: "Problems",
        give: Callable[[int, float | None], None],
        *,
        now_ns: Callable[[], int] = boot_ns,
        boot_id: Callable[[], str] = lambda: _BOOT_ID.read_text().strip(),
    ) -> None:
        self._tags = config.tag
        self._index = {tag.id: i for i, tag in enumerate(config.tag)}
        self._fast = {device.id for device in config.device if device.fast}
        far = [each for each in computed_of(config).tags.values() if each.far]
        self._remembered = {name for each in far for name in tags_of(each.tree)}
        self._ledger = ledger
        self._problems = problems
        self._give = give
        self._now_ns = now_ns
        self._boot_id = boot_id()
        self._live: dict[str, Substitution] = {}
        self._owed: dict[str, tuple[str, dict[str, Any]]] = {}  # ends that are not written yet

    def live(self) -> dict[str, Substitution]:
        """Those that are in force, by tag."""
        return dict(self._live)

    async def begin(
        self,
        ident: str,
        value: float,
        duration_ns: int,
        reason: str,
        who: str,
        *,
        not_after_ns: int | None = None,
        answered: Callable[[], Awaitable[None]],
    ) -> Outcome:
        """Give a tag a value by hand for a time."""
        refusal = self._refusal(ident, value, duration_ns)
        if refusal is not None:
            return refusal
        now_ns = self._now_ns()
        made = Substitution(value, now_ns, now_ns + duration_ns, who, reason)
        detail = {
            "value": value, "for_ns": duration_ns, "reason": reason, "id": os.urandom(16).hex(),
            "boot": self._boot_id, "since_boot_ns": made.since_ns, "until_boot_ns": made.until_ns,
        }  # fmt: skip
        try:
            seq = await self._ledger.command(who, SUBSTITUTE, ident, detail)
        except StoreError as error:
            return _failed(f"not done: the ledger cannot take it ({error})")
        if not_after_ns is not None and time.clock_gettime_ns(time.CLOCK_BOOTTIME) > not_after_ns:
            await self._note(who, SUBSTITUTE_END, ident, {"reason": "came too late"})
            return _failed("the command came too late and was not carried out; send it again")
        self._owed.pop(ident, None)  # the newer word holds
        self._start(ident, made)
        await answered()
        text = self._words(ident, made)
        await self._result(seq, text)
        return _done(text, _details(made))

    async def end(
        self, ident: str, reason: str, who: str, *, answered: Callable[[], Awaitable[None]]
    ) -> Outcome:
        """Return to what is read: at once, written down after."""
        if ident not in self._index:
            return unknown("tag", ident, list(self._index))
        if ident not in self._live:
            text = f"{ident} is not substituted: there is nothing to end"
            return Outcome(exit_code=Exit.ALREADY, code=0, text=text)
        self._stop(ident, f"ended by {who}: {ident} is what is read again")
        await answered()
        await self._note(who, SUBSTITUTE_END, ident, {"reason": reason})
        return _done(f"the substitution of {ident} has ended: it is what is read again", {})

    async def run(self) -> None:
        """Go on with what was in force, then end each at its time; for ever."""
        restored = False
        while True:
            restored = restored or await self._restored()
            self.look()
            await self._pay()
            await asyncio.sleep(LOOK_S)

    async def _pay(self) -> None:
        """Write the ends that the ledger did not take: a restart would begin them again."""
        for ident, (who, detail) in list(self._owed.items()):
            with contextlib.suppress(StoreError):
                await self._ledger.command(who, SUBSTITUTE_END, ident, detail)
                self._owed.pop(ident, None)

    def look(self) -> None:
        """End those whose time is over."""
        now_ns = self._now_ns()
        for ident in [ident for ident, each in self._live.items() if now_ns >= each.until_ns]:
            self._stop(ident, f"its time is over: {ident} is what is read again")

    async def _restored(self) -> bool:
        """Take up again what the ledger has; False while it cannot be read."""
        try:
            await self._ledger.knows_journals()
        except StoreError:
            return False
        for ident, detail, who in self._ledger.audit.substitutions():
            if ident in self._live:
                continue
            made = _of_detail(detail, who) if detail.get("boot") == self._boot_id else None
            if made is None or self._now_ns() >= made.until_ns or self._unfit(ident) is not None:
                text = f"it ended while no gateway ran: {ident} is what is read"
                self._problems.cleared(KIND, ident, text)
            else:
                self._start(ident, made)
        return True

    def _start(self, ident: str, made: Substitution) -> None:
        self._live[ident] = made
        self._give(self._index[ident], made.value)
        self._problems.raised(KIND, ident, self._words(ident, made), priority="medium")

    def _stop(self, ident: str, text: str) -> None:
        del self._live[ident]
        self._give(self._index[ident], None)
        self._problems.cleared(KIND, ident, text)

    def _words(self, ident: str, made: Substitution) -> str:
        tag = self._tags[self._index[ident]]
        left = span_words(made.until_ns - made.since_ns)
        return (
            f"{ident} is {made.value:g} {tag.unit}".rstrip()
            + f" by hand until {moment_words(made.until_ns)} ({left}), by {made.by}: "
            f"{made.reason}; interlocks take it for bad"
        )

    def _refusal(self, ident: str, value: float, duration_ns: int) -> Outcome | None:
        if ident not in self._index:
            return unknown("tag", ident, list(self._index))
        unfit = self._unfit(ident)
        if unfit is not None:
            return _failed(unfit)
        tag = self._tags[self._index[ident]]
        if not math.isfinite(value) or not _within(tag, value):
            low, high = tag.range or (-math.inf, math.inf)
            return _failed(f"{value:g} is not within the range of {ident}, {low:g} to {high:g}")
        if not 0 < duration_ns <= FOR_NS_MAX:
            return _failed(f"a substitution lasts at most {span_words(FOR_NS_MAX)}")
        live = self._live.get(ident)
        if live is not None:
            text = f"{self._words(ident, live)}; end it first"
            return Outcome(exit_code=Exit.ALREADY, code=0, text=text, details=_details(live))
        return None

    def _unfit(self, ident: str) -> str | None:
        """Why a tag has no value by hand, None where it may."""
        index = self._index.get(ident)
        if index is None:
            return f"there is no tag {ident}"
        tag = self._tags[index]
        if tag.value is not None:
            return f"{ident} is computed: substitute what it is computed of"
        if tag.device in self._fast:
            return (
                f"{ident} is read by the guard itself, for its interlocks: it takes no value by "
                f"hand; 'sitewarden bypass {ident} --tag' leaves it out"
            )
        if tag.uncertain == "use" and ident in self._remembered:
            return (
                f"{ident} goes into a computed tag that looks back for long and that interlocks "
                f"may read: its window would go on with the value"
            )
        if tag.point is not None and tag.point.type == "text":
            return f"{ident} is a text"
        return None

    async def _note(self, who: str, action: str, ident: str, detail: dict[str, Any]) -> None:
        try:
            await self._ledger.command(who, action, ident, detail)
        except StoreError as error:
            if action == SUBSTITUTE_END:
                self._owed[ident] = (who, detail)
            _LOGGER.warning("%s of %s by %s is not in the audit: %s", action, ident, who, error)

    async def _result(self, seq: int, text: str) -> None:
        try:
            await self._ledger.command_result(seq, 1, text)
        except StoreError as error:
            _LOGGER.warning("the result of command %d is not in the audit: %s", seq, error)


def _within(tag: "Tag", value: float) -> bool:
    return tag.range is None or tag.range[0] <= value <= tag.range[1]


def _of_detail(detail: dict[str, Any], who: str) -> Substitution | None:
    """One as the ledger has it; None where it is none of ours."""
    try:
        value, since_ns = float(detail["value"]), int(detail["since_boot_ns"])
        until_ns, reason = int(detail["until_boot_ns"]), str(detail["reason"])
    except (KeyError, TypeError, ValueError):
        return None
    return Substitution(value, since_ns, until_ns, who, reason) if math.isfinite(value) else None


def _details(made: Substitution) -> dict[str, Any]:
    return {
        "until": moment_words(made.until_ns),
        "left_s": max(0, made.until_ns - boot_ns()) // 1_000_000_000,
    }


def _done(text: str, details: dict[str, Any]) -> Outcome:
    return Outcome(exit_code=Exit.DONE, code=0, text=text, confirmed=True, details=details)


def _failed(text: str) -> Outcome:
    return Outcome(exit_code=Exit.FAILED, code=0, text=text)
