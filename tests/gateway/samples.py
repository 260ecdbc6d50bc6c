"""Sample records for tests of the stores."""

from collections.abc import Iterable

from fastpath.codes import Quality
from fastpath.messages import SAMPLE


def samples_of(
    points: Iterable[tuple[int, float, int]], *, quality: int = Quality.GOOD, reason: int = 0
) -> bytes:
    """messages.SAMPLE records of (slot, value, time in ms; monotonic and UTC alike)."""
    return b"".join(
        SAMPLE.pack(slot, quality, reason, 0, value, ms * 1_000_000, ms * 1_000_000)
        for slot, value, ms in points
    )
