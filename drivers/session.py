"""The one connect / run / wait loop of all drivers.

A session owns one driver. It connects, discards what a device says while it settles, polls each
class when it is due (or takes what a device pushes) and, when anything ends the link, closes,
waits and starts again: for ever, whatever is raised. Polls that could not be made in their time
are counted and skipped, never queued.
"""

import asyncio
import logging
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Never, Protocol

from drivers.base import Condition, Driver, Facts, Monitoring, Reading, Subscribing, Telling
from drivers.errors import DeviceError, DriverError, LinkError, RequestError
from fastpath.codes import DeviceState

_LOGGER = logging.getLogger(__name__)

RETRY_FIRST_NS: Final = 200_000_000
RETRY_MAX_NS: Final = 5_000_000_000
FAILED_POLLS_UNTIL_DOWN: Final = 3  # of a device that answers, but only that it cannot


@dataclass(frozen=True, slots=True)
class PollClass:
    """The points of one period; ``plan`` is what the driver's ``plan()`` made of them."""

    period_ns: int
    plan: Any


class Sink(Protocol):
    """Where a session delivers; called from its task, must not block and not raise."""

    def readings(
        self, plan_index: int, mono_ns: int, utc_ns: int, readings: Sequence[Reading]
    ) -> None:
        """One poll's readings. The times are those of its begin: no value is older than they say.

        A point of the class that is missing here was not read by this poll. What a device pushed
        comes as of class 0, with the times of its arrival.
        """

    def failed(self, plan_index: int, mono_ns: int, utc_ns: int) -> None:
        """One poll that was tried and brought nothing."""

    def proven(self, mono_ns: int, utc_ns: int, points: Sequence[int]) -> None:
        """The device has proved that these points are as they were told last."""

    def state(self, up: bool, error: DriverError | None) -> None:
        """The device went up or down; told once each time, first when the first attempt ended."""


@dataclass(frozen=True, slots=True)
class State:
    """Where the session stands. In DOWN ``delay_ns`` is the wait until the next attempt."""

    stage: DeviceState
    delay_ns: int = 0


@dataclass(slots=True)
class SessionStats:
    """Counters since the start; times in nanoseconds."""

    up: bool = False
    state: State = State(DeviceState.DOWN)
    error: str = ""  # newest failure, kept after it is over
    connects: int = 0
    polls: int = 0  # tried
    polls_failed: int = 0
    polls_missed: int = 0  # due while another one ran or the device was down
    lateness_ns: int = 0  # of the newest poll: begin - due
    lateness_ns_max: int = 0
    round_trip_ns: int = 0  # of the newest poll, all its requests
    bursts: int = 0  # times that the rate was raised
    requests: Mapping[str, int] = field(default_factory=dict)  # the driver's own, by result
    dropped: Counter[str] = field(default_factory=Counter)  # readings, by reason
    facts: Facts = field(default_factory=Facts)


def phase_of(name: str, period_ns: int) -> int:
    """Where in its period a device is polled: the same for a name at each start, ns."""
    return zlib.crc32(name.encode()) * period_ns >> 32


