"""The session loop: polls in time, waits after failures, survives everything."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.base import Batch, Driver, Reading
from drivers.errors import DeviceError, DriverError, LinkError, ProtocolError, RequestError
from drivers.points import parse_point
from drivers.session import (
    FAILED_POLLS_UNTIL_DOWN,
    RETRY_FIRST_NS,
    PollClass,
    Session,
    next_due,
    phase_of,
)
from fastpath.codes import DeviceState, Quality
from tests.drivers.scripted import Conversation, right, scripted
from tests.helpers.modbus_tcp import modbus_tcp

MS = 1_000_000
PERIOD_NS = 5 * MS


class FakeDriver:
    """A device of one point; ``script`` says what each connect and read does."""

    def __init__(self, script: Callable[[str, int], object] = lambda _call, _n: None) -> None:
        self.script = script
        self.connects = 0
        self.reads: list[object] = []
        self.closes = 0
        self.open = False
        self.refused: dict[int, str] = {}

    async def connect(self) -> None:
        assert not self.open, "connected twice"
        self.connects += 1
        self._act("connect", self.connects)
        self.open = True

    async def read(self, plan: object) -> Sequence[Reading]:
        assert self.open, "read without a link"
        self.reads.append(plan)
        await asyncio.sleep(0)
        self._act("read", len(self.reads))
        return [Reading(0, float(len(self.reads)), int(Quality.GOOD), 0, 0)]

    async def write(self, point: int, value: float) -> None:
        raise RequestError(f"{point} {value}")

    async def close(self) -> None:
        self.open = False
        self.closes += 1

    def stats(self) -> Mapping[str, int]:
        return {"good": len(self.reads)}

    def faults(self) -> Mapping[int, str]:
        return self.refused

    def _act(self, call: str, number: int) -> None:
        result = self.script(call, number)
        if isinstance(result, BaseException):
            raise result


class Recorder:
    """A sink that remembers; ``until`` waits for what a test is about."""

    def __init__(self) -> None:
        self.got: list[tuple[int, int, int, list[Reading]]] = []
        self.failures: list[int] = []
        self.proofs: list[tuple[int, int, list[int]]] = []
        self.states: list[tuple[bool, DriverError | None]] = []
        self._news = asyncio.Event()

    def readings(
        self, plan_index: int, mono_ns: int, utc_ns: int, readings: Sequence[Reading]
    ) -> None:
        self.got.append((plan_index, mono_ns, utc_ns, list(readings)))
        self._news.set()

    def proven(self, mono_ns: int, utc_ns: int, points: Sequence[int]) -> None:
        self.proofs.append((mono_ns, utc_ns, list(points)))
        self._news.set()

    def failed(self, plan_index: int, _mono_ns: int, _utc_ns: int) -> None:
        self.failures.append(plan_index)
        self._news.set()

    def state(self, up: bool, error: DriverError | None) -> None:
        self.states.append((up, error))
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._news.clear()
                await self._news.wait()


def session_of(driver: Driver, sink: Recorder, **options: object) -> Session:
    defaults: dict[str, object] = {
        "name": "plc-1", "settle_ns": 0, "retry_max_ns": 2 * MS, "jitter": lambda: 0.0,
    }  # fmt: skip
    classes = options.pop("classes", [PollClass(PERIOD_NS, "plan")])
    return Session(driver, classes, sink, **{**defaults, **options})  # type: ignore[arg-type]


class Running:
    """Runs a session for the length of a block and ends it cleanly."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __aenter__(self) -> Session:
        self._task = asyncio.create_task(self._session.run())
        return self._session

    async def __aexit__(self, *_: object) -> None:
        assert not self._task.done(), "nothing but cancelling ends a session"
        self._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._task


async def test_polls_reach_the_sink() -> None:
    driver, sink = FakeDriver(), Recorder()
    async with Running(session_of(driver, sink)) as session:
        await sink.until(lambda: len(sink.got) >= 3)
        stats = session.stats()
        assert (stats.up, stats.state.stage) == (True, DeviceState.UP)
        assert stats.requests["good"] >= 3
        assert stats.polls_failed == 0
    assert [got[3][0].value for got in sink.got[:3]] == [1.0, 2.0, 3.0]
    assert all(got[0] == 0 and got[1] > 0 and got[2] > 10**18 for got in sink.got)
    assert sink.states == [(True, None)]
    assert not driver.open
    assert driver.closes == 1


