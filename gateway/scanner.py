"""The slow devices: one session each, their samples to the gateway's image and to the guard.

A device that the guard polls itself (``fast``) is never touched here. One poll makes one Samples
(``messages.SAMPLE`` records by tag index); the guard gets those of its program by its own slots.
"""

import asyncio
import functools
import logging
import math
import time
from array import array
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from drivers.base import Worded
from drivers.kind import Surroundings
from drivers.registry import DRIVERS, make_driver
from drivers.session import PollClass, Session, SessionStats
from fastpath import columns, messages
from fastpath.codes import NONE_U32, Quality, Reason
from gateway.by_hand import unsubstituted
from gateway.device_conditions import DeviceConditions
from gateway.logic.conditions import connected_tag
from gateway.signal_alerts import SignalAlerts
from gateway.signals import conditioner_of, is_counter
from gateway.site.model import Point, is_text
from gateway.site.references import SYSTEM_PREFIX
from gateway.texts import Texts
from gateway.totals import FILE, Total, Totals

if TYPE_CHECKING:
    from drivers.base import Facts, Reading
    from drivers.errors import DriverError
    from fastpath.image import TagImage
    from fastpath.recording import Recording
    from gateway.apply import Running
    from gateway.guardlink import GuardLink
    from gateway.problems import Problems
    from gateway.site.model import Config, Device, Tag

_LOGGER = logging.getLogger(__name__)

EXPIRE_S: Final = 0.1  # how often staleness is looked for
RENEW_NS: Final = 5_000_000_000  # how often unchanged values of a device that pushes are delivered
_FAULTS_TOLD_MAX: Final = 5
_NS_PER_S: Final = 1_000_000_000
_NEVER_NS: Final = 1 << 62
# Kinds of Facts.troubles: what an earlier life has told of them ends when a device is well.
_FACTS: Final = (
    "alive", "backup", "certificate_1d", "certificate_7d", "certificate_30d", "own_certificate",
    "server_certificate", "server_clock", "server_pace",
)  # fmt: skip
_LOST: Final = (math.nan, int(Quality.BAD), int(Reason.COMM_FAILURE))

# What a scanner delivers: every sample, and those of them that the history is to keep.
SamplesSink = Callable[[bytes, bytes], None]


@dataclass(slots=True)
class ScannerStats:
    """The sessions' counts by device, and what was dropped."""

    devices: dict[str, SessionStats] = field(default_factory=dict)
    samples: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # newest, by tag


