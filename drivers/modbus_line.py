"""A serial line with several units: one request at a time, and no reply taken for another's.

RTU has no transaction: a reply is known by its unit and its shape alone. So after a request that
failed the line stays silent for the longest late reply (twice the unit's timeout) and until it is
quiet, and what arrives meanwhile is dropped. After a good reply a double of it may still be under
way: what has arrived when the next request leaves holds that request up, and a request whose reply
would look like the double waits until that must have come. What neither can tell is a late reply
beyond these bounds, ``LATE_TIMEOUTS`` and ``DOUBLE_S``, with the unit, function and length of the
one that is waited for: no line without transactions can; where reads that feed interlocks look
alike ``check`` says so. The echo of a write names its place, so a double of it is nobody else's.

A unit that has been silent for long holds up the others no longer than its own timeout: then only
it waits before it is asked again, since a late reply of it can be taken for no other unit's.
Functions 5 and 6 go first and wait for quiet alone: a late reply to a read cannot look like their
echo, which names the value too. That one is told refused by the double of another's exception is
the safe side: it is written again.
"""

import asyncio
import heapq
import os
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from drivers.errors import LinkError, ProtocolError
from drivers.modbus_dial import Dial
from drivers.modbus_frames import READ_FUNCTIONS
from drivers.modbus_link import Call, ExceptionReply, ModbusLink, NotQuietError
from drivers.modbus_wire import Wire
from drivers.plan import BIT_FUNCTIONS
from drivers.serial_port import DOUBLE_S

LATE_TIMEOUTS: Final = 2  # a reply comes no later than so many timeouts after ours ended
OPEN_S: Final = 1.0  # for a port's thread, however short the timeout of a request is
SILENT_UNTIL_DEAD: Final = 3  # requests in a row; then the unit is asked by its session's backoff
URGENT: Final = (5, 6)


@dataclass(slots=True)
class _Unit:
    """What is known of a unit's silence, whoever asks it."""

    silent: int = 0  # requests in a row without a right reply
    again_ns: int = 0  # not asked before: a late reply may come

    def settle(self, *, good: bool, late_ns: int) -> None:
        """After a request."""
        self.silent = 0 if good else self.silent + 1
        if not good:
            self.again_ns = time.monotonic_ns() + late_ns


@dataclass(frozen=True, slots=True)
class _Heard:
    """A good reply: of what a double of it could be taken for the reply."""

    call: Call
    unit: int
    refused: bool  # an exception, which names nothing but the function
    until_ns: int

    def passes_for(self, call: Call, unit: int) -> bool:
        """Whether it could be another call's; of the same call it would be no lie."""
        same = (unit, call.function) == (self.unit, self.call.function) and call != self.call
        if not same or call.function in URGENT:
            return False
        return self.refused or _told(call) == _told(self.call)


def _told(call: Call) -> tuple[int, int]:
    """What a good reply says beside its unit and function; of functions 15 and 16 no values."""
    if call.function not in READ_FUNCTIONS:
        return call.address, call.size
    return 0, (call.size + 7) // 8 if call.function in BIT_FUNCTIONS else 2 * call.size


def place_of(dial: Dial) -> object:
    """What a name stands for now: a port has many names, and another one may get them."""
    return os.path.realpath(dial.name) if dial.keeps else dial.name


