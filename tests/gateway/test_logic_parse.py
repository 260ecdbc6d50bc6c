"""How conditions are read: a table of readings, and of what is refused."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.logic import tree
from gateway.logic.build import DEPTH_MAX
from gateway.logic.infer import canonical
from gateway.logic.parse import KEYWORDS, TEXT_MAX, ConditionError, parse, read
from tests.helpers.trees import truths

# What people write, and how it is read.
READINGS = {
    "a": "a",
    "not a": "not a",
    "not not a": "not (not a)",
    "a or b and c": "a or (b and c)",
    "a and b or c and d": "(a and b) or (c and d)",
    "a or b or c": "a or b or c",
    "(a or b) or c": "(a or b) or c",
    "not a or b": "(not a) or b",
    "not (a or b)": "not (a or b)",
    "not x > 5": "not (x > 5)",
    "x > 5 and y <= 3": "(x > 5) and (y <= 3)",
    "x = 5 or y <> 3.50": "(x = 5) or (y <> 3.5)",
    "x + y * 2 > 3": "(x + (y * 2)) > 3",
    "x - y - z > 0": "((x - y) - z) > 0",
    "x / y / z > 0": "((x / y) / z) > 0",
    "(x + y) * 2 > 3": "((x + y) * 2) > 3",
    "-x > -5": "(-x) > -5",
    "- x * y > 5": "((-x) * y) > 5",
    "x - -5 > 0": "(x - -5) > 0",
    "x > 1e3": "x > 1000",
    "x > 2.5E-3": "x > 0.0025",
    "abs(x - y) > 2": "abs(x - y) > 2",
    "max(x, y, z) > min(x, 3)": "max(x, y, z) > min(x, 3)",
    "x >= 1.5 until < 1.0": "x >= 1.5 until < 1",
    "x >= 1.5 %CH4 until < 1.0 %CH4": "x >= 1.5 until < 1",
    "x >= y + 1 until < y - 1": "x >= (y + 1) until < (y - 1)",
    "x >= 1.5 until < 1.0 for 2s": "(x >= 1.5 until < 1) for 2s",
    "x >= 1.5 for 2s": "(x >= 1.5) for 2s",
    "a for 2s": "a for 2s",
    "(not a) for 2s": "(not a) for 2s",
    "a for 2s for 3m": "(a for 2s) for 3m",
    "a for 1500ms": "a for 1500ms",
    "a for 1.5s": "a for 1500ms",
    "a for 60s": "a for 1m",
    "a or (x >= 5 until < 3)": "a or (x >= 5 until < 3)",
    "a or (b) for 2s": "a or (b for 2s)",
    "(a) for 2s or b": "(a for 2s) or b",
    "not (a) for 2s": "not (a for 2s)",
    "bad(x) for 2s or a": "(bad(x) for 2s) or a",
    "2oo2(a, b) for 2s and c": "(2oo2(a, b) for 2s) and c",
    "2oo2(x > 1 until < 0.5, y > 1 for 2s)": "2oo2(x > 1 until < 0.5, (y > 1) for 2s)",
    "01oo02(a, b)": "1oo2(a, b)",
    "bad(x) or good(y)": "bad(x) or good(y)",
    "bad(x + y)": "bad(x + y)",
    "fan-1 and pump_2.on": "fan-1 and pump_2.on",
    "a-b > 5": "a-b > 5",
    "a - b > 5": "(a - b) > 5",
    "x > 10 m": "x > 10",
    "x > 5 m and a": "(x > 5) and a",
    "x > 5 °C or x < 3 m3/h": "(x > 5) or (x < 3)",
    "x > 60 1/min": "x > 60",
    "x > 5 米": "x > 5",
    "x > 5 form": "x > 5",  # a unit that begins like a word of ours
    "sys.gateway.alive": "sys.gateway.alive",
    "nota or ora": "nota or ora",
    "a\n  or\tb": "a or b",
}

# What is refused, and what the line must say.
REFUSED = {
    "a or x >= 5 for 2s": ["`a or (x >= 5 for 2s)`", "`(a or x >= 5) for 2s`"],
    "a and x >= 5 for 2s": ["`a and (x >= 5 for 2s)`", "`(a and x >= 5) for 2s`"],
    "not x for 2s": ["`not (x for 2s)`", "`(not x) for 2s`"],
    "a or x >= 5 until < 3": ["`a or (x >= 5 until < 3)`"],
    "x >= 5 until < 3 or a": ["`(x >= 5 until < 3) or a`"],
    "a or b for 2s": ["`a or (b for 2s)`", "`(a or b) for 2s`"],
    "a or not b for 2s": ["`not (b for 2s)`", "`(not b) for 2s`"],
    "(x >= 5) until < 3": ["right behind a comparison"],
    "a until < 3": ["right behind a comparison"],
    "x >= 5 until < 3 until < 2": ["right behind a comparison"],
    "2oo2(a, b) until < 3": ["right behind a comparison"],
    "x > 5 hold 2s": ['"hold 2s"', "does not offer yet"],
    "rate(x, 10s) > 5": ["rate(…)", "does not offer yet"],
    "total(rain, 24h) > 50": ["total(…)", "does not offer yet"],
    "2oo3(a, b)": ["found 2 votes in 2oo3, expected 3"],
    "4oo3(a, b, c)": ["1 <= M <= N <= 32"],
    "0oo1(a)": ["1 <= M <= N <= 32"],
    "a -b > 1": ["without blanks"],
    "a- b > 1": ['expected an operator'],
    "x > 10m": ['"10m"', "one blank"],
    "x > 5%": ['"%"', "one blank"],
    "1 < x < 5": ["two comparisons are joined by and"],
    "a AND b": ['found "AND", expected "and"'],
    "a || b": ['found "||", expected "or"'],
    "x == 5": ['found "==", expected "="'],
    "x != 5": ['found "!=", expected "<>"'],
    "a for 2": ["a duration", 'did you mean "2s"?'],
    "a for 0s": ["found 0s"],
    "a for 99999d": ["found 99999d"],
    "x > 1e400": ["a smaller number"],
    "": ["found the end"],
    "(a": ['expected ")"'],
    "a b": ['found "b"', "an operator"],
    "a untill < 3": ['did you mean "until"?'],
    "sqrt(x) > 2": ["a known call"],
}  # fmt: skip


@pytest.mark.parametrize("text", READINGS)
def test_reading(text: str) -> None:
    assert canonical(parse(text)) == READINGS[text]
    assert canonical(parse(READINGS[text])) == READINGS[text]


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(ConditionError) as caught:
        parse(text)
    said = str(caught.value)
    assert all(part in said for part in REFUSED[text]), said


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
    reading = read("a or b for 2s or (x - -y > 3 hold 2s) or 1oo2(c)")
    assert len(reading.flaws) == 3
    assert reading.tree is not None  # so that its names can be checked, too


@given(truths)
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
