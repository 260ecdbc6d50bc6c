"""The slow devices: one session each, their samples to the gateway's image and to the guard.

A device that the guard polls itself (``fast``) is never touched here. One poll makes one Samples
(``messages.SAMPLE`` records by tag index); the guard gets those of its program by its own slots.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from drivers.kind import Surroundings
from drivers.session import SessionStats
from fastpath import columns, messages
from fastpath.codes import NONE_U32, Quality
from gateway.guard.by_hand import unsubstituted
from gateway.plant.polled_device import PolledDevice
from gateway.plant.signals import is_counter
from gateway.plant.totals import FILE, Totals
from gateway.site.references import SYSTEM_PREFIX

if TYPE_CHECKING:
    from fastpath.image import TagImage
    from fastpath.recording import Recording
    from gateway.guard.apply import Running
    from gateway.guard.link import GuardLink
    from gateway.life.problems import Problems
    from gateway.site.model import Config, Tag

EXPIRE_S: Final = 0.1  # how often staleness is looked for

# What a scanner delivers: every sample, and those of them that the history is to keep.
SamplesSink = Callable[[bytes, bytes], None]


@dataclass(slots=True)
class ScannerStats:
    """The sessions' counts by device, and what was dropped."""

    devices: dict[str, SessionStats] = field(default_factory=dict)
    samples: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # newest, by tag


