"""Request planning: the fewest legal reads, nothing torn, nothing forgotten."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import RequestError
from drivers.plan import FUNCTIONS, alone, plan, request_cap, split
from drivers.points import Area, ModbusPoint, parse_point
from fastpath.codes import PointType
from tests.benchmarks.scanning import TAGS_PER_DEVICE

WORDS = [kind for kind in PointType if kind is not PointType.BOOL]


@st.composite
def points(draw: st.DrawFn) -> list[ModbusPoint]:
    """Points that crowd, overlap and leave holes."""
    found = []
    for _ in range(draw(st.integers(0, 40))):
        area = draw(st.sampled_from(list(Area)))
        kind = PointType.BOOL if area.of_bits else draw(st.sampled_from(WORDS))
        top = 3000 if area.of_bits else 300
        found.append(ModbusPoint(area, draw(st.integers(0, top)), kind))
    return found


def fewest(places: list[tuple[int, int]], cap: int, max_gap: int) -> int:
    """The least number of legal reads over (start, end) places, by trying every last block."""
    places = sorted(places)
    best = [0] + [len(places)] * len(places)
    for last in range(len(places)):
        for first in range(last, -1, -1):
            block = places[first : last + 1]
            end, holes_fit = block[0][1], True
            for start, stop in block[1:]:
                holes_fit &= start - end <= max_gap
                end = max(end, stop)
            if holes_fit and end - block[0][0] <= cap:
                best[last + 1] = min(best[last + 1], best[first] + 1)
    return best[-1]


@settings(deadline=None)
@given(points(), st.integers(4, 125), st.integers(0, 20))
def test_plans_are_legal_whole_and_short(
    given_points: list[ModbusPoint], max_registers: int, max_gap: int
) -> None:
    requests = plan(given_points, max_registers=max_registers, max_gap=max_gap)
    seen: list[int] = []
    for request in requests:
        for index, at in request.points:
            point = given_points[index]
            seen.append(index)
            assert FUNCTIONS[point.area] == request.function
            assert request.address + at == point.address
            assert at + point.width <= request.count, "torn"
        assert request.count <= request_cap(given_points[request.points[0][0]].area, max_registers)
        assert 0 <= request.address <= request.address + request.count <= 65536
    assert sorted(seen) == list(range(len(given_points)))
    for area, function in FUNCTIONS.items():
        places = [(p.address, p.address + p.width) for p in given_points if p.area is area]
        made = [request for request in requests if request.function == function]
        assert len(made) == fewest(places, request_cap(area, max_registers), max_gap)


def test_the_benchmarks_site_is_read_in_the_fewest_requests() -> None:
    """100 float32 of a device: 200 registers, of which a read takes 125 and tears no value."""
    layout = [parse_point(f"ir:{2 * tag}", "float32") for tag in range(TAGS_PER_DEVICE)]
    made = plan(layout)
    assert [request.count for request in made] == [124, 76]
    assert len(made) == fewest([(p.address, p.address + p.width) for p in layout], 125, 8)


def test_caps_of_the_protocol() -> None:
    registers = [ModbusPoint(Area.HOLDING_REGISTER, i, PointType.UINT16) for i in range(126)]
    assert [r.count for r in plan(registers)] == [125, 1]
    bits = [ModbusPoint(Area.COIL, i, PointType.BOOL) for i in range(2001)]
    assert [r.count for r in plan(bits)] == [2000, 1]
    doubles = [ModbusPoint(Area.INPUT_REGISTER, 4 * i, PointType.FLOAT64) for i in range(32)]
    assert [r.count for r in plan(doubles)] == [124, 4]
    assert [r.count for r in plan(bits, max_registers=2)][:2] == [32, 32]


def test_holes() -> None:
    two = [parse_point("hr:0"), parse_point("hr:9")]
    assert [(r.address, r.count) for r in plan(two, max_gap=8)] == [(0, 10)]
    assert [(r.address, r.count) for r in plan(two, max_gap=7)] == [(0, 1), (9, 1)]


def test_the_end_of_the_table() -> None:
    (request,) = plan([parse_point("ir:65534", "float32"), parse_point("ir:65535.15")])
    assert (request.address, request.count) == (65534, 2)


def test_indices_choose() -> None:
    three = [parse_point("hr:0"), parse_point("hr:1"), parse_point("hr:2")]
    (request,) = plan(three, indices=[0, 2])
    assert request.points == ((0, 0), (2, 2))
    assert plan(three, indices=[]) == ()


def test_a_point_wider_than_a_request() -> None:
    with pytest.raises(RequestError, match="hr:0 takes 4 registers, a request 2 at most"):
        plan([parse_point("hr:0", "float64")], max_registers=2)


def test_split_at_the_widest_hole() -> None:
    four = [parse_point(f"hr:{n}") for n in (0, 1, 7, 10)]
    (request,) = plan(four)
    left, right = split(four, request)
    assert ([i for i, _ in left.points], [i for i, _ in right.points]) == ([0, 1], [2, 3])
    assert (right.address, right.count) == (7, 4)
    solid = [parse_point(f"hr:{n}") for n in range(4)]
    left, right = split(solid, plan(solid)[0])
    assert (left.count, right.count) == (2, 2)
    with pytest.raises(ValueError, match="one point"):
        split(solid, alone(solid, 0))
