"""Columns and back, and what waits in between: nothing lost, nothing mixed up."""

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import columns
from fastpath.codes import NONE_U32, Quality
from fastpath.columns import ABSENT
from fastpath.messages import SAMPLE

floats = st.floats(allow_nan=False)


def samples(*rows: tuple[int, float, int], quality: int = 2, reason: int = 0) -> bytes:
    """Records of (slot, value, utc_ns)."""
    return b"".join(
        SAMPLE.pack(slot, quality, reason, 0, value, utc_ns // 2, utc_ns)
        for slot, value, utc_ns in rows
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[list[float]], list[bytes]]:
    n, m = draw(st.integers(0, 20)), draw(st.integers(0, 8))
    times = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n))
    values = [draw(st.lists(floats, min_size=n, max_size=n)) for _ in range(m)]
    return times, values, [draw(st.binary(min_size=n, max_size=n)) for _ in range(m)]


@given(tables())
def test_columns_and_back(table: tuple[list[int], list[list[float]], list[bytes]]) -> None:
    assert columns.unpack(columns.pack(*table)) == table


def test_a_value_that_is_no_number_comes_back_as_one() -> None:
    _, values, _ = columns.unpack(columns.pack([1], [[math.nan], [math.inf]], [b"\0", b"\2"]))
    assert math.isnan(values[0][0])
    assert values[1] == [math.inf]


@pytest.mark.parametrize(
    ("values", "qualities"),
    [([[1.0]], [b"\2\2"]), ([[1.0, 2.0]], [b"\2"]), ([[1.0, 2.0]], []), ([[]], [b""])],
)
def test_columns_of_different_lengths(values: list[list[float]], qualities: list[bytes]) -> None:
    with pytest.raises(ValueError, match="column"):
        columns.pack([1, 2], values, qualities)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_columns(body: bytes) -> None:
    try:
        table = columns.unpack(body)
    except ValueError:
        return
    assert columns.pack(*table) == body  # by chance they were


@given(tables(), st.integers(1, 12), st.booleans())
def test_a_body_cut_or_grown(
    table: tuple[list[int], list[list[float]], list[bytes]], by: int, cut: bool
) -> None:
    body = columns.pack(*table)
    with pytest.raises(ValueError, match=r"column|times"):
        columns.unpack(body[:-by] if cut else body + bytes(by))


@pytest.mark.parametrize(("n", "m"), [(2**32 - 1, 2**20), (2**32 - 1, 2**32 - 1), (0, 2**32 - 1)])
def test_a_header_that_promises_too_much(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="times"):
        columns.unpack(n.to_bytes(4, "little") + m.to_bytes(4, "little"))


@given(st.sampled_from(Quality), st.integers(0, 62))
def test_quality_in_one_byte(quality: Quality, reason: int) -> None:
    byte = columns.quality_byte(quality, reason)
    assert byte != ABSENT
    assert columns.split_quality(byte) == (quality, reason)


@pytest.mark.parametrize(("quality", "reason"), [(3, 0), (2, 64)])
def test_a_quality_that_is_none(quality: int, reason: int) -> None:
    with pytest.raises(ValueError, match="quality"):
        columns.quality_byte(quality, reason)


def test_remap_renames_and_leaves_out() -> None:
    table = array("I", [NONE_U32, 7, 0])
    given_ = samples((0, 1.0, 1), (1, 2.0, 2), (2, 3.0, 3), (3, 4.0, 4), (NONE_U32, 5.0, 5))
    assert columns.remap(given_, table) == samples((7, 2.0, 2), (0, 3.0, 3))
    assert columns.remap(b"", table) == b""
    assert columns.remap(given_, array("I")) == b""


@given(st.lists(st.tuples(st.integers(0, 5), floats, st.integers(0, 9)), max_size=30))
def test_remap_keeps_every_other_field(rows: list[tuple[int, float, int]]) -> None:
    table = array("I", [3, 4, 5, 0, 1, 2])
    expected = samples(*((table[slot], value, at_ns) for slot, value, at_ns in rows))
    assert columns.remap(samples(*rows), table) == expected


def test_half_a_sample() -> None:
    with pytest.raises(ValueError, match="whole"):
        columns.remap(bytes(31), array("I", [0]))
