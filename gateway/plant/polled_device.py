"""One slow device: its session, its tags' newest readings, and what of them goes stale.

Each poll makes one Samples (``messages.SAMPLE`` records by tag index).
"""

import functools
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from drivers.base import Worded
from drivers.kind import Surroundings
from drivers.registry import DRIVERS, make_driver
from drivers.session import PollClass, Session
from fastpath import messages
from fastpath.codes import Quality, Reason
from gateway.logic.conditions import connected_tag
from gateway.plant.device_conditions import DeviceConditions
from gateway.plant.signal_alerts import SignalAlerts
from gateway.plant.signals import conditioner_of
from gateway.plant.texts import Texts
from gateway.plant.totals import Total, Totals
from gateway.site.model import Point, is_text

if TYPE_CHECKING:
    from drivers.base import Facts, Reading
    from drivers.errors import DriverError
    from gateway.life.problems import Problems
    from gateway.site.model import Device, Tag

RENEW_NS: Final = 5_000_000_000  # how often unchanged values of a device that pushes are delivered
_FAULTS_TOLD_MAX: Final = 5
_NS_PER_S: Final = 1_000_000_000
_NEVER_NS: Final = 1 << 62
# Kinds of Facts.troubles: what an earlier life has told of them ends when a device is well.
_FACTS: Final = (
    "alive", "backup", "certificate_1d", "certificate_7d", "certificate_30d", "own_certificate",
    "server_certificate", "server_clock", "server_conditions", "server_pace",
)  # fmt: skip
_LOST: Final = (math.nan, int(Quality.BAD), int(Reason.COMM_FAILURE))


def faults_text(told: "Sequence[str]") -> str:
    """The faults of a device's points in one line, cut short."""
    more = len(told) - _FAULTS_TOLD_MAX
    return "; ".join(told[:_FAULTS_TOLD_MAX]) + (f"; and {more} more" if more > 0 else "")


class PolledDevice:
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
        fastest_ns = min((tag.poll or device.poll for _, tag in tags), default=device.poll)
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
        if not periods:
            periods[device.poll] = []  # it is followed for its own alarms alone
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
