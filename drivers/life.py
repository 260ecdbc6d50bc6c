"""A counter that proves a device live: a PLC in STOP whose communication still answers.

The counter is read with every poll. While it has not moved for ``within`` every reading of the
device is BAD(device_failure), until it moves again; a reconnect proves nothing, and where the
counter stands as before it the time goes on: a PLC in STOP may well drop its connections.
"""

import math
from collections.abc import Sequence

from drivers.base import Reading
from drivers.blocks import bad_reading
from fastpath.codes import Quality


class Life:
    """Watches the counter at ``point`` (an index of the driver's points that no caller has)."""

    def __init__(self, point: int, name: str, within_ns: int) -> None:
        self.point = point
        self._name = name
        self._within_ns = within_ns
        self._value = math.nan
        self._before = math.nan  # its value before the connection was lost
        self._seen_ns = 0  # newest look; 0: none on this connection
        self._stood_ns = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """For people, while it has stopped."""
        return f"its life counter {self._name} has not moved for {self._within_ns / 1e9:g} s"

    def connected(self) -> None:
        """The time without a connection is nobody's fault."""
        self._seen_ns = 0
        if not math.isnan(self._value):
            self._before, self._value = self._value, math.nan  # another one then is no move

    def judged(self, readings: Sequence[Reading], now_ns: int) -> list[Reading]:
        """The readings without the counter's own; BAD ones while it stands."""
        own = next((each for each in readings if each.point == self.point), None)
        others = [each for each in readings if each.point != self.point]
        self._look(own or bad_reading(self.point), now_ns)  # one that is not read stands, too
        if not self.stopped:
            return others
        return [bad_reading(each.point) for each in others]

    def _look(self, own: Reading, now_ns: int) -> None:
        good = own.quality == Quality.GOOD
        if good and not math.isnan(self._value) and own.value != self._value:
            self._stood_ns, self.stopped = 0, False
        elif good and math.isnan(self._value) and own.value != self._before:
            self._stood_ns = 0  # it may have begun anew: no proof, but its time does too
        elif self._seen_ns:
            self._stood_ns += now_ns - self._seen_ns
        if self._stood_ns > self._within_ns:
            self.stopped = True
        self._seen_ns = now_ns
        if good:
            self._value = own.value
