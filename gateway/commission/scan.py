"""What answers at an address: its units, and which of their registers and coils can be read.

Only reads, one after the other over one connection, at most five a second, whatever is found.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from drivers.errors import LinkError, ProtocolError
from drivers.modbus_line import LATE_TIMEOUTS
from drivers.modbus_link import Call, ExceptionReply, ModbusLink
from drivers.plan import FUNCTIONS, READ_BITS_MAX, READ_REGISTERS_MAX
from drivers.points import Area

if TYPE_CHECKING:
    from drivers.modbus_dial import Dial

PERIOD_S: Final = 0.21  # between the begins of two requests: below five a second
STEP: Final = 10  # addresses between two looks into a hole: lists of registers begin at round ones
SILENT_MAX: Final = 3  # in a row, of a unit that has answered: then it is left alone
ILLEGAL_FUNCTION: Final = 1
NOT_THERE: Final = frozenset((10, 11))  # a gateway says so of a unit behind it


@dataclass(slots=True)
class Block:
    """Neighbours that can be read, zero-based, with what they held."""

    area: Area
    first: int
    values: list[int]

    @property
    def last(self) -> int:
        """Inclusive."""
        return self.first + len(self.values) - 1

    @property
    def used(self) -> int:
        """How many are not zero."""
        return sum(value != 0 for value in self.values)


@dataclass(slots=True)
class UnitFound:
    """A unit that answers. ``said`` is its first answer, for people."""

    unit: int
    said: str
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Refused(Exception):
    """The device answered that it does not give this; ``code`` is its exception."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}")
        self.code = code


class Silent(Exception):
    """No answer, or none that fits."""


class Prober:
    """Single reads at a polite pace; connects when it has to."""

    def __init__(self, dial: "Dial", timeout_s: float, tell: Callable[[], None]) -> None:
        self._link = ModbusLink(dial)
        self._late_s = LATE_TIMEOUTS * timeout_s if dial.gap_s else 0.0
        self._tries = 2 if dial.gap_s else 1  # a serial line may lose one
        self._timeout_s = timeout_s
        self._tell = tell
        self._next_s = 0.0
        self.requests = 0

    async def read(self, unit: int, area: Area, first: int, count: int) -> list[int]:
        """The cells. Raises Refused, Silent; LinkError when there is no connection any more."""
        for _ in range(self._tries):
            await self._pace()
            if not self._link.is_open:
                await self._link.open(self._timeout_s)
            self.requests += 1
            self._tell()
            try:
                call = Call(FUNCTIONS[area], first, count)
                pdu = await self._link.ask(call, unit, self._timeout_s)
            except ExceptionReply as error:
                raise Refused(error.code) from None
            except (LinkError, ProtocolError):  # silence, or a device that hangs up
                await asyncio.sleep(self._late_s)
                continue
            return _cells(area, pdu[2:], count)
        raise Silent

    def close(self) -> None:
        """Drop the connection."""
        self._link.close()

    async def _pace(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next_s - loop.time()))
        self._next_s = loop.time() + PERIOD_S


