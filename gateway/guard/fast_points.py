"""The points that a device of the guard refuses: told once, as the scanner tells those of its own.

The guard journals such a point as BAD and asks for it rarely; guard.shm alone shows it for as long
as it lasts.
"""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

from fastpath.codes import NONE_U32, DeviceState, Quality, Reason
from gateway.plant.polled_device import faults_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastpath.journal import GuardView, SlotView
    from gateway.guard.apply import Running
    from gateway.life.problems import Problems
    from gateway.site.model import Config

LOOK_S: Final = 0.25
LOOKS: Final = 4  # that a point is refused, or that none is, in a row until it is told
_UNREAD: Final = frozenset({Reason.DEVICE_FAILURE, Reason.STALE, Reason.COMM_FAILURE})


class FastPoints:
    """Looks at the tags of the ``fast`` devices that answer."""

    def __init__(
        self,
        config: "Config",
        view: "Callable[[], GuardView | None]",
        running: "Callable[[], Running]",
        problems: "Problems",
    ) -> None:
        self._config = config
        self._view = view
        self._running = running
        self._problems = problems
        self._tags: dict[str, list[int]] = {
            device.id: [i for i, tag in enumerate(config.tag) if tag.device == device.id]
            for device in config.device
            if device.fast
        }
        self._refused: Counter[int] = Counter()  # tag: looks in a row
        self._well: Counter[str] = Counter()  # device: looks in a row

    async def run(self) -> None:
        """Look for ever; returns only by cancellation."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Look once."""
        view, running = self._view(), self._running()
        if view is None or not self._tags or view.header().program != running.program:
            return
        for index, ident in enumerate(running.names.get("devices", [])):
            if ident in self._tags and view.device(index).state == DeviceState.UP:
                self._look_at(ident, view, running)

    def _look_at(self, device: str, view: "GuardView", running: "Running") -> None:
        tags = self._tags[device]
        well = True
        for tag in tags:
            slot = running.slot_of(tag)
            refused = slot != NONE_U32 and self._is_refused(tag, view.slot(slot))
            self._refused[tag] = self._refused[tag] + 1 if refused else 0
            well = well and not refused
        self._well[device] = self._well[device] + 1 if well else 0
        lasting = [self._config.tag[i] for i in tags if self._refused[i] >= LOOKS]
        if lasting:
            told = [f"{tag.id}: {tag.point.address} is refused" for tag in lasting if tag.point]
            self._problems.raised("points", device, faults_text(told))
        elif self._well[device] == LOOKS:
            self._problems.cleared("points", device, "every point is read")

    def _is_refused(self, tag: int, seen: "SlotView") -> bool:
        """What was refused stays so until it is read: a reconnect alone proves nothing."""
        if seen.quality != Quality.BAD:
            return False
        return seen.reason == Reason.DEVICE_FAILURE or (
            self._refused[tag] >= LOOKS and seen.reason in _UNREAD
        )
