"""What simulated points show: inside their band, moving, the same for the same seed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.errors import PointError
from drivers.signals import Signal, Wave, parse_signal

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "limits", "expected"),
    [
        ("", None, Signal("walk", 40.0, 60.0, 600 * SECOND)),
        ("", (0.0, 4.0), Signal("walk", 1.6, 2.4, 600 * SECOND)),
        ("sine", (0.0, 10.0), Signal("sine", 4.0, 6.0, 60 * SECOND)),
        ("sine -1..1 250ms", (0.0, 10.0), Signal("sine", -1.0, 1.0, SECOND // 4)),
        ("square", None, Signal("square", 0.0, 1.0, 20 * SECOND)),
        ("square 2s", (3.0, 7.0), Signal("square", 3.0, 7.0, 2 * SECOND)),
        ("counter", None, Signal("counter", 0.0, 65_535.0, SECOND)),
        ("counter 5..7 1m", None, Signal("counter", 5.0, 7.0, 60 * SECOND)),
        ("constant 5", (0.0, 4.0), Signal("constant", 5.0, 5.0, SECOND)),
        ("  walk   .5..1e3  1.5h ", None, Signal("walk", 0.5, 1000.0, 5_400 * SECOND)),
    ],
)
def test_the_grammar(text: str, limits: tuple[float, float] | None, expected: Signal) -> None:
    assert parse_signal(text, limits) == expected


@pytest.mark.parametrize(
    "text",
    ["sin", "hr:5", "sine 1..", "sine 2..1", "sine 1..1", "walk 3", "sine 1e400..2", "square 0s",
     "sine 60", "SINE", "sine 0..1 5d", "constant 1..2..3"],
)  # fmt: skip
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(PointError, match="expected") as told:
        parse_signal(text, None)
    assert told.value.key == "address"


@given(
    kind=st.sampled_from(["walk", "sine", "square", "counter"]),
    low=st.floats(-1e6, 1e6),
    width=st.floats(1.0, 1e6),
    steps=st.lists(st.integers(0, 3_600 * SECOND), min_size=1, max_size=40),
    seed=st.integers(0, 2**32),
)
def test_a_signal_stays_in_its_band(
    kind: str, low: float, width: float, steps: list[int], seed: int
) -> None:
    signal = parse_signal(f"{kind} {low!r}..{low + width!r}", None)
    wave, again = Wave(signal, seed, 0), Wave(signal, seed, 0)
    now = 0
    for step in steps:
        now += step
        value = wave.value(now)
        assert signal.low - 1e-6 * width <= value <= signal.high + 1e-6 * width
        assert again.value(now) == value


def test_a_walk_moves_and_another_seed_walks_another_way() -> None:
    signal = parse_signal("walk 0..100", None)
    one, other = Wave(signal, 1, 0), Wave(signal, 2, 0)
    seen = [one.value(i * SECOND) for i in range(1, 600)]
    assert len(set(seen)) == len(seen)
    assert max(seen) - min(seen) > 5
    assert max(abs(a - b) for a, b in pairwise(seen)) < 10
    assert seen != [other.value(i * SECOND) for i in range(1, 600)]


def test_a_counter_wraps_and_a_square_turns() -> None:
    counter = Wave(parse_signal("counter 0..2", None), 1, 0)
    assert [counter.value(i * SECOND) for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    square = Wave(parse_signal("square 2s", None), 1, 0)
    assert [square.value(i * SECOND) for i in range(5)] == [0, 1, 0, 1, 0]
