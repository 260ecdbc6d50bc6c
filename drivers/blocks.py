"""One planned read and what the device refuses of it.

A device that answers a read with "illegal address" does not say which point is wrong. The block
is then parted once until the guilty points stand alone; those are remembered and the rest is
read in the pieces found. At growing intervals the whole is tried again.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.base import Reading
from drivers.modbus_link import ExceptionReply
from drivers.plan import BIT_FUNCTIONS, Request, alone, split
from drivers.points import ModbusPoint, decode_fields, decode_text
from fastpath.codes import Quality, Reason
from fastpath.decode import Decoder

REFUSING: Final = frozenset((1, 2, 3))  # exceptions that blame the request
PASSING: Final = frozenset((5, 6, 10, 11))  # busy, unit away: nothing is said of the points
RETRY_FIRST_NS: Final = 30_000_000_000
RETRY_MAX_NS: Final = 600_000_000_000

Ask = Callable[[Request], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One read with the decoder of its reply."""

    request: Request
    decoder: Decoder
    numbers: tuple[int, ...]  # point indices, in the decoder's order
    words: tuple[tuple[int, int, ModbusPoint], ...]  # (point index, place, point) of texts
    texts: dict[int, str]  # by point: where they go

    def readings(self, payload: bytes) -> list[Reading]:
        """The reply's points. A text's reading is GOOD without a value."""
        if self.request.function in BIT_FUNCTIONS:
            values = self.decoder.bits(payload)
        else:
            values = self.decoder.registers(payload)
        readings = [  # by _make: at a third less
            Reading._make((index, value, quality, reason, 0))
            for index, (value, quality, reason) in zip(self.numbers, values, strict=True)
        ]
        for index, at, point in self.words:
            self.texts[index] = decode_text(point, payload[2 * at : 2 * (at + point.width)])
            readings.append(Reading(index, math.nan, int(Quality.GOOD), 0, 0))
        return readings

    def failed(self) -> list[Reading]:
        """The points when the device says that it failed."""
        return [bad_reading(index) for index, _ in self.request.points]


class Block:
    """A planned read, the pieces in which it is read now, and the points that are refused."""

    def __init__(self, points: Sequence[ModbusPoint], request: Request) -> None:
        self._points = points
        self.texts: dict[int, str] = {}  # newest, by point
        self._whole = self._piece(request)
        self._pieces = [self._whole]
        self.refused: dict[int, int] = {}  # point index -> exception code
        self._retry_at_ns = 0
        self._retry_every_ns = RETRY_FIRST_NS
        self._probed = 0

    async def read(self, ask: Ask, now_ns: int, readings: list[Reading]) -> None:
        """Read all pieces, appending to ``readings``.

        Raises what ``ask`` raises, but for exceptions that are the points' own affair.
        """
        if (
            self.refused
            and now_ns >= self._retry_at_ns
            and await self._retried(ask, now_ns, readings)
        ):
            return
        for piece in tuple(self._pieces):
            try:
                readings += piece.readings(await ask(piece.request))
            except ExceptionReply as error:
                if error.code in PASSING:
                    raise
                if error.code in REFUSING:
                    await self._part(piece, error.code, ask, now_ns, readings)
                else:
                    readings += piece.failed()
        readings += [bad_reading(index) for index in self.refused]

    async def _part(
        self, piece: Piece, code: int, ask: Ask, now_ns: int, readings: list[Reading]
    ) -> None:
        """Part a refused piece until every point is answered or refused alone.

        At most 2n - 1 requests for n points. When it is broken off nothing is remembered.
        """
        good: list[Piece] = []
        guilty: dict[int, int] = {}
        found: list[Reading] = []
        waiting = [(piece.request, code)]  # refused ones, first at the end
        while waiting:
            request, code = waiting.pop()
            if len(request.points) == 1:
                guilty[request.points[0][0]] = code
                continue
            for half in reversed(split(self._points, request)):
                part = self._piece(half)
                try:
                    found += part.readings(await ask(half))
                except ExceptionReply as error:
                    if error.code in PASSING:
                        raise
                    if error.code in REFUSING:
                        waiting.append((half, error.code))
                        continue
                    found += part.failed()
                good.append(part)
        good.sort(key=lambda part: part.request.address)
        readings += found
        self._remember(piece, good, guilty, now_ns)

    def _remember(
        self, piece: Piece, good: list[Piece], guilty: dict[int, int], now_ns: int
    ) -> None:
        place = self._pieces.index(piece)
        self._pieces[place : place + 1] = good
        if guilty and not self.refused:
            self._retry_at_ns = now_ns + self._retry_every_ns
        self.refused.update(guilty)

    async def _retried(self, ask: Ask, now_ns: int, readings: list[Reading]) -> bool:
        """Try the whole again, or else one refused point; whether the whole was answered.

        Where every point was refused (a device that starts, say) all are parted anew.
        """
        self._retry_every_ns = min(2 * self._retry_every_ns, RETRY_MAX_NS)
        self._retry_at_ns = now_ns + self._retry_every_ns
        try:
            payload = await ask(self._whole.request)
        except ExceptionReply as error:
            if error.code not in REFUSING:
                raise
            if len(self.refused) == len(self._whole.request.points):
                self.refused.clear()
                self._pieces = [self._whole]
            else:
                await self._probe(ask)
            return False
        self.refused.clear()
        self._pieces = [self._whole]
        self._retry_every_ns = RETRY_FIRST_NS
        readings += self._whole.readings(payload)
        return True

    async def _probe(self, ask: Ask) -> None:
        """Ask for the next refused point by itself; one that is answered gets its own read."""
        members = sorted(self.refused)
        self._probed += 1
        index = members[self._probed % len(members)]
        request = alone(self._points, index)
        try:
            await ask(request)
        except ExceptionReply as error:
            if error.code not in REFUSING:
                raise
            return
        del self.refused[index]
        self._pieces.append(self._piece(request))

    def _piece(self, request: Request) -> Piece:
        points = [(index, at, self._points[index]) for index, at in request.points]
        numbers = [each for each in points if not each[2].text_registers]
        words = tuple(each for each in points if each[2].text_registers)
        decoder = Decoder(decode_fields([(point, at) for _, at, point in numbers]))
        return Piece(request, decoder, tuple(index for index, *_ in numbers), words, self.texts)


def bad_reading(index: int) -> Reading:
    """BAD(device_failure), as a point that the device refuses or cannot give."""
    return Reading(index, math.nan, int(Quality.BAD), int(Reason.DEVICE_FAILURE), 0)
