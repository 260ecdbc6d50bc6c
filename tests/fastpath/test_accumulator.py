"""What waits for the history: nothing lost, nothing mixed up, however it is cut into pieces."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.accumulator import Accumulator
from fastpath.codes import NONE_U32, Quality
from fastpath.columns import ABSENT, CODEC_PACKED, Block, split_quality
from fastpath.messages import SAMPLE

MS = 1_000_000
Piece = tuple[int, list[int], int, int, int, bytes]


def samples(*rows: tuple[int, float, int], quality: int = 2, reason: int = 0) -> bytes:
    """Records of (slot, value, UTC ms)."""
    return b"".join(
        SAMPLE.pack(slot, quality, reason, 0, value, ms, ms * MS) for slot, value, ms in rows
    )


def matrix(piece: Piece) -> tuple[list[int], list[list[float]], list[bytes]]:
    """(times in ms, values, qualities) of all its tags."""
    times, places, values, qualities = Block(CODEC_PACKED, piece[5], len(piece[1])).whole()
    assert places == list(range(len(piece[1])))
    return [at_ns // MS for at_ns in times], values, qualities


def unrolled(pieces: list[Piece]) -> Counter[tuple[int, float, int, int]]:
    """(tag, value, quality byte, UTC ms) of everything that is present in the pieces."""
    found: Counter[tuple[int, float, int, int]] = Counter()
    for piece in pieces:
        _, tags, first_ns, last_ns, count, _ = piece
        times, values, qualities = matrix(piece)
        assert (first_ns, last_ns) == (times[0] * MS, times[-1] * MS)
        present = 0
        for tag, value_column, quality_column in zip(tags, values, qualities, strict=True):
            for ms, value, quality in zip(times, value_column, quality_column, strict=True):
                if quality == ABSENT:
                    assert math.isnan(value)
                else:
                    found[tag, value, quality, ms] += 1
                    present += 1
        assert present == count
    return found


def test_half_a_sample() -> None:
    with pytest.raises(ValueError, match="whole"):
        Accumulator([[0]]).add(bytes(33))


def test_a_time_is_cut_to_a_millisecond() -> None:
    waiting = Accumulator([[0, 1, 2]])
    for tag, utc_ns in enumerate((1_999_999, 1_000_000, -1)):
        waiting.add(SAMPLE.pack(tag, 2, 0, 0, 1.0, 0, utc_ns))
    (piece,) = waiting.take()
    assert piece[2:5] == (-MS, MS, 3)
    assert matrix(piece)[0] == [-1, 1]


def test_one_poll_is_one_time() -> None:
    waiting = Accumulator([[4, 2], [9]])
    assert waiting.add(samples((4, 1.0, 50), (2, 2.0, 50), (9, 3.0, 51), (4, 5.0, 60))) == 4
    assert waiting.pending() == 4
    rows = waiting.take()
    spans = [(0, [4, 2], 50 * MS, 60 * MS, 3), (1, [9], 51 * MS, 51 * MS, 1)]
    assert [row[:5] for row in rows] == spans
    times, values, qualities = matrix(rows[0])
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
    _, _, qualities = matrix(waiting.take()[0])
    assert split_quality(qualities[0][0])[0] == Quality.BAD


def test_two_samples_of_one_tag_at_one_time_are_both_kept() -> None:
    waiting = Accumulator([[0, 1]])
    waiting.add(samples((0, 1.0, 5), (1, 2.0, 5), (0, 3.0, 5)))
    (row,) = waiting.take()
    times, values, _ = matrix(row)
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
    times, values, _ = matrix(waiting.take()[0])
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
    taken: list[Piece] = []
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
