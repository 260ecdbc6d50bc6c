"""What the history keeps of a tag: by its mode, its deadband and its interval."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.codes import Quality, Reason, RecordMode
from fastpath.messages import SAMPLE
from fastpath.recording import NOTHING, Recording

MS = 1_000_000
S = 1000 * MS
GOOD, BAD = int(Quality.GOOD), int(Quality.BAD)
NAN = math.nan
POLLS = [
    (1.0, GOOD, 0, 0),
    (1.0, GOOD, 0, 400 * MS),
    (2.0, GOOD, 0, 800 * MS),
    (NAN, BAD, 4, 900 * MS),
    (NAN, BAD, 4, 1000 * MS),
    (2.0, GOOD, 0, 1100 * MS),
    (2.0, GOOD, 0, 2200 * MS),
]


def kept(rule: tuple[int, float, int], polls: list[tuple[float, int, int, int]]) -> list[int]:
    """Which of these polls are kept, told one by one."""
    recording = Recording([(int(RecordMode.ALL), 0.0, 0), rule])
    packed = [
        SAMPLE.pack(1, quality, reason, 0, value, mono_ns, mono_ns)
        for value, quality, reason, mono_ns in polls
    ]
    return [i for i, sample in enumerate(packed) if recording.keep(sample) == sample]


@pytest.mark.parametrize(
    ("mode", "deadband", "within_ns", "expected"),
    [
        (RecordMode.ALL, 0.0, 0, [0, 1, 2, 3, 4, 5, 6]),
        (RecordMode.CHANGE, 0.0, 0, [0, 2, 3, 5]),
        (RecordMode.ONE_SECOND, 0.0, 0, [0, 3, 5, 6]),
        (RecordMode.CHANGE, 1.0, 0, [0, 3, 5]),
        (RecordMode.CHANGE, 0.9, 0, [0, 2, 3, 5]),
        (RecordMode.CHANGE, 1.0, 800 * MS, [0, 2, 3, 5, 6]),
        (NOTHING, 0.0, 0, []),
    ],
)
def test_what_is_kept(mode: int, deadband: float, within_ns: int, expected: list[int]) -> None:
    assert kept((int(mode), deadband, within_ns), POLLS) == expected


def test_what_is_no_number_differs_from_every_number() -> None:
    polls = [
        (value, GOOD, 0, i) for i, value in enumerate((1.0, NAN, NAN, 1.0, math.inf, math.inf))
    ]
    assert kept((int(RecordMode.CHANGE), 5.0, 0), polls) == [0, 1, 3, 4]


def test_each_tag_has_its_own_rule_and_memory() -> None:
    recording = Recording([(int(RecordMode.CHANGE), 1.0, 0), (int(RecordMode.CHANGE), 0.0, 0)])
    samples = [SAMPLE.pack(i % 3, GOOD, 0, 0, i / 3, i, i) for i in range(9)]
    assert recording.keep(b"".join(samples)) == b"".join(
        samples[i] for i in (0, 1, 4, 6, 7)
    )  # of tag 2 there is no rule
    assert recording.keep(b"") == b""
    with pytest.raises(ValueError, match="not whole samples"):
        recording.keep(samples[0][:-1])


@pytest.mark.parametrize("rule", [(4, 0.0, 0), (2, -1.0, 0), (2, NAN, 0), (2, 0.0, -1)])
def test_rules_that_are_none(rule: tuple[int, float, int]) -> None:
    with pytest.raises(ValueError, match="rule 0"):
        Recording([rule])


@given(
    deadband=st.floats(0, 10),
    within_ns=st.integers(0, 20) | st.just(0),
    values=st.lists(
        st.tuples(
            st.floats(-30, 30),
            st.sampled_from([(GOOD, 0), (BAD, int(Reason.OUT_OF_RANGE)), (BAD, int(Reason.STALE))]),
            st.integers(0, 12),
        ),
        min_size=1,
    ),
)
def test_holding_what_was_kept_gives_the_original_within_the_deadband(
    deadband: float, within_ns: int, values: list[tuple[float, tuple[int, int], int]]
) -> None:
    """The law; times in ns so that intervals are met and missed by one."""
    now_ns, polls = 1, []
    for value, (quality, reason), after_ns in values:
        now_ns += after_ns
        polls.append((value, quality, reason, now_ns))
    found = kept((int(RecordMode.CHANGE), deadband, within_ns), polls)
    assert found[0] == 0
    for first, following in pairwise([*found, len(polls)]):
        held, quality, reason, since_ns = polls[first]
        for poll in polls[first:following]:
            assert abs(poll[0] - held) <= deadband
            assert poll[1:3] == (quality, reason)
            assert poll[3] - since_ns < within_ns or not within_ns or poll is polls[first]
    # And nothing is kept without a reason.
    for before, after in pairwise(found):
        old, new = polls[before], polls[after]
        assert (
            old[1:3] != new[1:3]
            or abs(old[0] - new[0]) > deadband
            or (within_ns and new[3] - old[3] >= within_ns)
        )
