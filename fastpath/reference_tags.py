"""Tags in plain Python: what was read or told, how it ages, and what the system tags say.

Part of the reference (``reference``): written for reading, never run on site. All times are of the
monotonic clock.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from fastpath.codes import Quality, Reason
from fastpath.reference_conditions import Reading
from fastpath.reference_interlocks import Now
from fastpath.reference_plan import SYSTEM, Plan

GATEWAY_SILENT_NS: Final = 3_000_000_000
FUTURE_NS: Final = 1_000_000
ALIVE: Final = "sys.gateway.alive"
UNREAD: Final = (int(Quality.BAD), int(Reason.NEVER_READ))


@dataclass(slots=True)
class Device:
    """What is known of a device's read connection."""

    up: bool = False
    heard_ns: int | None = None


@dataclass(slots=True)
class Tags:
    """All that the guard holds of a site's tags, and of whoever brings them."""

    plan: Plan
    record: Callable[..., None]
    take: Callable[[str, int, float | None], None]  # the windows' door: a sample, None where bad
    readings: dict[str, Reading] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    gateway: bool = False  # its session stands
    gateway_heard_ns: int = 0
    started_ns: int = 0
    aged_ns: int = 0
    told: dict[str, tuple[int, int]] = field(default_factory=dict)

    # ---- programs and lives

    def install(self, plan: Plan, now: Now) -> None:
        """The tags of a program; equal ones keep their values."""
        before, told, old = dict(self.readings), dict(self.told), self.plan
        self.plan = plan
        self.readings.clear()
        self.told.clear()
        for tag in plan.held:
            self.readings[tag] = self._fresh(tag)
            if tag in before and old.definition_of(tag) == plan.definition_of(tag):
                self.readings[tag] = before[tag]
                self.told[tag] = told.get(tag, UNREAD)
        self.devices = {each: self.devices.get(each, Device()) for each in plan.devices}
        self.started_ns = now.mono_ns

    def begin(self, now: Now) -> None:
        """A new process: nothing was read, nobody was heard."""
        for tag in self.readings:
            self.readings[tag] = self._fresh(tag)
        self.told.clear()
        self.devices = {each: Device() for each in self.plan.devices}
        self.gateway = False
        self.gateway_heard_ns = 0
        self.started_ns = now.mono_ns
        self.aged_ns = 0

    def _fresh(self, tag: str) -> Reading:
        definition, _device = self.plan.definition_of(tag)
        if definition is None:
            return Reading()
        return Reading(
            stale_after_ns=int(definition.stale_after or 0),
            uncertain_use=definition.uncertain == "use",
            ends=definition.range,
        )

    # ---- what comes in

    def sample(
        self, tag: str, value: float, quality: int, reason: int, mono_ns: int, now: Now
    ) -> None:
        """A value of the gateway: its own tags alone, not of the future, newer than the last."""
        self.gateway_heard_ns = now.mono_ns
        if self.plan.is_fast(tag) or not 0 < mono_ns <= now.mono_ns + FUTURE_NS:
            return
        if mono_ns > self.readings[tag].mono_ns:
            self.store(tag, value, quality, reason, mono_ns)

    def store(self, tag: str, value: float, quality: int, reason: int, mono_ns: int) -> None:
        """A reading, whoever made it."""
        reading = self.readings[tag]
        reading.value, reading.quality, reading.reason = value, quality, reason
        reading.mono_ns = mono_ns
        self.take(tag, mono_ns, value if reading.good() else None)
        self._tell(tag)

    def gateway_alive(self, now: Now) -> bool:
        """Its session stands, and it spoke a short while ago."""
        return self.gateway and now.mono_ns - self.gateway_heard_ns <= GATEWAY_SILENT_NS

    def _tell(self, tag: str) -> None:
        """A record where the quality of an interlock's tag changed."""
        reading = self.readings[tag]
        present = (int(reading.quality), int(reading.reason))
        if present != self.told.get(tag, UNREAD):
            if tag in self.plan.read:
                self.record("TAG_QUALITY", tag, quality=present[0], reason=present[1])
            self.told[tag] = present

    # ---- once per scan

    def scan(self, now: Now, tick_ns: int, within_ns: int, *, paused: bool) -> None:
        """Ages, then the system tags. After a pause every input is stale first."""
        if paused or now.mono_ns - self.aged_ns >= tick_ns:
            self.aged_ns = now.mono_ns
            self._age(now, everything=paused)
        self._system_tags(now, within_ns)

    def _age(self, now: Now, *, everything: bool) -> None:
        """What is too old becomes BAD; its age stays, so that a late reading is still newer."""
        for tag, reading in self.readings.items():
            if tag.startswith(SYSTEM) or reading.mono_ns == 0:
                continue
            old = reading.stale_after_ns and now.mono_ns - reading.mono_ns > reading.stale_after_ns
            if not everything and not old:
                continue
            device = self.plan.device_of(tag)
            fast = device is not None and bool(device.fast)
            up = device is not None and fast and self.devices[device.id].up
            bad = reading.quality == Quality.BAD
            if bad and reading.reason in (Reason.STALE, Reason.COMM_FAILURE):
                continue
            if bad and reading.reason == Reason.DEVICE_FAILURE and up:
                continue  # a refused register is asked for rarely: its reason says more
            if everything:  # a pause ends what windows hold
                self.take(tag, now.mono_ns, None)
            reading.quality = Quality.BAD
            reading.reason = Reason.COMM_FAILURE if fast and not up else Reason.STALE
            self._tell(tag)

    def _system_tags(self, now: Now, within_ns: int) -> None:
        starting = now.mono_ns - self.started_ns < within_ns
        for tag, reading in self.readings.items():
            if not tag.startswith(SYSTEM):
                continue
            heard_ns, for_ns, there = self._heard(tag)
            if starting and heard_ns is None:
                continue
            on = there and heard_ns is not None and now.mono_ns - heard_ns <= for_ns
            if reading.quality != Quality.GOOD or (reading.value != 0) != on:
                reading.value, reading.quality, reading.reason = float(on), Quality.GOOD, 0
                reading.mono_ns = now.mono_ns

    def _heard(self, tag: str) -> tuple[int | None, int, bool]:
        """(when it was heard of last, for how long that counts, may it count at all)."""
        if tag == ALIVE:
            return self.gateway_heard_ns or None, GATEWAY_SILENT_NS, self.gateway
        ident = tag.removeprefix(SYSTEM).removesuffix(".connected")
        device = self.plan.devices[ident]
        return self.devices[ident].heard_ns, 3 * int(device.poll) + int(device.timeout), True
