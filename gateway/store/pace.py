"""How much a store writes in a day: what flash is worn by."""

from collections import deque
from typing import Final

EVERY_S: Final = 600.0
READINGS_MAX: Final = 145  # a day, and the one at its begin
SPAN_S_MIN: Final = 60.0  # of less one does not speak of a day
DAY_S: Final = 86_400.0


class Pace:
    """Readings of a counter of bytes written, one every ten minutes, over the last day."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque(maxlen=READINGS_MAX)

    def look(self, now_s: float, written_bytes: int) -> None:
        """Take a reading where one is due; called as often as one likes."""
        if not self._readings or now_s - self._readings[-1][0] >= EVERY_S:
            self._readings.append((now_s, written_bytes))

    def per_day(self, now_s: float, written_bytes: int) -> int | None:
        """Bytes that a day has at the pace of the last one; None in the first minute."""
        if not self._readings:
            return None
        since_s, before = self._readings[0]
        span_s = now_s - since_s
        return round((written_bytes - before) * DAY_S / span_s) if span_s >= SPAN_S_MIN else None
