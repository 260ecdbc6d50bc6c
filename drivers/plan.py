"""The points of one poll class -> the fewest legal Modbus reads.

Points that lie close together share a request, holes of up to ``max_gap`` addresses included. A
value that takes several registers is always read by one request, so it is never torn. The
gateway's compiler plans the guard's fast devices with the same function.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from drivers.errors import RequestError
from drivers.points import Area, Excluded, ModbusPoint, describe

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
    exclude: Sequence[Excluded] = (),
    indices: Iterable[int] | None = None,
) -> tuple[Request, ...]:
    """Plan the reads of ``points``, or of those at ``indices``; a request names points by index.

    A request reads at most ``max_registers`` registers or 16 times as many bits (at most 2,000),
    and nothing of ``exclude`` between its points.
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
        barred = sorted(each.first for each in exclude if each.area is area)
        blocks = _blocks(points, members, cap, max_gap, barred)
        requests.extend(_request(points, block, function) for block in blocks)
    return tuple(requests)


def request_cap(area: Area, max_registers: int) -> int:
    """The most registers (or bits) that one read of ``area`` may ask for."""
    if area.of_bits:
        return min(READ_BITS_MAX, max_registers * BITS_PER_REGISTER)
    return min(READ_REGISTERS_MAX, max_registers)


def split(points: Sequence[ModbusPoint], request: Request) -> tuple[Request, Request]:
    """Two narrower reads of the same points: parted at the widest hole, else in the middle.

    Raises ValueError for a read of one point.
    """
    members = [index for index, _ in request.points]
    if len(members) < 2:
        text = "a read of one point cannot be split"
        raise ValueError(text)
    cut, widest, end = len(members) // 2, 0, 0
    for place, index in enumerate(members):
        point = points[index]
        if place and point.address - end > widest:
            cut, widest = place, point.address - end
        end = max(end, point.address + point.width)
    return (
        _request(points, members[:cut], request.function),
        _request(points, members[cut:], request.function),
    )


def alone(points: Sequence[ModbusPoint], index: int) -> Request:
    """The read of one point."""
    return _request(points, [index], FUNCTIONS[points[index].area])


def _blocks(
    points: Sequence[ModbusPoint],
    members: Sequence[int],
    cap: int,
    max_gap: int,
    barred: Sequence[int],
) -> Iterable[list[int]]:
    block: list[int] = []
    start = end = 0
    for index in members:
        point = points[index]
        if point.width > cap:
            msg = f"{describe(point)} takes {point.width} registers, a request {cap} at most"
            raise RequestError(msg)
        last = max(end, point.address + point.width)
        near = point.address - end <= max_gap and not _between(barred, end, point.address)
        if block and near and last - start <= cap:
            block.append(index)
            end = last
            continue
        if block:
            yield block
        block, start, end = [index], point.address, point.address + point.width
    if block:
        yield block


def _between(barred: Sequence[int], end: int, address: int) -> bool:
    """Whether something that is never read begins in the hole from ``end`` to ``address``."""
    place = bisect_left(barred, end)
    return place < len(barred) and barred[place] < address


def _request(points: Sequence[ModbusPoint], members: Sequence[int], function: int) -> Request:
    start = min(points[i].address for i in members)
    end = max(points[i].address + points[i].width for i in members)
    places = tuple((i, points[i].address - start) for i in members)
    return Request(function, start, end - start, places)
