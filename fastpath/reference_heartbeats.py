"""Which heartbeats are withheld on purpose, in plain Python, so that a PLC's watchdog acts.

Part of the reference (``reference``): written for reading, never run on site. An output that is
TRIP_FAILED for the watchdog's time, and has no fallback that is confirmed, stops the heartbeats of
the devices that carry it and its fallbacks, until it is confirmed or let go.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from fastpath.codes import OutputState
from fastpath.reference_interlocks import Now
from fastpath.reference_output import Output


@dataclass(slots=True)
class Heartbeats:
    """Of all devices of a site."""

    items: dict[str, Output]
    record: Callable[..., None]
    watchdogs: dict[str, int] = field(default_factory=dict)  # device with a heartbeat -> ns
    stops: bool = True  # on_output_failure
    withheld: set[str] = field(default_factory=set)  # devices

    def scan(self, now: Now) -> None:
        """After the outputs: who fails for how long, and whose heartbeats that stops."""
        stopped: set[str] = set()
        if self.stops:
            for one in self.items.values():
                if one.state == OutputState.TRIP_FAILED and not self._made_good(one):
                    patience_ns = self._patience_ns(one)
                    failed_ns = now.mono_ns - one.entered_ns
                    one.beat_stopped |= patience_ns is not None and failed_ns >= patience_ns
            for one in self.items.values():
                if one.beat_stopped:
                    stopped |= self._devices(one)
        for device in sorted(stopped ^ self.withheld):
            self.record("HEARTBEAT_STOP" if device in stopped else "HEARTBEAT_START", device)
        self.withheld = stopped

    def _made_good(self, one: Output) -> bool:
        """It is confirmed, or a fallback down its chain is."""
        if one.state == OutputState.TRIPPED and one.confirmed:
            return True
        return any(self._made_good(self.items[name]) for name in one.definition.fallback)

    def _devices(self, one: Output) -> set[str]:
        """With a heartbeat, of those that carry it and its fallbacks."""
        carried = [one, *(self.items[name] for name in one.definition.fallback)]
        found = {str(each.definition.device) for each in carried if not each.by_gateway}
        return found & self.watchdogs.keys()

    def _patience_ns(self, one: Output) -> int | None:
        """The watchdog of its own device, else the shortest of its fallbacks'; None: there is none.

        Nobody can stop a heartbeat that there is not.
        """
        own = self.watchdogs.get(str(one.definition.device))
        if own is not None and not one.by_gateway:
            return own
        return min((self.watchdogs[each] for each in self._devices(one)), default=None)