def faults_text(told: "Sequence[str]") -> str:
    """The faults of a device's points in one line, cut short."""
    more = len(told) - _FAULTS_TOLD_MAX
    return "; ".join(told[:_FAULTS_TOLD_MAX]) + (f"; and {more} more" if more > 0 else "")


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
        self._asked: list[tuple[_Device, int]] = []  # whose connection it reads, in which slot
        self._devices: dict[str, _Device] = {}
        self._by_hand = False  # a value was given by hand in this life
        counters = any(is_counter(tag) for tag in config.tag)
        directory = around.state_dir
        self._totals = Totals(directory / FILE if directory and counters else None)
        by_device: dict[str, list[tuple[int, Tag]]] = {}
        for i, tag in enumerate(config.tag):
            by_device.setdefault(tag.device or "", []).append((i, tag))
        for device in config.device:
            tags = by_device.get(device.id, [])
            if tags and not device.fast:
                self._devices[device.id] = _Device(
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


class _Device:
    """One device's session with its tags; the session's sink."""

    def __init__(
        self,
        device: "Device",
        tags: "Sequence[tuple[int, Tag]]",
        deliver: Callable[[bytes], None],
        touch: Callable[[Sequence[int], int], None],
        problems: "Problems",
        around: Surroundings,
        totals: Totals,
    ) -> None:
        self.id = device.id
        self.tags = array("I", [index for index, _ in tags])
        self._ids = [tag.id for _, tag in tags]
        self.tag_ids = frozenset(self._ids)
        self._deliver = deliver
        self._touch = touch
        self._problems = problems
        self._stale_after_ns = [tag.stale_after or 0 for _, tag in tags]
        self._read_ns = [0] * len(tags)  # newest reading or proof, 0: none or told stale
        self._stale_after_ns_min = min(filter(None, self._stale_after_ns), default=_NEVER_NS)
        self._expires_ns = _NEVER_NS  # no tag is stale before this; a newer reading makes it later
        self._newest: list[Reading | None] = [None] * len(tags)
        self._renewed_ns = 0  # when what such a device leaves out was delivered last
        self.system_tag = connected_tag(device.id)
        fastest_ns = min(tag.poll or device.poll for _, tag in tags)
        self._connected_within_ns = 3 * max(device.poll, fastest_ns) + device.timeout
        self._good_ns = 0  # newest poll that was answered
        self._troubles = set(_FACTS)  # kinds that were told, perhaps in an earlier life
        self._asked_ns = 0  # since when the guard wants to know whether it is connected
        self._told: bool | None = None
        self._told_ns = 0
        conditioners = [
            conditioner_of(tag, functools.partial(_total, totals, tag)) for _, tag in tags
        ]
        self._conditioners = conditioners if any(conditioners) else None
        self._alerts = SignalAlerts(self._ids, problems)
        self.substitutes: dict[int, float] = {}  # by point
        self._real: dict[int, tuple[float, int, int]] = {}  # of those: what was read
        self._substitutes_told_ns = 0
        points = [(tag.point or Point(), None if tag.signal else tag.range) for _, tag in tags]
        driver = make_driver(device.driver, device, points, around)
        self._worded = driver if isinstance(driver, Worded) else None
        words = {i: tag.id for i, (_, tag) in enumerate(tags) if is_text(tag.point)}
        self.texts = Texts(words, problems)
        periods: dict[int, list[int]] = {}
        for number, (_, tag) in enumerate(tags):
            periods.setdefault(tag.poll or device.poll, []).append(number)
        self.session = Session(
            driver,
            [PollClass(period, driver.plan(numbers)) for period, numbers in periods.items()],
            self,
            name=device.id,
            settle_ns=device.settle,
            retry_max_ns=DRIVERS[device.driver].retry_max_ns,
            on_faults=self.faults,
            on_facts=self.facts,
            on_conditions=DeviceConditions(device.id, problems).tell,
        )

    def readings(
        self, plan_index: int, mono_ns: int, utc_ns: int, readings: "Sequence[Reading]"
    ) -> None:
        """Pack one poll and pass it on."""
        del plan_index
        self._good_ns = max(self._good_ns, mono_ns)
        self._expires_ns = min(self._expires_ns, mono_ns + self._stale_after_ns_min)
        pack, tags = messages.SAMPLE.pack, self.tags
        conditioners, substitutes = self._conditioners, self.substitutes
        read_ns, newest, samples = self._read_ns, self._newest, bytearray()
        if self.texts and self._worded is not None:
            self.texts.take(self._worded.texts(), mono_ns)
        for reading in readings:
            point, value, quality, reason, source_utc_ns = reading
            read_ns[point] = mono_ns
            newest[point] = reading
            if conditioners is not None and (conditioner := conditioners[point]) is not None:
                value, quality, reason = conditioner.take(value, quality, reason, mono_ns)
                self._alerts.look(point, conditioner.trouble, mono_ns)
            if point in substitutes:
                self._real[point] = value, quality, reason
                continue
            stamp_ns = source_utc_ns or utc_ns
            samples += pack(tags[point], quality, reason, 0, value, mono_ns, stamp_ns)
        if samples:
            self._deliver(bytes(samples))

    def proven(self, mono_ns: int, utc_ns: int, points: "Sequence[int]") -> None:
        """What a device that pushes has not told is as it was.

        The guard is told so; now and then the values themselves are delivered again, so that who
        called them stale meanwhile (a pause, a restart) has them back.
        """
        self._good_ns = max(self._good_ns, mono_ns)
        renew = mono_ns - self._renewed_ns >= RENEW_NS
        if renew:
            self._renewed_ns = mono_ns
        renewed, touched = [], []
        for point in points:
            newest = self._newest[point]
            if newest is None or self._read_ns[point] == mono_ns:
                continue
            if renew or not self._read_ns[point]:
                renewed.append(newest._replace(source_utc_ns=0))
            elif point not in self.substitutes:
                touched.append(self.tags[point])
            self._read_ns[point] = mono_ns
        if renewed:
            self.readings(0, mono_ns, utc_ns, renewed)
        if touched:
            self._touch(touched, mono_ns)

    def known_ns(self, point: int) -> int:
        """When this point was read or proved to be as it was; 0: not known, or stale."""
        return self._read_ns[point]

    def tells_connected(self, now_ns: int) -> bool | None:
        """Whether it answered within three polls and a timeout; None: not to be told now."""
        self._asked_ns = self._asked_ns or now_ns
        connected = now_ns - (self._good_ns or self._asked_ns) <= self._connected_within_ns
        if connected and not self._good_ns:
            return None  # it may still answer for the first time
        if self._told == connected and now_ns - self._told_ns < _NS_PER_S:
            return None
        self._told, self._told_ns = connected, now_ns
        return connected

    def failed(self, plan_index: int, mono_ns: int, utc_ns: int) -> None:
        """A failed poll changes nothing until ``stale_after``."""

    def state(self, up: bool, error: "DriverError | None") -> None:
        """Tell people once each time; the session itself has logged it."""
        if up:
            self._problems.cleared("device", self.id, "answers again", logged=True)
        else:
            self._problems.raised("device", self.id, f"no connection: {error}", logged=True)

    def faults(self, faults: Mapping[int, str]) -> None:
        """Points that the device refuses: one alert for all of them."""
        if not faults:
            self._problems.cleared("points", self.id, "every point is read")
            return
        told = [f"{self._ids[point]}: {text}" for point, text in sorted(faults.items())]
        self._problems.raised("points", self.id, faults_text(told))

    def facts(self, facts: "Facts") -> None:
        """What is wrong with the device beside its points: an alert for each kind."""
        for kind in self._troubles - facts.troubles.keys():
            self._problems.cleared(kind, self.id, "no longer so")
        for kind, text in facts.troubles.items():
            self._problems.raised(kind, self.id, text)
        self._troubles = set(facts.troubles)

    def expire(self, now_ns: int, utc_ns: int) -> None:
        """One BAD(comm_failure) sample for each tag whose time is over."""
        if now_ns <= self._expires_ns:
            return  # every tag was read too lately: the most usual case, asked ten times a second
        samples = bytearray()
        self._expires_ns = _NEVER_NS
        for point, read_ns in enumerate(self._read_ns):
            stale_after_ns = self._stale_after_ns[point]
            if not read_ns or not stale_after_ns:
                continue
            if now_ns - read_ns <= stale_after_ns:
                self._expires_ns = min(self._expires_ns, read_ns + stale_after_ns)
                continue
            self._read_ns[point] = 0
            if self._conditioners is not None and (each := self._conditioners[point]) is not None:
                each.take(*_LOST, now_ns)  # the time without readings is no time of standing still
            if point in self.substitutes:
                self._real[point] = _LOST
                continue
            samples += messages.SAMPLE.pack(
                self.tags[point], Quality.BAD, Reason.COMM_FAILURE, 0, math.nan, now_ns, utc_ns
            )
        if samples:
            self._deliver(bytes(samples))

    def substitute(self, point: int, value: float | None, now_ns: int, utc_ns: int) -> None:
        """Begin (or go on with) a value by hand, or return to what was read last."""
        if value is None:
            if self.substitutes.pop(point, None) is None:
                return
            real = self._real.pop(point, _LOST)
            self._give({point: real}, now_ns, utc_ns)
            return
        if point not in self.substitutes:
            self._real[point] = _LOST
        self.substitutes[point] = value
        self.tell_substitutes(now_ns, utc_ns, at_once=True)

    def tell_substitutes(self, now_ns: int, utc_ns: int, *, at_once: bool = False) -> None:
        """Again and again, so that what was given by hand does not go stale by itself."""
        every_ns = min(self._stale_after_ns[point] or _NS_PER_S for point in self.substitutes)
        if not at_once and now_ns - self._substitutes_told_ns < min(_NS_PER_S, every_ns // 3):
            return
        self._substitutes_told_ns = now_ns
        uncertain, reason = int(Quality.UNCERTAIN), int(Reason.SUBSTITUTED)
        given = {point: (value, uncertain, reason) for point, value in self.substitutes.items()}
        self._give(given, now_ns, utc_ns)

    def _give(self, values: Mapping[int, tuple[float, int, int]], now_ns: int, utc_ns: int) -> None:
        samples = bytearray()
        for point, (value, quality, reason) in values.items():
            samples += messages.SAMPLE.pack(
                self.tags[point], quality, reason, 0, value, now_ns, utc_ns
            )
        self._deliver(bytes(samples))


def _total(totals: Totals, tag: "Tag") -> Total:
    """The memory of a counter; another point or scale is another counter."""
    signal, point = tag.signal, tag.point or Point()
    wrap = signal.wrap if signal else None
    if signal is not None and signal.bits is not None:
        wrap = 2.0**signal.bits * abs(point.scale)
    return totals.of(tag.id, f"{tag.device} {point}", wrap)
