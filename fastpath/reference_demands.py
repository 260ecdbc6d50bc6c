"""Who demands an output, in plain Python: interlocks, STOP, one that failed; and what silences it.

Part of the reference (``reference``): written for reading, never run on site. A fallback is
demanded from the scan in which the other failed to the scan in which that one is let go: then both
are released, each by its own rules. A siren that is silenced stays demanded and is not commanded.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fastpath.codes import ResultCode
from fastpath.reference_interlocks import Now, Wanted
from fastpath.reference_output import Output, Silence


@dataclass(slots=True)
class Demands:
    """Of all outputs of a site."""

    items: dict[str, Output]
    stopping: bool = False  # STOP with on_stop = trip: everything is demanded

    def scan(self, wanted: Wanted, now: Now) -> None:
        """First thing of the outputs in a scan."""
        stood_in = {one.id for one in self.items.values() if one.stands_in}
        for one in self.items.values():
            one.demanded = one.id in wanted.demanded or self.stopping
            one.awaited = one.id in wanted.awaited
        self._stand_in(wanted)
        for one in self.items.values():
            if one.silence is not None:
                anew = one.stands_in and one.id not in stood_in
                self._silence(one, one.silence, wanted, now, anew=anew)

    def _stand_in(self, wanted: Wanted) -> None:
        """Fallbacks; a chain of them ends from its head, all of it in one scan."""
        while True:
            for one in self.items.values():
                one.stands_in = any(
                    each.failed and one.id in each.definition.fallback
                    for each in self.items.values()
                )
            ended = [
                one
                for one in self.items.values()
                if one.failed
                and not (one.held or one.awaited)
                and (not one.trips or one.id in wanted.releasable)
            ]
            if not ended:
                return
            for one in ended:
                one.failed = False
                wanted.releasable |= set(one.definition.fallback)

    def _silence(
        self, one: Output, silence: Silence, wanted: Wanted, now: Now, *, anew: bool
    ) -> None:
        """It ends with its time, with the demand, and with whatever demands it anew."""
        heard = wanted.trips(one.id) == silence.heard
        over = now.boot_ns >= silence.until_boot_ns
        if one.held and heard and not (over or anew or self.stopping):
            return
        one.silence = None
        one.sounds_again = one.held

    def follow(self, begin_trip: Callable[[Output], None]) -> list[Output]:
        """What failed in this scan has its fallbacks tripped in this scan: those it reached."""
        reached = []
        for failed in [one for one in self.items.values() if one.failed]:
            for name in failed.definition.fallback:
                one = self.items[name]
                if one.stands_in:
                    continue
                one.stands_in = True
                one.sounds_again = one.silence is not None
                one.silence = None
                if not one.trips:
                    begin_trip(one)
                reached.append(one)
        return reached

    def may_release(self, one: Output, forbidden: int) -> tuple[int, bool]:
        """(result of a RELEASE, does it but silence)."""
        silences = bool(one.definition.silence) and one.held and not self.stopping
        if not silences and (one.held or one.awaited or self.stopping):
            return ResultCode.CAUSE_PRESENT, False
        if not silences and forbidden:
            return forbidden, False
        if one.definition.normal is None:
            return ResultCode.NOT_ALLOWED, False
        return ResultCode.DONE, silences
