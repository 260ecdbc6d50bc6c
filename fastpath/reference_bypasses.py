"""Bypasses in plain Python: who may have one, for how long, and how they end.

Part of the reference (``reference``): written for reading, never run on site. What a bypass does
to the states of an interlock is in ``reference_interlocks``, what a bypassed tag does to a
condition in ``reference_conditions``. All times are boottime.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastpath.codes import BypassEnd, BypassKind, ResultCode
from fastpath.reference_conditions import Reading, tags_of
from fastpath.reference_interlocks import Bypass, Interlock, Interlocks, Now


def nearly_over(bypass: Bypass, now: Now) -> bool:
    """80 % of its time."""
    return bypass.until_ns - now.boot_ns <= (bypass.until_ns - bypass.from_ns) // 5


@dataclass(slots=True)
class Bypasses:
    """Of all interlocks and tags of a site."""

    interlocks: Interlocks
    record: Callable[..., None]
    readings: Mapping[str, Reading]
    groups: dict[str, Any] = field(default_factory=dict)  # id -> gateway.site.model.Group
    tags: dict[str, Bypass] = field(default_factory=dict)

    def scan(self, now: Now) -> None:
        """First thing in a scan: what is over, and what soon will be."""
        for one in self.interlocks.items:
            if one.bypass is None:
                continue
            if one.definition.no_bypass:
                self.interlocks.end_bypass(one, BypassEnd.FORBIDDEN, now)
            elif now.boot_ns >= one.bypass.until_ns:
                self.interlocks.end_bypass(one, BypassEnd.TIME, now)
            elif not one.bypass.told and nearly_over(one.bypass, now):
                one.bypass.told = True
                self.interlocks.record_bypass("BYPASS_ENDING", one, one.bypass, now)
        for tag, bypass in list(self.tags.items()):
            if now.boot_ns >= bypass.until_ns:
                self.end_tag(tag, BypassEnd.TIME, now)
            elif not bypass.told and nearly_over(bypass, now):
                bypass.told = True
                self._record_tag("BYPASS_ENDING", tag, bypass, now)

    # ---- of interlocks

    def start(self, one: Interlock, duration_ns: int, ledger_seq: int, now: Now) -> int:
        """BYPASS_START of an interlock: begun on a trip it leaves the trip standing."""
        if one.bypass is not None:
            return ResultCode.ALREADY
        if one.definition.no_bypass:
            return ResultCode.NOT_ALLOWED
        if not self._fits(one, duration_ns):
            return ResultCode.LIMIT
        one.bypass = Bypass(now.boot_ns, now.boot_ns + duration_ns)
        one.withheld = not one.latched
        self.interlocks.record_bypass("BYPASS", one, one.bypass, now, ledger_seq=ledger_seq)
        return ResultCode.DONE

    def _fits(self, one: Interlock, duration_ns: int) -> bool:
        """Its time is within bounds, and its group has room; without a group it stands alone."""
        group = one.definition.group
        members = [one]
        most = 1
        if group is not None:
            members = [each for each in self.interlocks.items if each.definition.group == group]
            most = self.groups[group].max_bypassed
        count = sum(each.bypass is not None for each in members)
        count += sum(any(_reads(each, tag) for each in members) for tag in self.tags)
        return 0 < duration_ns <= one.definition.bypass_max and count < most

    # ---- of tags

    def start_tag(self, tag: str, duration_ns: int, ledger_seq: int, now: Now) -> int:
        """BYPASS_START of a tag."""
        if tag in self.tags:
            return ResultCode.ALREADY
        readers = list(self._readers(tag))
        if not readers or any(each.definition.no_bypass for each in readers):
            return ResultCode.NOT_ALLOWED
        if not all(self._fits(each, duration_ns) for each in readers):
            return ResultCode.LIMIT
        self.tags[tag] = Bypass(now.boot_ns, now.boot_ns + duration_ns)
        self.readings[tag].bypassed = True
        self._record_tag("BYPASS", tag, self.tags[tag], now, ledger_seq=ledger_seq)
        return ResultCode.DONE

    def end_tag(self, tag: str, cause: int, now: Now, ledger_seq: int = 0) -> int:
        """The tag counts again in the evaluation that follows."""
        bypass = self.tags.pop(tag, None)
        if bypass is None:
            return ResultCode.ALREADY
        self.readings[tag].bypassed = False
        self._record_tag("BYPASS_END", tag, bypass, now, cause=cause, ledger_seq=ledger_seq)
        return ResultCode.DONE

    def rebind(self, now: Now) -> None:
        """After a start or a swap: the readings know it; what the program forbids is over."""
        for reading in self.readings.values():
            reading.bypassed = False
        for tag in list(self.tags):
            readers = list(self._readers(tag))
            if not readers or any(each.definition.no_bypass for each in readers):
                self.end_tag(tag, BypassEnd.FORBIDDEN, now)
            else:
                self.readings[tag].bypassed = True

    def record_lost(self, kind: int, ident: str, now: Now) -> None:
        """The end of one whose memory is damaged; nothing else is known of it."""
        self.record(
            "BYPASS_END", ident, kind=int(kind), cause=int(BypassEnd.BOOT), until_ns=now.boot_ns,
            left_ns=0, ledger_seq=0, withheld=False, unarmed=False,
        )  # fmt: skip

    def _readers(self, tag: str) -> Iterator[Interlock]:
        return (each for each in self.interlocks.items if _reads(each, tag))

    def _record_tag(
        self,
        kind: str,
        tag: str,
        bypass: Bypass,
        now: Now,
        *,
        cause: int = 0,
        ledger_seq: int = 0,
    ) -> None:
        self.record(
            kind,
            tag,
            kind=int(BypassKind.TAG),
            cause=int(cause),
            until_ns=bypass.until_ns,
            left_ns=bypass.until_ns - now.boot_ns,
            ledger_seq=ledger_seq,
            withheld=False,
            unarmed=False,
        )


def _reads(one: Interlock, tag: str) -> bool:
    return any(tag in tags_of(each.tree) for each in one.conditions)
