"""Columns and back, and what waits in between: nothing lost, nothing mixed up."""

import math
from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import columns
from fastpath.codes import NONE_U32, Quality
from fastpath.columns import ABSENT, Accumulator
from fastpath.messages import SAMPLE

floats = st.floats(allow_nan=False)
Row = tuple[int, list[int], int, int, int, bytes]


def samples(*rows: tuple[int, float, int], quality: int = 2, reason: int = 0) -> bytes:
    """Records of (slot, value, utc_ns)."""
    return b"".join(
        SAMPLE.pack(slot, quality, reason, 0, value, utc_ns // 2, utc_ns)
        for slot, value, utc_ns in rows
    )


def unrolled(rows: list[Row]) -> Counter[tuple[int, float, int, int]]:
    """(tag, value, quality byte, utc_ns) of everything that is present in the rows."""
    found: Counter[tuple[int, float, int, int]] = Counter()
    for _, tags, first_ns, last_ns, count, body in rows:
        times, values, qualities = columns.unpack(body)
        assert (first_ns, last_ns) == (times[0], times[-1])
        assert len(tags) == len(values) == len(qualities)
        present = 0
        for tag, value_column, quality_column in zip(tags, values, qualities, strict=True):
            for at_ns, value, quality in zip(times, value_column, quality_column, strict=True):
                if quality == ABSENT:
                    assert math.isnan(value)
                else:
                    found[tag, value, quality, at_ns] += 1
                    present += 1
        assert present == count
    return found


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
    with pytest.raises(ValueError, match="whole"):
        Accumulator([[0]]).add(bytes(33))


def test_one_poll_is_one_time() -> None:
    waiting = Accumulator([[4, 2], [9]])
    assert waiting.add(samples((4, 1.0, 50), (2, 2.0, 50), (9, 3.0, 51), (4, 5.0, 60))) == 4
    assert waiting.pending() == 4
    rows = waiting.take()
    assert [row[:5] for row in rows] == [(0, [4, 2], 50, 60, 3), (1, [9], 51, 51, 1)]
    times, values, qualities = columns.unpack(rows[0][5])
    assert times == [50, 60]
    assert values[0] == [1.0, 5.0]
    assert values[1][0] == 2.0
    assert math.isnan(values[1][1])
    assert qualities == [b"\2\2", bytes([2, ABSENT])]
    assert waiting.pending() == 0
    assert waiting.take() == []


def test_a_tag_of_no_group_is_not_kept() -> None:
    waiting = Accumulator([[1]])
    assert waiting.add(samples((0, 1.0, 1), (2, 1.0, 1), (NONE_U32, 1.0, 1))) == 0
    assert waiting.take() == []


def test_a_damaged_quality_counts_as_bad_and_never_as_absent() -> None:
    waiting = Accumulator([[0]])
    waiting.add(samples((0, 1.0, 1), quality=255, reason=255))
    _, _, qualities = columns.unpack(waiting.take()[0][5])
    assert columns.split_quality(qualities[0][0])[0] == Quality.BAD


def test_two_samples_of_one_tag_at_one_time_are_both_kept() -> None:
    waiting = Accumulator([[0, 1]])
    waiting.add(samples((0, 1.0, 5), (1, 2.0, 5), (0, 3.0, 5)))
    (row,) = waiting.take()
    times, values, _ = columns.unpack(row[5])
    assert times == [5, 5]
    assert values[0] == [1.0, 3.0]


def test_a_poll_wider_than_a_row_is_parted_by_tags() -> None:
    waiting = Accumulator([list(range(25))], max_samples=10)
    waiting.add(samples(*((tag, float(tag), at_ns) for at_ns in (1, 2) for tag in range(25))))
    rows = waiting.take()
    assert [len(row[1]) for row in rows] == [10, 10, 5, 10, 10, 5]
    assert sum(unrolled(rows).values()) == 50


def test_times_are_parted_before_tags() -> None:
    waiting = Accumulator([[0, 1, 2]], max_samples=7)
    waiting.add(samples(*((tag, 0.0, at_ns) for at_ns in range(5) for tag in range(3))))
    assert [row[4] for row in waiting.take()] == [6, 6, 3]


def test_a_row_is_filled_to_the_last_sample() -> None:
    waiting = Accumulator([[0, 1, 2]], max_samples=6)
    waiting.add(samples(*((tag, 0.0, at_ns) for at_ns in range(4) for tag in range(3))))
    assert [row[4] for row in waiting.take()] == [6, 6]


def test_a_clock_that_was_set_back_sorts_by_time_and_then_by_arrival() -> None:
    waiting = Accumulator([[0]])
    waiting.add(samples(*((0, float(i), 9 - i // 2) for i in range(20))))
    times, values, _ = columns.unpack(waiting.take()[0][5])
    assert times == sorted(times)
    assert values[0] == [float(i + k) for i in range(18, -1, -2) for k in (0, 1)]


def test_a_thin_row_does_not_grow_into_a_huge_matrix() -> None:
    """Each tag changes at a time of its own: the worst for a table."""
    waiting = Accumulator([list(range(1000))])
    waiting.add(samples(*((tag, 1.0, tag) for tag in range(1000))))
    rows = waiting.take()
    assert sum(row[4] for row in rows) == 1000
    assert max(len(row[5]) for row in rows) < 200_000


@pytest.mark.parametrize("groups", [[[0, 1], [1]], [[2, 2]], [[-1]], [[2**21]]])
def test_groups_that_are_none(groups: list[list[int]]) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Accumulator(groups)


@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 99).map(float), st.integers(0, 40)),
        max_size=200,
    ),
    st.integers(1, 30),
    st.integers(1, 4),
)
def test_nothing_is_lost_doubled_or_mixed_up(
    rows: list[tuple[int, float, int]], most: int, parts: int
) -> None:
    """Whatever comes, in whatever order, however it is cut: what goes in comes out."""
    groups = [[0, 5, 3], [1], [10, 2, 7, 4]]
    member = {tag: number for number, tags in enumerate(groups) for tag in tags}
    waiting = Accumulator(groups, most)
    taken: list[Row] = []
    size = len(rows) // parts + 1
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        assert waiting.add(samples(*part)) == sum(slot in member for slot, _, _ in part)
        taken += waiting.take()
    expected = Counter(
        (slot, value, int(Quality.GOOD), at_ns) for slot, value, at_ns in rows if slot in member
    )
    assert unrolled(taken) == expected
    for number, tags, first_ns, last_ns, count, _ in taken:
        assert count <= most
        assert first_ns <= last_ns
        assert all(member[tag] == number for tag in tags)
        assert sorted(tags, key=groups[number].index) == tags
