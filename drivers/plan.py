"""The points of one poll class -> the fewest legal Modbus reads.

Points that lie close together share a request, holes of up to ``max_gap`` addresses included. A
value that takes several registers is always read by one request, so it is never torn. The
gateway's compiler plans the guard's fast devices with the same function.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.errors import RequestError
from drivers.points import Area, ModbusPoint, describe

READ_REGISTERS_MAX: Final = 125
READ_BITS_MAX: Final = 2_000
BITS_PER_REGISTER: Final = 16
FUNCTIONS: Final[dict[Area, int]] = {
    Area.COIL: 1,
    Area.DISCRETE_INPUT: 2,
    Area.HOLDING_REGISTER: 3,
    Area.INPUT_REGISTER: 4,
}
BIT_FUNCTIONS: Final = (1, 2)


@dataclass(frozen=True, slots=True)
class Request:
    """One read. ``points`` are (index of the point, its place counted from ``address``)."""

    function: int  # 1 to 4
    address: int
    count: int  # registers, or bits for functions 1 and 2
    points: tuple[tuple[int, int], ...]


def plan(
    points: Sequence[ModbusPoint],
    *,
    max_registers: int = READ_REGISTERS_MAX,
    max_gap: int = 8,
    indices: Iterable[int] | None = None,
) -> tuple[Request, ...]:
    """Plan the reads of ``points``, or of those at ``indices``; a request names points by index.

    A request reads at most ``max_registers`` registers or 16 times as many bits (at most 2,000).
    Order: by function, then by address. Raises RequestError for a point wider than a request.
    """
    requests: list[Request] = []
    chosen = list(range(len(points)) if indices is None else indices)
    for area, function in FUNCTIONS.items():
        cap = request_cap(area, max_registers)
        members = sorted(
            (i for i in chosen if points[i].area is area),
            key=lambda i: (points[i].address, points[i].width, i),
        )
        for block in _blocks(points, members, cap, max_gap):
            requests.append(_request(points, block, function))
    return tuple(requests)


def request_cap(area: Area, max_registers: int) -> int:
    """The most registers (or bits) that one read of ``area`` may ask for."""
    if area.of_bits:
        return min(READ_BITS_MAX, max_registers * BITS_PER_REGISTER)
    return min(READ_REGISTERS_MAX, max_registers)


def halves(points: Sequence[ModbusPoint], request: Request) -> tuple[Request, ...]:
    """Split a read between its points into two narrower ones; a read of one point stays whole."""
    if len(request.points) < 2:
        return (request,)
    middle = len(request.points) // 2
    members = [index for index, _ in request.points]
    return (
        _request(points, members[:middle], request.function),
        _request(points, members[middle:], request.function),
    )


def _blocks(
    points: Sequence[ModbusPoint], members: Sequence[int], cap: int, max_gap: int
) -> Iterable[list[int]]:
    block: list[int] = []
    start = end = 0
    for index in members:
        point = points[index]
        if point.width > cap:
            raise RequestError(
                f"{describe(point)} takes {point.width} registers, a request {cap} at most"
            )
        last = max(end, point.address + point.width)
        if block and point.address - end <= max_gap and last - start <= cap:
            block.append(index)
            end = last
            continue
        if block:
            yield block
        block, start, end = [index], point.address, point.address + point.width
    if block:
        yield block


def _request(points: Sequence[ModbusPoint], members: Sequence[int], function: int) -> Request:
    start = min(points[i].address for i in members)
    end = max(points[i].address + points[i].width for i in members)
    places = tuple((i, points[i].address - start) for i in members)
    return Request(function, start, end - start, places)