async def test_nothing_to_poll_is_refused() -> None:
    for classes in ([], [PollClass(0, "plan")]):
        with pytest.raises(RequestError):
            session_of(FakeDriver(), Recorder(), classes=classes)


async def test_an_unreachable_device_is_told_once_and_tried_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(call: str, number: int) -> object:
        return LinkError("refused") if call == "connect" and number < 6 else None

    driver, sink = FakeDriver(script), Recorder()
    with caplog.at_level(logging.INFO, logger="drivers.session"):
        async with Running(session_of(driver, sink)):
            await sink.until(lambda: bool(sink.got))
    assert driver.connects == 6
    assert [(up, str(error)) for up, error in sink.states] == [(False, "refused"), (True, "None")]
    assert [record.getMessage() for record in caplog.records] == [
        "plc-1: down: refused",
        "plc-1: answers",
    ]


async def test_one_lost_link_is_mended_without_a_word() -> None:
    def script(call: str, number: int) -> object:
        return LinkError("reset") if call == "read" and number == 2 else None

    driver, sink = FakeDriver(script), Recorder()
    async with Running(session_of(driver, sink)) as session:
        await sink.until(lambda: len(sink.got) >= 2)
        assert session.stats().error == "reset"
    assert sink.states == [(True, None)]
    assert sink.failures == [0]
    assert (driver.connects, driver.closes) == (2, 2)


async def test_a_loss_that_lasts_is_told() -> None:
    def script(call: str, number: int) -> object:
        if call == "read":
            return ProtocolError("nonsense") if 2 <= number <= 4 else None
        return None

    driver, sink = FakeDriver(script), Recorder()
    async with Running(session_of(driver, sink)):
        await sink.until(lambda: len(sink.states) == 3)
    assert [up for up, _ in sink.states] == [True, False, True]
    assert isinstance(sink.states[1][1], ProtocolError)


async def test_a_device_that_cannot_now_keeps_its_link() -> None:
    bad = range(2, 2 + FAILED_POLLS_UNTIL_DOWN)

    def script(call: str, number: int) -> object:
        return DeviceError("busy") if call == "read" and number in bad else None

    driver, sink = FakeDriver(script), Recorder()
    async with Running(session_of(driver, sink)) as session:
        await sink.until(lambda: len(sink.states) == 3)
        assert session.stats().polls_failed == FAILED_POLLS_UNTIL_DOWN
    assert [up for up, _ in sink.states] == [True, False, True]
    assert driver.connects == 1
    assert sink.failures == [0] * FAILED_POLLS_UNTIL_DOWN


async def test_mistakes_of_driver_and_sink_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def script(call: str, number: int) -> object:
        return (
            ZeroDivisionError("oops") if (call, number) in (("read", 1), ("connect", 2)) else None
        )

    class Clumsy(Recorder):
        def readings(self, *what: object) -> None:
            super().readings(*what)  # type: ignore[arg-type]
            raise KeyError("sink")

    driver, sink = FakeDriver(script), Clumsy()
    with caplog.at_level(logging.ERROR, logger="drivers.session"):
        async with Running(session_of(driver, sink)) as session:
            await sink.until(lambda: len(sink.got) >= 3)
            assert session.stats().dropped["sink"] >= 2
            assert "ZeroDivisionError" in session.stats().error
    assert len(caplog.records) == 2, "each is said once"
    assert driver.connects == 3


async def test_readings_are_discarded_while_the_device_settles() -> None:
    driver, sink = FakeDriver(), Recorder()
    async with Running(session_of(driver, sink, settle_ns=6 * PERIOD_NS)) as session:
        await sink.until(lambda: bool(sink.got))
        stats = session.stats()
        assert stats.dropped["settle"] >= 1
        assert len(driver.reads) == stats.dropped["settle"] + 1
    assert sink.states == [(True, None)]