class Line:
    """The port and who speaks over it: that port alone, whatever its name stands for later."""

    def __init__(self, dial: Dial) -> None:
        self.link = ModbusLink(dial)
        self.place = place_of(dial)
        self.users = 0
        self._units: dict[int, _Unit] = {}
        self._turns = _Turns()
        self._gap_ns = int(dial.gap_s * 1e9)
        self._free_ns = 0  # no frame before: the gap after the last one
        self._late = False  # a reply may still come
        self._silent_ns = 0  # no request but urgent ones before: a late reply may come
        self._heard: _Heard | None = None  # newest good reply

    async def open(self, timeout_s: float) -> None:
        """Open the port if it is not. Raises LinkError."""
        async with self._turns.turn(urgent=False):
            await self._opened(timeout_s)

    async def ask(self, call: Call, unit: int, timeout_s: float) -> bytes:
        """One exchange in its turn. Raises as the link does."""
        urgent = call.function in URGENT
        state = self._units.setdefault(unit, _Unit())
        while True:
            async with self._turns.turn(urgent=urgent):
                await self._opened(timeout_s)  # first: what comes late is heard, and dropped
                silent_ns = 0 if urgent else max(self._silent_ns, state.again_ns)
                rest_ns = silent_ns - time.monotonic_ns()
                if rest_ns <= 0:
                    return await self._ask_in_quiet(call, unit, timeout_s, state)
            await asyncio.sleep(rest_ns / 1e9)  # without the turn: a trip goes on, and the others

    async def _ask_in_quiet(self, call: Call, unit: int, timeout_s: float, state: _Unit) -> bytes:
        """One exchange on a line that is quiet. Raises ProtocolError where noise never ends."""
        last_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        while True:
            heard = self._heard
            after_ns = heard.until_ns if heard is not None and heard.passes_for(call, unit) else 0
            await self._quiet(after_ns, last_ns)
            try:
                return await self._exchange(call, unit, timeout_s, state)
            except NotQuietError:
                if time.monotonic_ns() >= last_ns:
                    raise

    async def _exchange(self, call: Call, unit: int, timeout_s: float, state: _Unit) -> bytes:
        """One request and its reply; a failure is followed by silence."""
        late_ns = int(LATE_TIMEOUTS * timeout_s * 1e9)
        good = refused = unsent = False
        try:
            reply = await self.link.ask(call, unit, timeout_s)
            good = True
            return reply
        except ExceptionReply:
            good = refused = True
            raise
        except NotQuietError:
            unsent = True
            raise
        finally:
            if not unsent:
                self._ended(call, unit, state, late_ns, good=good, refused=refused)

    def _ended(
        self, call: Call, unit: int, state: _Unit, late_ns: int, *, good: bool, refused: bool
    ) -> None:
        """After a request that was sent."""
        now_ns = time.monotonic_ns()
        self._free_ns = now_ns + self._gap_ns
        if not good and state.silent < SILENT_UNTIL_DEAD:
            self._silent_ns, self._late = now_ns + late_ns, True
        elif good:
            self._late = False
            self._heard = _Heard(call, unit, refused, now_ns + int(DOUBLE_S * 1e9))
        state.settle(good=good, late_ns=late_ns)

    def close(self) -> None:
        """Nobody is left."""
        self.link.close()

    def serves(self, place: object) -> bool:
        """Whether it has that port, or would open it."""
        return self.place == place and (self.link.is_open or place_of(self.link.dial) == place)

    async def _opened(self, timeout_s: float) -> None:
        if not self.link.is_open:
            if not self.serves(self.place):  # ports were numbered anew: units of another line
                text = f"{self.link.dial.name} is another port by now, or gone"
                raise LinkError(text)  # whoever hears it leaves, and joins the right line
            keeps = self.link.dial.keeps
            await self.link.open(max(timeout_s, OPEN_S) if keeps else timeout_s)
            if not keeps:  # a serial server sends what it kept for us
                late_ns = int(timeout_s * 1e9) if self._late else 0
                self._silent_ns = max(self._silent_ns, time.monotonic_ns() + late_ns)

    async def _quiet(self, after_ns: int, last_ns: int) -> None:
        """Wait until then, and until nothing was heard for a gap.

        Raises ProtocolError where the noise goes on at ``last_ns``.
        """
        begin_ns = max(time.monotonic_ns(), after_ns)
        while True:
            # What has arrived is read by then, however late this loop is.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            now_ns = time.monotonic_ns()
            until_ns = max(begin_ns, self._free_ns, self.link.heard_ns + self._gap_ns)
            if now_ns >= until_ns:
                return
            if now_ns >= max(begin_ns, last_ns):
                text = "the line is never quiet"
                raise ProtocolError(text)
            await asyncio.sleep((until_ns - now_ns) / 1e9)


class LineWire(Wire):
    """One unit of a line. ``lines`` are those that the gateway speaks over, by their port."""

    def __init__(
        self, dial: Dial, unit: int, timeout_s: float, lines: MutableMapping[Any, Any]
    ) -> None:
        self._dial = dial
        self._unit = unit
        self._timeout_s = timeout_s
        self._lines = lines
        self._line: Line | None = None
        self._kept: Line | None = None  # what is known of its silence outlives the connection

    @property
    def name(self) -> str:
        """The port."""
        return self._dial.name

    @property
    def shared(self) -> bool:
        """By the units of the line."""
        return True

    async def open(self) -> None:
        """Join the line; open its port where nobody has.

        Raises LinkError, also where the line is set in another way than this unit's.
        """
        self.close()
        place = place_of(self._dial)
        line: Line | None = self._lines.get((Line, place))
        if line is None or not line.serves(place):
            kept = self._kept
            line = kept if kept is not None and kept.serves(place) else Line(self._dial)
            self._lines[Line, line.place] = line
        if line.link.dial.settings != self._dial.settings:
            text = f"{self.name} is open with other settings of the line"
            raise LinkError(text)
        self._kept = line
        line.users += 1
        self._line = line
        try:
            await line.open(self._timeout_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the line; the last one closes the port."""
        line, self._line = self._line, None
        if line is None:
            return
        line.users -= 1
        if line.users == 0:
            line.close()
            place = (Line, line.place)
            if self._lines.get(place) is line:
                del self._lines[place]

    async def closed(self) -> None:
        """The port, where it was closed."""
        if self._kept is not None:
            await self._kept.link.closed()

    async def ask(self, call: Call) -> bytes:
        """One exchange on the line."""
        line = self._line
        if line is None:
            text = "not connected"
            raise LinkError(text)
        return await line.ask(call, self._unit, self._timeout_s)


class _Turns:
    """A lock whose urgent waiters go first, each kind in the order of its coming."""

    def __init__(self) -> None:
        self._taken = False
        self._number = 0
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def turn(self, *, urgent: bool) -> AsyncIterator[None]:
        """Wait for it; the next one goes when it ends."""
        if self._taken:
            await self._wait(urgent=urgent)
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
            self._wake()

    async def _wait(self, *, urgent: bool) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self._waiting, (not urgent, self._number, mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._taken = False  # it was ours already
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting:
            _, _, waiter = heapq.heappop(self._waiting)
            if not waiter.done():
                self._taken = True  # nobody comes between
                waiter.set_result(None)
                return
