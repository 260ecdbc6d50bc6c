"""One Modbus unit: planned reads, readings with quality, writes with their echo checked.

Exceptions 1 to 3 part the read once to find the guilty points, 4 makes its points bad at once,
5 and 6 are tried again inside the poll, 10 and 11 are a failed poll of this unit. On a line that
is shared a request that failed is a failed poll at first; the third in a row ends the session.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from drivers.base import Facts, Reading
from drivers.blocks import Block
from drivers.errors import DeviceError, DriverError, LinkError, ProtocolError, RequestError
from drivers.life import Life
from drivers.modbus_link import ExceptionReply, SilenceError
from drivers.modbus_wire import UNREACHABLE, BackupWire, Wire
from drivers.plan import READ_REGISTERS_MAX, Request, plan
from drivers.points import Area, Excluded, ModbusPoint, describe, encode_registers

BUSY: Final = frozenset((5, 6))
BUSY_TRIES: Final = 3
BUSY_PAUSE_S: Final = 0.05  # longer with each try
EXPIRY_DAYS: Final = (1, 7, 30)  # told so long before a certificate ends
DAY_NS: Final = 86_400 * 1_000_000_000
MISSES_UNTIL_DOWN: Final = 3  # in a row, on a shared line

T = TypeVar("T")


class MissedError(DeviceError):
    """No right reply on a line that is shared: the line stays open."""


class ModbusUnit:
    """One unit behind its wire. A plan is a tuple of blocks, made by :meth:`plan`."""

    def __init__(
        self,
        wire: Wire,
        points: Sequence[ModbusPoint],
        *,
        request_delay_s: float = 0.0,
        max_registers: int = READ_REGISTERS_MAX,
        max_gap: int = 8,
        exclude: Sequence[Excluded] = (),
        alive: tuple[ModbusPoint, int] | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """``alive``: a counter that must move within so many ns."""
        self._points = (*points, alive[0]) if alive else tuple(points)
        self._life = Life(len(points), describe(alive[0]), alive[1]) if alive else None
        self._exclude = tuple(exclude)
        self._utc_ns = utc_ns
        self._max_registers = max_registers
        self._max_gap = max_gap
        self._request_delay_ns = int(request_delay_s * 1e9)
        self._monotonic_ns = monotonic_ns
        self._wire = wire
        self._misses = 0  # in a row
        self._counts: Counter[str] = Counter()
        self._blocks: list[Block] = []
        self._quiet_until_ns = 0  # no request before, for devices that need a rest

    def plan(self, indices: Iterable[int]) -> tuple[Block, ...]:
        """Plan the reads of the points at ``indices``. Raises RequestError."""
        if self._life is not None:
            indices = (*indices, self._life.point)
        requests = plan(
            self._points,
            max_registers=self._max_registers,
            max_gap=self._max_gap,
            exclude=self._exclude,
            indices=indices,
        )
        blocks = tuple(Block(self._points, request) for request in requests)
        self._blocks.extend(blocks)
        return blocks

    async def connect(self) -> None:
        """Open the connection. Raises LinkError."""
        try:
            await self._wire.open()
            if self._life is not None:
                self._life.connected()
        except LinkError:
            self._counts["connect"] += 1
            raise

    async def read(self, plan: Sequence[Block]) -> Sequence[Reading]:
        """Read every block once. Raises LinkError, ProtocolError, or DeviceError for no reading."""
        readings: list[Reading] = []
        passing: DeviceError | None = None
        for block in plan:
            try:
                await block.read(self._ask, self._monotonic_ns(), readings)
            except ExceptionReply as error:
                passing = error
                if error.code in UNREACHABLE:
                    break  # the unit is away: the other reads would wait for it too
            except (SilenceError, ProtocolError) as error:
                if not self._wire.shared or self._misses >= MISSES_UNTIL_DOWN:
                    raise
                passing = MissedError(str(error))
                break
        if passing is not None and not readings:
            raise passing
        if self._life is not None:
            return self._life.judged(readings, self._monotonic_ns())
        return readings

    async def write(self, point: int, value: float) -> None:
        """Write one coil or holding register(s). Raises DriverError; never tried twice."""
        target = self._points[point]
        if target.area is Area.COIL:
            if value not in (0.0, 1.0):
                text = f"{describe(target)} takes 0 or 1, not {value}"
                raise RequestError(text)
            await self._pace()
            await self._counted(self._wire.write_coil(target.address, value == 1.0))
            return
        registers = encode_registers(target, value)
        await self._pace()
        await self._counted(self._wire.write_registers(target.address, registers))

    async def close(self) -> None:
        """Drop the connection."""
        self._wire.close()
        await self._wire.closed()

    def stats(self) -> Mapping[str, int]:
        """Requests by result: good, exception, timeout, refused, lost; connect: failed connects."""
        return self._counts

    def faults(self) -> Mapping[int, str]:
        """Points that the device refuses, by index, with a text for people."""
        return {
            index: f"{describe(self._points[index])} is refused: {ExceptionReply(code)}"
            for block in self._blocks
            for index, code in block.refused.items()
            if self._life is None or index != self._life.point
        }

    def facts(self) -> Facts:
        """The address in use, its certificate's end, and what is wrong beside the points."""
        wire, troubles = self._wire, {}
        if isinstance(wire, BackupWire) and wire.on_backup:
            troubles["backup"] = f"on its second address {wire.name}"
        if self._life is not None and self._life.stopped:
            troubles["alive"] = self._life.text
        ends_ns = wire.not_after_utc_ns
        within = next((day for day in EXPIRY_DAYS if ends_ns - self._utc_ns() < day * DAY_NS), 0)
        if ends_ns and within:
            ends = time.strftime("%Y-%m-%d %H:%M", time.gmtime(ends_ns / 1e9))
            days = "a day" if within == 1 else f"{within} days"
            kind = f"certificate_{within}d"  # each step is a trouble of its own, told by itself
            troubles[kind] = f"its certificate ends within {days}, on {ends} UTC"
        return Facts(wire.name, ends_ns, troubles)

    def texts(self) -> Mapping[int, str]:
        """The newest text of each point that is one."""
        return {index: text for block in self._blocks for index, text in block.texts.items()}

    async def _ask(self, request: Request) -> bytes:
        """One read, tried again while the device says that it is busy."""
        tries = 0
        while True:
            tries += 1
            await self._pace()
            try:
                return await self._counted(
                    self._wire.read(request.function, request.address, request.count)
                )
            except ExceptionReply as error:
                if error.code not in BUSY or tries >= BUSY_TRIES:
                    raise
            await asyncio.sleep(BUSY_PAUSE_S * tries)

    async def _pace(self) -> None:
        """Leave ``request_delay`` between a reply and the next request."""
        rest_ns = self._quiet_until_ns - self._monotonic_ns()
        if rest_ns > 0:
            await asyncio.sleep(rest_ns / 1e9)

    async def _counted(self, answer: Awaitable[T]) -> T:
        try:
            result = await answer
        except DriverError as error:
            self._counts[_result_of(error)] += 1
            self._misses = 0 if isinstance(error, ExceptionReply) else self._misses + 1
            raise
        finally:
            self._quiet_until_ns = self._monotonic_ns() + self._request_delay_ns
        self._counts["good"] += 1
        self._misses = 0
        return result


def _result_of(error: DriverError) -> str:
    if isinstance(error, ExceptionReply):
        return "exception"
    if isinstance(error, SilenceError):
        return "timeout"
    return "refused" if isinstance(error, ProtocolError) else "lost"