async def test_the_first_reading_follows_when_settled_also_at_long_periods() -> None:
    """A device that drops idle links would else never be read at all."""
    driver, sink = FakeDriver(), Recorder()
    hourly = [PollClass(3600 * 1000 * MS, "slow")]
    async with Running(session_of(driver, sink, settle_ns=20 * MS, classes=hourly)):
        await sink.until(lambda: bool(sink.got))
    assert driver.reads == ["slow", "slow"]


async def test_classes_have_their_own_periods() -> None:
    driver, sink = FakeDriver(), Recorder()
    classes = [PollClass(2 * MS, "fast"), PollClass(20 * MS, "slow")]
    async with Running(session_of(driver, sink, classes=classes)):
        await sink.until(lambda: driver.reads.count("slow") >= 4)
    assert driver.reads.count("fast") >= driver.reads.count("slow")
    assert {got[0] for got in sink.got} == {0, 1}


async def test_late_polls_are_counted_and_skipped() -> None:
    """On a clock of its own: each read takes 2.5 periods."""
    now = 10 * PERIOD_NS

    def script(call: str, number: int) -> object:
        nonlocal now
        if call == "read":
            now += 5 * PERIOD_NS // 2
        return None

    driver, sink = FakeDriver(script), Recorder()
    session = session_of(driver, sink, monotonic_ns=lambda: now, phase=lambda *_: 0)
    task = asyncio.create_task(session.run())
    await sink.until(lambda: len(sink.got) >= 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session.stats().polls_missed == 2
    assert sink.got[0][1] == 10 * PERIOD_NS


async def test_lateness_is_measured() -> None:
    start = 10 * PERIOD_NS
    ticks = iter([start, start, start + 3 * MS] + [start + 4 * MS] * 1000)
    driver, sink = FakeDriver(), Recorder()
    async with Running(session_of(driver, sink, monotonic_ns=lambda: next(ticks))) as session:
        await sink.until(lambda: bool(sink.got))
        assert session.stats().lateness_ns_max == 3 * MS


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(1, 10**9), st.integers(0, 10**12))
def test_due_times_keep_their_grid(due_ns: int, period_ns: int, after_ns: int) -> None:
    now_ns = due_ns + after_ns
    following_ns, missed = next_due(due_ns, period_ns, now_ns)
    assert following_ns > now_ns
    assert following_ns - period_ns <= now_ns or missed == 0
    assert following_ns == due_ns + (missed + 1) * period_ns


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(1, 10**9), st.integers(0, 10**12), st.integers(0, 10**9))
def test_whenever_a_poll_began_the_next_is_on_the_grid(
    due_ns: int, period_ns: int, after_ns: int, phase_ns: int
) -> None:
    now_ns = due_ns + after_ns
    following_ns, missed = next_due(due_ns, period_ns, now_ns, phase_ns)
    assert (following_ns - phase_ns) % period_ns == 0
    assert now_ns < following_ns <= now_ns + period_ns
    assert missed == after_ns // period_ns


def test_a_hundred_devices_of_one_period_do_not_ask_at_once() -> None:
    period_ns = 1_000 * MS
    phases = sorted(phase_of(f"plc-{number}", period_ns) for number in range(100))
    assert 0 <= phases[0] <= phases[-1] < period_ns
    at_once = max(sum(first <= each < first + 10 * MS for each in phases) for first in phases)
    assert at_once <= 8  # of 1 on average in 10 ms; all 100 where they begin together
    assert phase_of("plc-7", period_ns) == phase_of("plc-7", period_ns)