class Session:
    """Polls one device for ever.

    ``name`` is the device's id, for the log. ``on_faults`` is told the points that the device
    refuses (point index -> text for people) whenever they change, ``on_facts`` what else the driver
    knows of it.
    """

    def __init__(
        self,
        driver: Driver,
        classes: Sequence[PollClass],
        sink: Sink,
        *,
        name: str,
        settle_ns: int = 1_000_000_000,
        retry_max_ns: int = RETRY_MAX_NS,
        on_faults: Callable[[Mapping[int, str]], None] | None = None,
        on_facts: Callable[[Facts], None] | None = None,
        on_conditions: Callable[[Sequence[Condition], frozenset[str] | None], None] | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
        jitter: Callable[[], float] = random.random,
        phase: Callable[[str, int], int] = phase_of,
    ) -> None:
        """``phase``: (name, period) to the offset of the polls. Raises RequestError for no poll."""
        if not classes or any(each.period_ns <= 0 for each in classes):
            text = f"{name}: nothing to poll, or a period of 0"
            raise RequestError(text)
        self._driver = driver
        self._classes = tuple(classes)
        self._sink = sink
        self._name = name
        self._settle_ns = settle_ns
        self._retry_max_ns = retry_max_ns
        self._on_faults = on_faults
        self._on_facts = on_facts
        self._on_conditions = on_conditions
        self._facts: Facts | None = None
        self._monotonic_ns = monotonic_ns
        self._utc_ns = utc_ns
        self._jitter = jitter
        self._stats = SessionStats()
        self._told: bool | None = None  # what the sink was told last; None: nothing yet
        self._due_ns = [0] * len(classes)  # 0: not yet planned
        self._phase = phase
        self._burst = (0, 0)  # (period, until), ns; monotonic
        self._waiting: asyncio.Future[None] | None = None  # for the next poll
        self._settled_ns = 0
        self._attempts = 0  # failed ones in a row, for the backoff
        self._failed_polls = 0  # in a row, over an intact link
        self._faults: Mapping[int, str] | None = None

    async def run(self) -> None:
        """Serve the device until cancelled; nothing else ends it."""
        while True:
            error = await self._serve()
            _heed()
            if self._told is not True or self._attempts > 0:
                self._tell(up=False, error=error)  # not for one loss that a reconnect mends
            self._stats.error = str(error)
            delay_ns = self._backoff_ns()
            self._stats.state = State(DeviceState.DOWN, delay_ns)
            await asyncio.sleep(delay_ns / 1e9)

    def burst(self, period_ns: int, until_ns: int) -> None:
        """Poll every class at least so often until then (monotonic); from now on, not at its due.

        Called again and again it goes on.
        """
        begins = self._burst[1] <= self._monotonic_ns()
        self._burst = (period_ns, until_ns)
        if not begins:
            return
        self._stats.bursts += 1
        soon_ns = self._monotonic_ns()
        self._due_ns = [min(due_ns, soon_ns) if due_ns else 0 for due_ns in self._due_ns]
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def stats(self) -> SessionStats:
        """The live counters (not a copy)."""
        self._stats.requests = self._driver.stats()
        if isinstance(self._driver, Telling):
            self._stats.facts = self._driver.facts()
        return self._stats

    async def _serve(self) -> DriverError:
        """Connect and poll until the link ends; why it ended. The driver is closed after it."""
        try:
            self._stats.state = State(DeviceState.CONNECTING)
            self._stats.connects += 1
            await self._driver.connect()
            _heed()
            self._connected()
            if isinstance(self._driver, Subscribing):
                await self._receive(self._driver)
            if isinstance(self._driver, Monitoring):
                await self._follow(self._driver)
            while True:
                await self._poll_next()
                _heed()
        except DriverError as error:
            return error
        except Exception as error:
            if self._told is not False:
                _LOGGER.exception("%s: the driver failed", self._name)
            text = f"driver failed: {type(error).__name__}: {error}"
            return DriverError(text)
        finally:
            await self._driver.close()

    def _connected(self) -> None:
        now_ns = self._monotonic_ns()
        self._settled_ns = now_ns + self._settle_ns
        self._failed_polls = 0
        self._stats.state = State(DeviceState.SETTLING)
        for index, each in enumerate(self._classes):
            due_ns = self._due_ns[index]
            if due_ns and due_ns < now_ns:
                self._stats.polls_missed += (now_ns - due_ns) // each.period_ns
            self._due_ns[index] = max(due_ns, now_ns)

    async def _receive(self, driver: Subscribing) -> None:
        """Take what the device pushes until the link ends; a batch counts as a poll, on time.

        Raises what the driver does, and LinkError where it simply ends.
        """
        async for readings in driver.readings():
            _heed()
            self._stats.polls += 1
            self._poll_good(0, self._monotonic_ns(), self._utc_ns(), readings)
        text = "the device sends no more"
        raise LinkError(text)

    async def _follow(self, device: Monitoring) -> Never:
        """Take what the device pushes until the link ends.

        It is asked only when it has settled: what it tells first is not told again.
        """
        await asyncio.sleep(max(0, self._settled_ns - self._monotonic_ns()) / 1e9)
        await device.subscribe([(each.period_ns, each.plan) for each in self._classes])
        while True:
            batch = await device.pushed()
            _heed()
            self._stats.polls += 1
            mono_ns, utc_ns = self._monotonic_ns(), self._utc_ns()
            self._poll_good(0, mono_ns, utc_ns, batch.readings)
            if batch.gaps:
                self._stats.dropped["gap"] += batch.gaps
            if batch.proven:
                self._deliver(self._sink.proven, mono_ns, utc_ns, batch.proven)
            if self._on_conditions and (batch.conditions or batch.standing is not None):
                self._deliver(self._on_conditions, batch.conditions, batch.standing)

    async def _poll_next(self) -> None:
        """Wait for the class that is due first and poll it once."""
        index = min(range(len(self._classes)), key=self._due_ns.__getitem__)
        due_ns = self._due_ns[index]
        if await self._woken_before(due_ns):
            return
        mono_ns, utc_ns = self._monotonic_ns(), self._utc_ns()
        self._late(mono_ns - due_ns)
        self._stats.polls += 1
        try:
            readings = await self._driver.read(self._classes[index].plan)
        except DriverError as error:
            self._poll_failed(index, mono_ns, utc_ns, error)
            if ends_session(error):
                raise
        else:
            self._stats.round_trip_ns = self._monotonic_ns() - mono_ns
            self._poll_good(index, mono_ns, utc_ns, readings)
        now_ns = self._monotonic_ns()
        period_ns = self._classes[index].period_ns
        if now_ns < self._burst[1]:
            period_ns = min(period_ns, self._burst[0])
        phase_ns = self._phase(self._name, period_ns)
        following_ns, missed = next_due(due_ns, period_ns, now_ns, phase_ns)
        self._stats.polls_missed += missed
        if mono_ns < self._settled_ns:
            following_ns = min(following_ns, max(self._settled_ns, now_ns))
        self._due_ns[index] = following_ns

    async def _woken_before(self, due_ns: int) -> bool:
        """Wait until then; True where something is due sooner now."""
        wait_ns = due_ns - self._monotonic_ns()
        if wait_ns <= 0:
            await asyncio.sleep(0)
            return False
        loop = asyncio.get_running_loop()
        self._waiting = waiting = loop.create_future()
        alarm = loop.call_later(wait_ns / 1e9, _set, waiting)
        try:
            await waiting
        finally:
            alarm.cancel()
            self._waiting = None
        return min(self._due_ns) < due_ns

    def _poll_good(
        self, index: int, mono_ns: int, utc_ns: int, readings: Sequence[Reading]
    ) -> None:
        self._failed_polls = 0
        if mono_ns < self._settled_ns:
            self._stats.dropped["settle"] += len(readings)
            return
        self._attempts = 0
        self._stats.state = State(DeviceState.UP)
        self._tell(up=True, error=None)
        self._deliver(self._sink.readings, index, mono_ns, utc_ns, readings)
        faults = self._driver.faults()
        if self._on_faults is not None and faults != self._faults:
            self._faults = dict(faults)
            self._deliver(self._on_faults, self._faults)
        self._tell_facts()

    def _tell_facts(self) -> None:
        if self._on_facts is None or not isinstance(self._driver, Telling):
            return
        facts = self._driver.facts()
        if facts != self._facts:
            self._facts = facts
            self._deliver(self._on_facts, facts)

    def _poll_failed(self, index: int, mono_ns: int, utc_ns: int, error: DriverError) -> None:
        self._stats.polls_failed += 1
        self._stats.error = str(error)
        self._failed_polls += 1
        self._deliver(self._sink.failed, index, mono_ns, utc_ns)
        if self._failed_polls >= FAILED_POLLS_UNTIL_DOWN:
            self._tell(up=False, error=error)

    def _tell(self, *, up: bool, error: DriverError | None) -> None:
        """Log and tell the sink, once per change."""
        if self._told is up:
            return
        if up:
            _LOGGER.info("%s: answers", self._name)
        else:
            _LOGGER.warning("%s: down: %s", self._name, error)
        self._told = up
        self._stats.up = up
        self._deliver(self._sink.state, up, error)

    def _deliver(self, take: Callable[..., None], *what: object) -> None:
        """Call the sink; what it raises is counted and logged once, and ends nothing."""
        try:
            take(*what)
        except Exception:
            self._stats.dropped["sink"] += 1
            if self._stats.dropped["sink"] == 1:
                _LOGGER.exception("%s: readings could not be delivered", self._name)

    def _late(self, lateness_ns: int) -> None:
        self._stats.lateness_ns = lateness_ns
        self._stats.lateness_ns_max = max(self._stats.lateness_ns_max, lateness_ns)

    def _backoff_ns(self) -> int:
        """Doubling from 0.2 s to the cap, of which half at random: devices return together."""
        full_ns = min(self._retry_max_ns, RETRY_FIRST_NS << min(self._attempts, 16))
        self._attempts += 1
        return int(full_ns * (0.5 + 0.5 * self._jitter()))


def _heed() -> None:
    """Raise the cancellation that a driver's library has swallowed.

    Until Python 3.12 ``asyncio.wait_for`` does so where what it waits for ends in that very turn;
    a session would go on for ever with a device that the site no longer has.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def ends_session(error: DriverError) -> bool:
    """Whether the link must be closed after this error; the device's own refusals keep it."""
    return not isinstance(error, DeviceError | RequestError)


def next_due(
    due_ns: int, period_ns: int, now_ns: int, phase_ns: int | None = None
) -> tuple[int, int]:
    """The next due time after ``now_ns`` and how many were missed since ``due_ns``.

    Whole periods after ``due_ns``, or on the grid of ``phase_ns``. A poll that took longer than its
    period loses the polls that fell due meanwhile.
    """
    now_ns = max(now_ns, due_ns)  # a timer may be early by its resolution
    origin_ns = due_ns if phase_ns is None else phase_ns
    following_ns = now_ns + period_ns - (now_ns - origin_ns) % period_ns
    return following_ns, (now_ns - due_ns) // period_ns


def _set(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)