class Scan:
    """One scan. ``found`` and ``doing`` can be looked at any time, also after an interruption."""

    def __init__(self, dial: "Dial", timeout_s: float, tell: "Callable[[Scan], None]") -> None:
        self.found: list[UnitFound] = []
        self.doing = ""
        self._prober = Prober(dial, timeout_s, lambda: tell(self))

    @property
    def requests(self) -> int:
        """So far."""
        return self._prober.requests

    async def run(self, units: Sequence[int], areas: Sequence[Area], first: int, last: int) -> None:
        """Look for units, then for what can be read of each in ``areas``. Raises LinkError."""
        try:
            for unit in units:
                self.doing = f"looking for unit {unit}"
                await self._look_for(unit)
            for one in self.found:
                for area in areas:
                    self.doing = f"unit {one.unit}: {area.value}:{first}-{last}"
                    await self._look_into(one, area, first, last)
        finally:
            self._prober.close()

    async def _look_for(self, unit: int) -> None:
        try:
            await self._prober.read(unit, Area.HOLDING_REGISTER, 0, 1)
            said = "answers"
        except Refused as refused:
            if refused.code in NOT_THERE:
                return
            said = f"answers with {ExceptionReply(refused.code)}"
        except Silent:
            return
        self.found.append(UnitFound(unit, said))

    async def _look_into(self, found: UnitFound, area: Area, first: int, last: int) -> None:
        walk = _Walk(self._prober, found.unit, area, last)
        try:
            await walk.run(first)
        except Refused as refused:
            found.notes.append(f"{area.value}: not offered ({ExceptionReply(refused.code)})")
        except Silent:
            found.notes.append(f"{area.value}: left at {walk.at}, it no longer answered")
        found.blocks += walk.blocks


class _Walk:
    """Through one table of one unit, from low to high addresses."""

    def __init__(self, prober: Prober, unit: int, area: Area, last: int) -> None:
        self._prober = prober
        self._unit = unit
        self._area = area
        self._last = last
        self._most = READ_BITS_MAX if area.of_bits else READ_REGISTERS_MAX
        self._silent = 0
        self._hole = -1  # an address that is known not to be there
        self.at = 0
        self.blocks: list[Block] = []

    async def run(self, first: int) -> None:
        """Raises Refused for a table that the device does not have, Silent when it goes away."""
        self.at = first
        while self.at <= self._last:
            if self.at == self._hole or not await self._read_on():
                await self._cross_hole()

    async def _read_on(self) -> bool:
        """Read as much as there is from here; False where there is nothing."""
        count = min(self._most, self._last - self.at + 1)
        values = await self._try(self.at, count)
        if values is not None:
            self._keep(values)
            return True
        values = await self._try(self.at, 1) if count > 1 else None
        if values is None:
            return False
        low, high = 1, count  # so many can be read, so many cannot
        while high - low > 1:
            middle = (low + high) // 2
            more = await self._try(self.at, middle)
            if more is None:
                high = middle
            else:
                low, values = middle, more
        self._keep(values)
        behind = await self._try(self.at, 1)
        if behind is None:
            self._hole = self.at
        else:  # the request was too long for the device, not the table at its end
            self._most = low
            self._keep(behind)
        return True

    async def _cross_hole(self) -> None:
        """Go on to where the next block begins: a look every STEP addresses, then back."""
        low = self.at
        high = (low // STEP + 1) * STEP
        while high <= self._last and await self._try(high, 1) is None:
            low, high = high, high + STEP
        if high > self._last:
            self.at = self._last + 1
            return
        while high - low > 1:
            middle = (low + high) // 2
            if await self._try(middle, 1) is None:
                low = middle
            else:
                high = middle
        self.at = high

    async def _try(self, at: int, count: int) -> list[int] | None:
        """The cells, None where the device does not give them."""
        try:
            values = await self._prober.read(self._unit, self._area, at, count)
        except Refused as refused:
            self._silent = 0
            away = refused.code in NOT_THERE
            if away or (refused.code == ILLEGAL_FUNCTION and not self.blocks):
                raise
            return None
        except Silent:
            self._silent += 1
            if self._silent >= SILENT_MAX:
                raise
            return None
        self._silent = 0
        return values

    def _keep(self, values: list[int]) -> None:
        if self.blocks and self.blocks[-1].last + 1 == self.at:
            self.blocks[-1].values += values
        else:
            self.blocks.append(Block(self._area, self.at, values))
        self.at += len(values)


def _cells(area: Area, payload: bytes, count: int) -> list[int]:
    if area.of_bits:
        return [payload[i // 8] >> i % 8 & 1 for i in range(count)]
    return [int.from_bytes(payload[2 * i : 2 * i + 2], "big") for i in range(count)]
