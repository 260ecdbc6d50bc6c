"""How conditions are read: places of flaws, bounds, canonical texts (readings: readings.toml)."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.logic import tree
from gateway.logic.build import DEPTH_MAX
from gateway.logic.canonical import canonical
from gateway.logic.parse import KEYWORDS, TEXT_MAX, parse, read
from tests.helpers.trees import conditions


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("a or", 4),
        ("b oror a", 2),
        ("a or x >= 5 for 2s", 12),
        ("2oo3(a,\n  b)", 0),
        ("a b", 2),
    ],
)
def test_flaw_points_at_its_place(text: str, at: int) -> None:
    reading = read(text)
    assert [flaw.at for flaw in reading.flaws] == [at]


def test_all_flaws_of_one_condition() -> None:
    reading = read("a or b for 2s or (rate(3, 2s) > 3 hold 2s) or 1oo2(c)")
    assert len(reading.flaws) == 3
    assert reading.tree is not None  # so that its names can be checked, too


@given(conditions())
@settings(max_examples=300, deadline=None)
def test_canonical_text_says_all(condition: tree.Expr) -> None:
    text = canonical(condition)
    assert parse(text) == condition
    assert canonical(parse(text)) == text


@given(st.text(alphabet="ab1.5 ()<>=+-*/,%:~\n", max_size=40))
@example("(" * 5000)
@example("not " * 2000 + "a")
@example("- " * 3000 + "a > 1")
@example(" + ".join(["a"] * 2000) + " > 1")
@example("1 " * 4000)
@settings(max_examples=300, deadline=None)
def test_no_text_breaks_the_reader(text: str) -> None:
    reading = read(text)
    assert (reading.tree is None) <= bool(reading.flaws)
    assert all(0 <= flaw.at <= max(len(text), 1) for flaw in reading.flaws)


def test_length_and_depth_are_bounded() -> None:
    assert read("a" + " " * (TEXT_MAX - 1)).flaws == ()
    assert "characters" in read("a" + " " * TEXT_MAX).flaws[0].text
    assert read("(" * (DEPTH_MAX - 1) + "a" + ")" * (DEPTH_MAX - 1)).flaws == ()
    deep = 3 * DEPTH_MAX
    assert "levels" in read("(" * deep + "a" + ")" * deep).flaws[0].text
    assert "levels" in read(" + ".join(["a"] * deep) + " > 1").flaws[0].text


@pytest.mark.parametrize("word", KEYWORDS)
def test_keywords_are_no_tags(word: str) -> None:
    assert read(word).flaws
