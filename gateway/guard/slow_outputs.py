"""Outputs that the guard cannot reach: the gateway carries out what the guard wishes, and no more.

The wish stands in guard.shm, the answer is an OUTPUT_RESULT with the generation that was read
before the write. Each device has a connection of its own for this, so that no poll stands before a
trip. Every write is decided on the newest state; a trip goes before a release, and after each
connect first. Where the guard is away nothing is released. Not independent of the gateway: when it
is dead, the guard calls the trip failed and trips the fallbacks.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from drivers.errors import DeviceError, DriverError, RequestError
from drivers.registry import make_driver
from fastpath import blob, messages
from fastpath.codes import MessageType, OutputState, ResultCode
from gateway.errors import StoreError
from gateway.site.model import Point

if TYPE_CHECKING:
    from drivers.kind import PlanningDriver, Surroundings
    from fastpath.journal import OutputView
    from gateway.guard.board import GuardBoard
    from gateway.guard.link import GuardLink
    from gateway.guard.program_text import OutputText
    from gateway.life.problems import Problems
    from gateway.site.model import Config, Device, Output
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)

LOOK_S: Final = 0.1  # without a nudge
AGAIN_NS: Final = 1_000_000_000  # until a write that the guard has not taken for done is repeated
RETRY_NS_FIRST: Final = 100_000_000  # after a write that failed, doubling
RETRY_NS_MAX: Final = 1_000_000_000
PROOF_NS: Final = 1_000_000_000  # an idle link is read that often: a dead one is found beforehand
RELEASE_TRIES_MAX: Final = 3
CONNECT_S_FIRST: Final = 0.1
CONNECT_S_MAX: Final = 1.0
AUDIT_WAITING_MAX: Final = 256
_TRIPS: Final = frozenset({OutputState.TRIPPING, OutputState.TRIPPED, OutputState.TRIP_FAILED})
_REFUSED: Final = int(ResultCode.NOT_ALLOWED)


class Wish(NamedTuple):
    """What the guard wants written now."""

    point: int
    ident: str
    key: int
    generation: int
    trips: bool
    value: int


class _Tried(NamedTuple):
    """The newest write of an output."""

    generation: int
    trips: bool
    good: bool
    tries: int  # of this generation and direction
    mono_ns: int


class SlowOutputs:
    """One writer per device and unit. ``board`` gives the guard's state, None while unreadable."""

    def __init__(
        self,
        config: "Config",
        board: "Callable[[], GuardBoard | None]",
        link: "GuardLink",
        ledger: "Ledger",
        problems: "Problems",
        around: "Surroundings",
    ) -> None:
        """Raises DriverError for a device that no driver can serve."""
        self._ledger = ledger
        self._entries: deque[tuple[Wish, str]] = deque(maxlen=AUDIT_WAITING_MAX)
        self._written = asyncio.Event()
        self.dropped: Counter[str] = Counter()  # by reason
        devices = {device.id: device for device in config.device}
        chosen: dict[tuple[str, int], list[Output]] = {}
        for output in config.output:
            if output.via == "gateway":
                unit = devices[output.device].unit if output.unit is None else output.unit
                chosen.setdefault((output.device, unit), []).append(output)
        self._writers = [
            _Writer(
                msgspec.structs.replace(devices[ident], unit=unit),
                outputs,
                board,
                link,
                problems,
                self._note,
                around,
            )
            for (ident, unit), outputs in chosen.items()
        ]

    def jobs(self) -> "dict[str, Callable[[], Coroutine[Any, Any, None]]]":
        """What has to run, by a name for people; nothing where no output goes this way."""
        jobs = {f"outputs of {writer.name}": writer.run for writer in self._writers}
        return jobs | {"output audit": self._audit} if jobs else {}

    def nudge(self) -> None:
        """Something happened in the guard: look now."""
        for writer in self._writers:
            writer.nudged.set()

    def stats(self) -> Mapping[tuple[str, str], int]:
        """Writes by (output, result): good, failed."""
        total: Counter[tuple[str, str]] = Counter()
        for writer in self._writers:
            total.update(writer.counts)
        return total

    def _note(self, wish: Wish, text: str) -> None:
        """What was written for the first time is audited, behind the writing."""
        if len(self._entries) == AUDIT_WAITING_MAX:
            self.dropped["audit_full"] += 1
        self._entries.append((wish, text))
        self._written.set()

    async def _audit(self) -> None:
        while True:
            await self._written.wait()
            self._written.clear()
            while self._entries:
                wish, text = self._entries.popleft()
                detail = {"generation": wish.generation, "value": wish.value, "trips": wish.trips}
                try:
                    seq = await self._ledger.command("guard", "write", wish.ident, detail)
                    await self._ledger.command_result(seq, int(text == "done"), text)
                except StoreError as error:
                    self.dropped["audit_refused"] += 1
                    _LOGGER.warning("a write of %s is not in the audit: %s", wish.ident, error)


