"""Serial instruments: those that send by themselves, and those that are asked."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Final

from drivers.base import Reading
from drivers.errors import DeviceError, LinkError, RequestError
from drivers.framing import Framer
from drivers.serial_bus import Bus, SharedPort
from drivers.serial_values import Values

SILENCES_MAX: Final = 3  # in a row: then the port is closed and opened anew
FRAMES_MAX: Final = 1_000  # that wait for the session; more are lost, and counted


class SerialLine:
    """What both have in common: a port that may be shared, counters by kind."""

    def __init__(
        self, port: SharedPort, values: Values, *, timeout_s: float, silence_s: float
    ) -> None:
        self._port = port
        self._path = port.path
        self._values = values
        self._timeout_s = timeout_s
        self._silence_s = silence_s
        self._bus: Bus | None = None
        self._framer = values.protocol.framer()
        self._counts: Counter[str] = Counter()

    def plan(self, indices: Iterable[int]) -> frozenset[int]:
        """The points at ``indices``; one answer has them all."""
        return frozenset(indices)

    async def connect(self) -> None:
        """Open the port, or join those who have it open. Raises LinkError."""
        await self.close()
        try:
            self._bus = await self._port.join(self._timeout_s)
        except LinkError:
            self._counts["connect"] += 1
            raise
        self._framer.restart()

    async def write(self, point: int, value: float) -> None:
        """Nothing is ever written to an instrument. Raises RequestError."""
        text = f"a serial instrument takes no value (point {point}, {value:g})"
        raise RequestError(text)

    async def close(self) -> None:
        """Leave the port; the last device closes it."""
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.leave(self._timeout_s)

    def stats(self) -> Mapping[str, int]:
        """Answers and frames by result.

        good; of what was no good one: noise (runs of bytes of no frame), bad_checksum, too_long,
        line_error (the line's own marks), unmatched (not of the protocol), unknown_field (shorter
        than a point needs), echo (the adapter did not hear what it sent), timeout, lost, connect.
        """
        return self._counts + self._framer.counts

    def faults(self) -> Mapping[int, str]:
        """None: an instrument refuses no point."""
        return {}

    def _joined(self) -> Bus:
        if self._bus is None:
            text = f"{self._path} is not open"
            raise LinkError(text)
        return self._bus

    def _readings(self, frame: bytes) -> list[Reading]:
        """What a frame says; counted by what it is."""
        found = self._values.read(frame)
        if found is None:
            self._counts["unmatched"] += 1
            return []
        self._counts["good"] += 1
        missing = self._values.count - len(found)
        if missing and not self._values.selective:
            self._counts["unknown_field"] += missing
        return [Reading(point, *value, 0) for point, value in found]


class SerialStream(SerialLine):
    """An instrument that sends by itself. Its batches are single frames."""

    async def read(self, plan: frozenset[int]) -> Sequence[Reading]:
        """Listen until every point was heard; for people, a session takes :meth:`readings`.

        A point that is not heard in its time is missing. Raises LinkError.
        """
        heard: dict[int, Reading] = {}
        batches = self.readings()
        try:
            async with asyncio.timeout(self._silence_s):
                async for batch in batches:
                    heard |= {reading.point: reading for reading in batch}
                    if plan <= heard.keys():
                        break
        except TimeoutError:
            if not heard:
                text = f"{self._path}: nothing readable for {self._silence_s:g} s"
                raise LinkError(text) from None
        finally:
            await batches.aclose()
        return [reading for point, reading in heard.items() if point in plan]

    async def readings(self) -> AsyncGenerator[Sequence[Reading], None]:
        """The readings of each frame, until the port is lost or silent (then LinkError)."""
        bus = self._joined()
        self._framer.restart()
        frames: asyncio.Queue[bytes | LinkError] = asyncio.Queue(FRAMES_MAX)

        def put(item: bytes | LinkError) -> None:
            if frames.full():
                frames.get_nowait()
                self._counts["lost"] += 1
            frames.put_nowait(item)

        hearing = _Hearing(self._framer)

        def heard(data: bytes | None) -> None:
            for frame in hearing.frames(data):
                put(frame)

        with bus.listen(heard, put):
            due_ns = time.monotonic_ns() + int(self._silence_s * 1e9)
            while True:
                item = await self._next(frames, due_ns)
                if isinstance(item, LinkError):
                    self._counts["lost"] += 1
                    raise item
                readings = self._readings(item)
                if readings:
                    due_ns = time.monotonic_ns() + int(self._silence_s * 1e9)
                    yield readings

    async def _next(
        self, frames: "asyncio.Queue[bytes | LinkError]", due_ns: int
    ) -> bytes | LinkError:
        """The next frame. Raises LinkError when none comes in time."""
        try:
            async with asyncio.timeout(max(0.0, (due_ns - time.monotonic_ns()) / 1e9)):
                return await frames.get()
        except TimeoutError:
            self._counts["timeout"] += 1
            text = f"{self._path}: nothing readable for {self._silence_s:g} s"
            raise LinkError(text) from None


class SerialAsker(SerialLine):
    """An instrument that is asked, perhaps one of several on the line."""

    _silences = 0
    _not_before_ns = 0

    async def connect(self) -> None:
        """Open the port, or join those who have it open. Raises LinkError."""
        await super().connect()
        self._silences = 0

    async def read(self, plan: frozenset[int]) -> Sequence[Reading]:
        """Ask once.

        Raises DeviceError where no good answer came (the link is kept), LinkError where the port
        is lost or nothing came several times in a row.
        """
        bus = self._joined()
        await asyncio.sleep(max(0, self._not_before_ns - time.monotonic_ns()) / 1e9)
        async with bus.turn():
            readings = await self._exchange(bus)
        return [reading for reading in readings if reading.point in plan]

    async def _exchange(self, bus: Bus) -> list[Reading]:
        """One request and its answer."""
        protocol = self._values.protocol
        request = protocol.request or b""
        self._framer.restart()
        answer: asyncio.Future[list[Reading]] = asyncio.get_running_loop().create_future()
        echo = _Echo(request if protocol.table.echo else b"")
        hearing = _Hearing(self._framer)
        anything = False

        def heard(data: bytes | None) -> None:
            nonlocal anything
            rest = echo.without(data)
            anything = anything or rest != b""
            for frame in hearing.frames(rest) if rest != b"" else ():
                if self._is_echo(frame, request):
                    anything = False
                    continue
                readings = self._readings(frame)
                if readings and not answer.done():
                    answer.set_result(readings)

        def lost(error: LinkError) -> None:
            if not answer.done():
                answer.set_exception(error)

        try:
            with bus.listen(heard, lost):
                bus.send(request)
                async with asyncio.timeout(self._timeout_s):
                    readings = await answer
        except TimeoutError:
            self._wait_for_late(bus, anything=anything)
            if echo.damaged:
                raise self._collision() from None
            self._counts["timeout"] += 1
            raise self._unanswered(anything=anything) from None
        except LinkError:
            self._counts["lost"] += 1
            raise
        except asyncio.CancelledError:
            bus.unanswered(self._timeout_s)
            raise
        self._silences = 0
        bus.answered(addressed=self._values.protocol.addressed)
        if echo.damaged:
            raise self._collision()
        return readings

    def _wait_for_late(self, bus: Bus, *, anything: bool) -> None:
        """An answer that comes late must meet no request that it could be taken for."""
        until_ns = time.monotonic_ns() + int(self._timeout_s * 1e9)
        if self._values.protocol.addressed:
            self._not_before_ns = until_ns  # the others' answers are told apart by their station
        else:
            # Of an answer that had begun the rest must not begin the next one.
            begun = anything and bus.alone
            bus.unanswered(min(self._framer.pause_s, self._timeout_s) if begun else self._timeout_s)

    def _collision(self) -> DeviceError:
        self._counts["echo"] += 1
        text = f"{self._path}: what was heard is not what was sent: noise, or a second master"
        return DeviceError(text)

    def _unanswered(self, *, anything: bool) -> LinkError | DeviceError:
        if anything:
            self._silences = 0
            return DeviceError(f"{self._path}: no good answer within {self._timeout_s:g} s")
        self._silences += 1
        text = f"{self._path}: no answer within {self._timeout_s:g} s"
        return LinkError(text) if self._silences >= SILENCES_MAX else DeviceError(text)

    def _is_echo(self, frame: bytes, request: bytes) -> bool:
        """A line that is our own request: adapters on two wires hear what they send."""
        protocol = self._values.protocol
        if not protocol.of_lines or protocol.groups(frame) is not None:
            return False
        return frame == request.strip(b"\r\n")


class _Hearing:
    """Bytes as they come -> frames; also tells the framer of pauses."""

    def __init__(self, framer: Framer) -> None:
        self._framer = framer
        self._pause_ns = int(framer.pause_s * 1e9)
        self._heard_ns = 0

    def frames(self, data: bytes | None) -> list[bytes]:
        """The frames that this piece completes."""
        now_ns, before_ns = time.monotonic_ns(), self._heard_ns
        self._heard_ns = now_ns
        ended = list(self._framer.pause()) if now_ns - before_ns > self._pause_ns else []
        if data is None:
            self._framer.spoil()
            return ended
        return [*ended, *self._framer.feed(data)]


class _Echo:
    """Takes the echo of a request off what comes."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self.damaged = False

    def without(self, data: bytes | None) -> bytes | None:
        """What is no echo any more."""
        if data is None:
            self.damaged = self.damaged or bool(self._sent)
            self._sent = self._sent[1:]
            return None
        mine = data[: len(self._sent)]
        if not self._sent.startswith(mine):
            self.damaged = True
        self._sent = self._sent[len(mine) :]
        return data[len(mine) :]