async def test_a_burst_polls_at_once_and_faster_until_its_end() -> None:
    """On a clock of its own, which each wait moves to its end."""
    now, waits = 1_000 * MS, 0
    driver, sink = FakeDriver(), Recorder()
    session = session_of(
        driver, sink, classes=[PollClass(10_000 * MS, "p")], monotonic_ns=lambda: now,
        phase=lambda *_: 0,
    )  # fmt: skip

    async def woken_before(due_ns: int) -> bool:
        nonlocal now, waits
        now, waits = max(now, due_ns), waits + 1
        await asyncio.sleep(0)
        return False

    session._woken_before = woken_before  # type: ignore[method-assign]
    task = asyncio.create_task(session.run())
    await sink.until(lambda: len(sink.got) == 1)
    session.burst(100 * MS, now + 450 * MS)
    await sink.until(lambda: len(sink.got) >= 12)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    times = [got[1] // MS for got in sink.got]
    begun = times.index(next(each for each in times if each % 10_000))
    fast = [each for each in times if each % 10_000 and each > times[begun]]
    assert len(fast) in (4, 5)
    assert {after - before for before, after in pairwise(fast)} == {100}
    assert times[-1] % 10_000 == 0
    assert session.stats().bursts == 1


async def test_a_burst_ends_the_wait_for_a_poll_that_is_far_away() -> None:
    driver, sink = FakeDriver(), Recorder()
    async with Running(
        session_of(driver, sink, classes=[PollClass(3_600_000 * MS, "p")])
    ) as session:
        await sink.until(lambda: len(sink.got) >= 1)
        session.burst(5 * MS, time.monotonic_ns() + 60_000 * MS)
        await sink.until(lambda: len(sink.got) >= 4)
        assert session.stats().round_trip_ns > 0


async def test_backoff_doubles_up_to_its_cap_with_jitter() -> None:
    session = Session(FakeDriver(), [PollClass(1, "p")], Recorder(), name="x", jitter=lambda: 1.0)
    waits = [session._backoff_ns() for _ in range(40)]
    assert waits[:4] == [RETRY_FIRST_NS << n for n in range(4)]
    assert set(waits[5:]) == {5_000_000_000}
    low = Session(FakeDriver(), [PollClass(1, "p")], Recorder(), name="x", jitter=lambda: 0.0)
    assert low._backoff_ns() == RETRY_FIRST_NS // 2


async def test_refused_points_are_told_when_they_change() -> None:
    driver, sink, told = FakeDriver(), Recorder(), []
    driver.refused = {0: "hr:0 is refused"}
    async with Running(session_of(driver, sink, on_faults=lambda f: told.append(dict(f)))):
        await sink.until(lambda: len(sink.got) >= 3)
        driver.refused = {}
        before = len(sink.got)
        await sink.until(lambda: len(sink.got) >= before + 2)
    assert told == [{0: "hr:0 is refused"}, {}]


@pytest.mark.parametrize("call", ["connect", "read", "wait"])
async def test_cancelling_closes_the_driver(call: str) -> None:
    reached = asyncio.Event()

    class Hanging(FakeDriver):
        async def connect(self) -> None:
            await super().connect()
            if call == "connect":
                reached.set()
                await asyncio.Event().wait()

        async def read(self, plan: object) -> Sequence[Reading]:
            reached.set()
            if call == "read":
                await asyncio.Event().wait()
            return await super().read(plan)

    driver = Hanging()
    async with Running(session_of(driver, Recorder(), classes=[PollClass(10**12, "p")])):
        await reached.wait()
    assert not driver.open
    assert driver.closes == 1


async def test_a_real_device_that_goes_and_returns() -> None:
    """Over a real socket: refused, answering, reset in the middle of a reply, answering."""
    torn = asyncio.Event()

    async def answer(talk: Conversation, request: bytes) -> None:
        if len(talk.requests) == 3:
            await talk.send(b"\x00")
            talk.reset()
            torn.set()
        else:
            await right(talk, request)

    sink = Recorder()
    async with scripted(answer) as server:
        driver = modbus_tcp("127.0.0.1", server.port, [parse_point("hr:7")], timeout_s=5.0)
        async with Running(
            session_of(driver, sink, classes=[PollClass(PERIOD_NS, driver.plan([0]))])
        ):
            await torn.wait()
            before = len(sink.got)
            await sink.until(lambda: len(sink.got) >= before + 2)
        assert server.connections == 2
    assert {got[3][0].value for got in sink.got} == {7.0}
    assert driver.stats()["lost"] + driver.stats().get("refused", 0) == 1


class PushingDriver(FakeDriver):
    """A device that pushes: each connection gives so many batches and ends."""

    batches = 3

    async def readings(self) -> AsyncIterator[Sequence[Reading]]:
        assert self.open, "readings without a link"
        for _ in range(self.batches):
            await asyncio.sleep(0)
            self.reads.append("pushed")
            yield [Reading(0, float(len(self.reads)), int(Quality.GOOD), 0, 0)]
        self._act("end", self.connects)


async def test_what_a_device_pushes_reaches_the_sink_and_its_end_reconnects() -> None:
    def script(call: str, number: int) -> object:
        return LinkError("unplugged") if call == "end" and number == 1 else None

    driver, sink = PushingDriver(script), Recorder()
    async with Running(session_of(driver, sink)) as session:
        await sink.until(lambda: len(sink.got) >= 7)
        stats = session.stats()
        assert stats.polls >= 7
        assert stats.error in {"unplugged", "the device sends no more"}
    assert [got[3][0].value for got in sink.got[:7]] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert all(got[:1] == (0,) and got[1] > 0 and got[2] > 10**18 for got in sink.got)
    assert driver.closes == driver.connects >= 3
    assert sink.states == [(True, None)], "a loss that a reconnect mends is not told"


async def test_what_is_pushed_while_the_device_settles_is_dropped() -> None:
    clock = iter(range(0, 10**12, MS))
    driver, sink = PushingDriver(), Recorder()
    driver.batches = 100
    session = session_of(driver, sink, settle_ns=40 * MS, monotonic_ns=lambda: next(clock))
    async with Running(session):
        await sink.until(lambda: bool(sink.got))
        dropped = session.stats().dropped["settle"]
    assert 30 <= dropped <= 40
    assert sink.got[0][3][0].value == dropped + 1


class MonitoredDriver(FakeDriver):
    """A device that tells its one point at first, and then only that it is as it was."""

    def __init__(self, script: Callable[[str, int], object] = lambda _call, _n: None) -> None:
        super().__init__(script)
        self.asked: list[list[tuple[int, object]]] = []

    async def subscribe(self, classes: Sequence[tuple[int, object]]) -> None:
        assert self.open, "asked without a link"
        self.asked.append(list(classes))

    async def pushed(self) -> Batch:
        await asyncio.sleep(0)
        self.reads.append("pushed")
        self._act("pushed", len(self.reads))
        if len(self.reads) == 1:
            return Batch([Reading(0, 5.0, int(Quality.GOOD), 0, 0)])
        return Batch([], (0,))


async def test_what_is_told_once_is_proven_afterwards() -> None:
    def script(call: str, number: int) -> object:
        return LinkError("silent") if (call, number) == ("pushed", 4) else None

    driver, sink = MonitoredDriver(script), Recorder()
    async with Running(session_of(driver, sink, settle_ns=20 * MS)) as session:
        await sink.until(lambda: len(sink.proofs) >= 5)
        assert not session.stats().dropped, "it is asked when it has settled: nothing is dropped"
    assert sink.got[0][3] == [Reading(0, 5.0, int(Quality.GOOD), 0, 0)]
    assert {tuple(points) for _, _, points in sink.proofs} == {(0,)}
    assert [mono_ns for mono_ns, _, _ in sink.proofs] == sorted(p[0] for p in sink.proofs)
    assert len(driver.asked) == driver.connects == 2, "after a loss it is asked anew"
    assert driver.closes == driver.connects


class Swallowing(FakeDriver):
    """Its library waits as ``asyncio.wait_for`` of Python 3.11 does."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.waits = asyncio.Event()
        self.where = where
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        await super().connect()
        await self._swallow("connect")

    async def read(self, plan: object) -> Sequence[Reading]:
        await self._swallow("read")
        return await super().read(plan)

    async def _swallow(self, where: str) -> None:
        if where == self.where:
            self.waits.set()
            try:
                await self.answer
            except asyncio.CancelledError:
                if not self.answer.done():
                    raise


@pytest.mark.parametrize("where", ["connect", "read"])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_that_a_library_swallows_ends_it(where: str, fails: bool) -> None:
    driver = Swallowing(where)
    if fails:
        driver.script = lambda call, _: LinkError("gone") if call == where == "read" else None
    session = Session(driver, [PollClass(PERIOD_NS, "plan")], Recorder(), name="device")
    task = asyncio.create_task(session.run())
    await driver.waits.wait()
    driver.answer.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert driver.closes == 1