class _Writer:
    """The connection to one unit of one device, and what was written there."""

    def __init__(
        self,
        device: "Device",
        outputs: "Sequence[Output]",
        board: "Callable[[], GuardBoard | None]",
        link: "GuardLink",
        problems: "Problems",
        note: Callable[[Wish, str], None],
        around: "Surroundings",
    ) -> None:
        self.name = device.id
        self.nudged = asyncio.Event()
        self.counts: Counter[tuple[str, str]] = Counter()
        self._outputs = tuple(outputs)
        self._board = board
        self._link = link
        self._problems = problems
        self._note = note
        self._tried: dict[str, _Tried] = {}
        self._heard_ns = 0
        self._answered = False  # over this connection
        points = [(Point(address=output.address), None) for output in outputs]
        self._driver: PlanningDriver = make_driver(device.driver, device, points, around)
        self._plan = self._driver.plan(range(len(points)))

    async def run(self) -> None:
        """Connect, serve, reconnect; returns only by cancellation."""
        delay_s = CONNECT_S_FIRST
        while True:
            self._answered = False
            try:
                await self._driver.connect()
                self._tried.clear()  # what is pending goes first on a new connection
                self._heard_ns = time.monotonic_ns()
                while True:
                    await self._round()
            except DriverError as error:
                text = f"its outputs cannot be written: {error}"
                self._problems.raised("outputs", self.name, text, priority="critical")
            finally:
                await self._driver.close()
            if self._answered:
                delay_s = CONNECT_S_FIRST
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311  jitter
            delay_s = min(2 * delay_s, CONNECT_S_MAX)

    async def _round(self) -> None:
        """One write, the most urgent; or a sign of life of the link; or a short wait."""
        now_ns = time.monotonic_ns()
        wish = self._most_urgent(now_ns)
        if wish is not None:
            await self._carry_out(wish)
        elif now_ns - self._heard_ns >= PROOF_NS:
            with contextlib.suppress(DeviceError):
                await self._driver.read(self._plan)
            self._works()
            self._heard_ns = now_ns
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self.nudged.wait()
            self.nudged.clear()

    def _most_urgent(self, now_ns: int) -> Wish | None:
        board = self._board()
        if board is None:
            return None
        wishes = [self._wish(board, point, now_ns) for point in range(len(self._outputs))]
        due = [wish for wish in wishes if wish is not None]
        return min(due, key=lambda wish: not wish.trips, default=None)

    def _wish(self, board: "GuardBoard", point: int, now_ns: int) -> Wish | None:
        """What the guard wants of an output, None where nothing is due."""
        output = self._outputs[point]
        index = board.text.output_index.get(output.id)
        if index is None or not _is_ours(output, board.text.outputs[index]):
            return None
        latch, text = board.output(index), board.text.outputs[index]
        trips = latch.state in _TRIPS
        if not trips and not _may_release(board, latch, text):
            return None
        value = text.trip if trips else int(text.normal or 0)
        wish = Wish(point, output.id, text.key, latch.generation, trips, value)
        return wish if self._is_due(wish, latch.state, text.reassert_ns, now_ns) else None

    def _is_due(self, wish: Wish, state: int, reassert_ns: int, now_ns: int) -> bool:
        before = self._tried.get(wish.ident)
        if before is None or (before.generation, before.trips) != (wish.generation, wish.trips):
            return True
        if not wish.trips and before.tries >= RELEASE_TRIES_MAX:
            return False
        if before.good:
            wait_ns = reassert_ns if state == OutputState.TRIPPED else AGAIN_NS
        else:
            wait_ns = min(RETRY_NS_FIRST << min(before.tries - 1, 8), RETRY_NS_MAX)
        return now_ns - before.mono_ns >= wait_ns

    async def _carry_out(self, wish: Wish) -> None:
        before = self._tried.get(wish.ident)
        same = before is not None and before[:2] == (wish.generation, wish.trips)
        tries = before.tries + 1 if before is not None and same else 1
        result = "lost"
        try:
            await self._driver.write(wish.point, float(wish.value))
            result = "done"
        except (DeviceError, RequestError) as error:
            result = f"refused: {error}"
        finally:
            good = result == "done"
            self._tried[wish.ident] = _Tried(
                wish.generation, wish.trips, good, tries, time.monotonic_ns()
            )
            self.counts[wish.ident, "good" if good else "failed"] += 1
            if result != "lost":
                self._works()
                self._answer(wish, ResultCode.DONE if good else _REFUSED)
            if not same:
                self._note(wish, result)
        self._heard_ns = time.monotonic_ns()

    def _works(self) -> None:
        """The device itself has answered: a connection alone proves nothing."""
        self._answered = True
        self._problems.cleared("outputs", self.name, "its outputs can be written")

    def _answer(self, wish: Wish, code: int) -> None:
        body = messages.OUTPUT_RESULT.pack(wish.key, wish.generation, code)
        self._link.tell(MessageType.OUTPUT_RESULT, body)


def _is_ours(output: "Output", text: "OutputText") -> bool:
    """The program that runs means the same output as our site file: same values, same path."""
    normal = None if output.normal is None else int(output.normal)
    return (
        text.via_gateway
        and text.key == blob.key_of("output", output.id)
        and (text.trip, text.normal) == (int(output.trip), normal)
    )


def _may_release(board: "GuardBoard", latch: "OutputView", text: "OutputText") -> bool:
    """A living guard is releasing it: a dead one's wish is old."""
    return (
        latch.state == OutputState.RELEASING
        and text.normal is not None
        and latch.commanded == text.normal
        and board.view.guard_alive()
    )
