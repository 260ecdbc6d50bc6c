"""The site's tags by index: their texts, and each one's newest value with its staleness."""

import math
import time
from typing import TYPE_CHECKING, NamedTuple

from fastpath.codes import NONE_U32, Owner, Quality, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastpath.image import TagImage
    from fastpath.journal import GuardView, SlotView
    from gateway.guard.apply import Running
    from gateway.site.model import Config


class TagValue(NamedTuple):
    """What stands in a tag now; ``value`` is NaN where none was ever read."""

    value: float
    quality: int  # Quality
    reason: int  # Reason
    mono_ns: int
    utc_ns: int
    source_utc_ns: int


class TagTable:
    """Tags by index. Those that the guard polls are read from guard.shm, others from our image.

    The guard journals a tag on change only: its age is known in guard.shm alone.
    """

    def __init__(
        self,
        config: "Config",
        image: "TagImage",
        view: "Callable[[], GuardView | None]",
        running: "Callable[[], Running]",
    ) -> None:
        self.tags = config.tag
        self.ids = tuple(tag.id for tag in config.tag)
        self.index = {tag.id: i for i, tag in enumerate(config.tag)}
        fast = {device.id for device in config.device if device.fast}
        self.fast = tuple(tag.device in fast for tag in config.tag)
        self._stale_after_ns = tuple(tag.stale_after or 0 for tag in config.tag)
        self._image = image
        self._view = view
        self._running = running

    def read(self, i: int, now_ns: int | None = None) -> TagValue:
        """The value of tag ``i`` at ``now_ns`` (monotonic); BAD(stale) past ``stale_after``."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        view = self._view() if self.fast[i] else None
        slot = self._running().slot_of(i)
        seen = view.slot(slot) if view is not None and slot != NONE_U32 else None
        return self._value(i, seen, now_ns)

    def read_all(self, view: "GuardView | None", now_ns: int) -> list[TagValue]:
        """Every tag in order, by one given view; may be called in another thread.

        Raises JournalError when the view was closed meanwhile.
        """
        running = self._running()
        seen = view.slots(len(running.table)) if view is not None else ()
        values = []
        for i in range(len(self.ids)):
            slot = running.slot_of(i)
            values.append(self._value(i, seen[slot] if slot < len(seen) else None, now_ns))
        return values

    def _value(self, i: int, seen: "SlotView | None", now_ns: int) -> TagValue:
        """Tag ``i`` out of the guard's slot where the guard feeds it, else out of our image."""
        if self.fast[i] and seen is not None and seen.owner == Owner.GUARD:
            found = TagValue(
                seen.value, seen.quality, seen.reason, seen.mono_ns, seen.utc_ns, seen.source_utc_ns
            )
        else:
            found = TagValue(*self._image.get(i))
        if found.mono_ns == 0:
            return found._replace(value=math.nan)
        if (found.quality, found.reason) == (Quality.BAD, Reason.DEVICE_FAILURE):
            return found  # a refused register is asked for rarely: its reason says more
        stale_after_ns = self._stale_after_ns[i]
        if stale_after_ns and now_ns - found.mono_ns > stale_after_ns:
            return found._replace(quality=Quality.BAD, reason=Reason.STALE)
        return found