class Scanner:
    """Polls every device of ``config`` that is not ``fast``.

    ``sink(samples, recorded)`` takes each poll. ``running`` tells which slots the guard's program
    gives to our tags, ``raised_tags`` which tags have an alarm. Raises RequestError for a device
    that no driver can serve.
    """

    def __init__(
        self,
        config: "Config",
        image: "TagImage",
        link: "GuardLink",
        running: "Callable[[], Running]",
        sink: SamplesSink,
        recording: "Recording",
        problems: "Problems",
        around: Surroundings,
        *,
        raised_tags: Callable[[], Collection[str]] = frozenset,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._image = image
        self._link = link
        self._running = running
        self._sink = sink
        self._recording = recording
        self._monotonic_ns = monotonic_ns
        self._utc_ns = utc_ns
        self._raised_tags = raised_tags
        self._samples = 0
        self._asked_by: Running | None = None  # the program that _asked is of
        self._asked: list[tuple[PolledDevice, int]] = []  # whose connection it reads, in which slot
        self._devices: dict[str, PolledDevice] = {}
        self._by_hand = False  # a value was given by hand in this life
        counters = any(is_counter(tag) for tag in config.tag)
        directory = around.state_dir
        self._totals = Totals(directory / FILE if directory and counters else None)
        by_device: dict[str, list[tuple[int, Tag]]] = {}
        for i, tag in enumerate(config.tag):
            by_device.setdefault(tag.device or "", []).append((i, tag))
        for device in config.device:
            tags = by_device.get(device.id, [])
            if (tags or device.conditions is not None) and not device.fast:
                self._devices[device.id] = PolledDevice(
                    device, tags, self.deliver, self.touch, problems, around, self._totals
                )

        self._bursting = [
            (each, device.burst, frozenset(device.burst.on) or each.tag_ids)
            for device in config.device
            if device.burst is not None and (each := self._devices.get(device.id)) is not None
        ]

    def jobs(self) -> "dict[str, Callable[[], Coroutine[Any, Any, None]]]":
        """What has to run, by a name for people: one session per device, and the staleness."""
        jobs = {f"device {ident}": each.session.run for ident, each in self._devices.items()}
        if jobs and self._totals.counts:
            jobs["counters"] = self._totals.run
        return jobs | {"staleness": self.expire} if jobs else {}

    def stats(self) -> ScannerStats:
        """The counts since the start."""
        devices = {ident: each.session.stats() for ident, each in self._devices.items()}
        dropped: dict[str, int] = {}
        for stats in devices.values():
            for reason, count in stats.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        texts: dict[str, str] = {}
        for each in self._devices.values():
            if each.texts:
                texts |= each.texts.by_tag()
                dropped["text"] = dropped.get("text", 0) + each.texts.overtaken
        return ScannerStats(devices, self._samples, dropped, texts)

    def deliver(self, samples: bytes) -> None:
        """One poll's samples: to the gateway, and to the guard what its program reads."""
        self._samples += len(samples) // messages.SAMPLE.size
        running = self._running()
        wanted = columns.remap(samples, running.slots)
        if wanted:
            told = unsubstituted(wanted) if self._by_hand else wanted
            self._link.send_samples(told, running.number)
        self._sink(samples, self._recording.keep(samples))

    def substitute(self, tag: int, value: float | None) -> None:
        """Give a tag of ours a value by hand (UNCERTAIN, substituted); None: as it is read again.

        The guard gets it as BAD: no value by hand is an input of an interlock.
        """
        self._by_hand = True
        for each in self._devices.values():
            if tag in each.tags:
                each.substitute(each.tags.index(tag), value, self._monotonic_ns(), self._utc_ns())

    def touch(self, tags: Sequence[int], mono_ns: int) -> None:
        """These tags of a device that pushes still have the values that they had."""
        running = self._running()
        slots = sorted(slot for tag in tags if (slot := running.slot_of(tag)) != NONE_U32)
        if slots:
            self._link.touch(slots, mono_ns, running.number)

    def resend(self) -> None:
        """Give a new guard, or a new program, the newest sample of every tag that it reads."""
        running = self._running()
        newest = bytearray()
        for each in self._devices.values():
            for point, tag in enumerate(each.tags):
                slot = running.slot_of(tag)
                value, quality, reason, mono_ns, utc_ns, _ = self._image.get(tag)
                mono_ns = max(mono_ns, each.known_ns(point))
                if slot != NONE_U32 and mono_ns:
                    newest += messages.SAMPLE.pack(slot, quality, reason, 0, value, mono_ns, utc_ns)
        if newest:
            self._link.send_samples(unsubstituted(bytes(newest)), running.number)

    async def expire(self) -> None:
        """Make tags BAD(comm_failure) whose newest sample is older than ``stale_after``.

        And tell the guard which devices are connected, where its program asks; and look for
        alarms that raise a device's rate.
        """
        while True:
            await asyncio.sleep(EXPIRE_S)
            now_ns = self._monotonic_ns()
            for each in self._devices.values():
                each.expire(now_ns, self._utc_ns())
                if each.substitutes:
                    each.tell_substitutes(now_ns, self._utc_ns())
            self.tell_connected(now_ns)
            self.look_for_bursts(now_ns)

    def look_for_bursts(self, now_ns: int) -> None:
        """Poll devices faster whose alarms are raised."""
        raised = self._raised_tags() if self._bursting else ()
        if not raised:
            return
        for each, burst, tags in self._bursting:
            if not tags.isdisjoint(raised):
                each.session.burst(burst.poll, now_ns + burst.hold)

    def tell_connected(self, now_ns: int) -> None:
        """``sys.<device>.connected`` of our devices: at once when it changes, and every second."""
        running = self._running()
        if running is not self._asked_by:
            tags = enumerate(running.names.get("tags", ()))
            slots = {ident: slot for slot, ident in tags if ident.startswith(SYSTEM_PREFIX)}
            self._asked = [
                (each, slots[each.system_tag])
                for each in self._devices.values()
                if each.system_tag in slots
            ]
            self._asked_by = running
        samples = b"".join(
            messages.SAMPLE.pack(slot, Quality.GOOD, 0, 0, float(told), now_ns, self._utc_ns())
            for each, slot in self._asked
            if (told := each.tells_connected(now_ns)) is not None
        )
        if samples:
            self._link.send_samples(samples, running.number)
