"""Regular expressions of site files: those that a line could make expensive are refused."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import PointError
from drivers.framing import LINE_BYTES_MAX
from drivers.patterns import CHOICES_MAX, compile_pattern

GOOD = [
    r"(?P<a>\d+\.?\d*),(?P<b>[+-]?\d+)",
    r"(?:[^,]*,){4}(?P<x>\d+)",
    r"(?:\s*\d+\s*,)*",
    r"\$..MWV,(?P<angle>[0-9.]*),(?P<r>[RT]),(?P<s>[0-9.]*),(?P<u>[KMNS]),(?P<st>[AV])",
    r"^\s*(?P<x>\S+)\s+(?P<y>\S+)\s*$",
    r".*T=(?P<x>[0-9.]+)(?:[^0-9.].*)?",
    r"(a|ab)*c",
    r"°(?P<x>.)",
    r"(?P<n>[+-]? *[0-9.]+) *(?P<u>kg|g|lb)?",
    r"x{0}y",
]
EXPENSIVE = [
    r"(a+)+",
    r"(a+)+$",
    r"(a|a)*",
    r"(a|aa)+",
    r"(.*)*",
    r"(a?)*",
    r"(?:a?){20}",
    r".*a.*b.*c",
    r"(\d+,?)+;",
    r"([a-z]+|[a-y]+\d)*x",
    r"(a*)(a*)(a*)b",
    r".*T=(?P<x>[0-9.]+).*",
    r"(?:(?:(?:a?)?)?){3,}",
]
REFUSED = {
    r"(?=a)b": "look around",
    r"(?<!a)b": "look around",
    r"(a)\1": "back reference",
    r"(?i)abc": "flags",
    r"(?i:abc)": "flags",
    r"(a)?(?(1)b|c)": "condition",
    "(" + "(?:a" * 12 + ")?" * 12 + ")": "deep",
    "x" * 600: "at most 512",
    "温度": "column 1",
}


@pytest.mark.parametrize("text", GOOD)
def test_what_instruments_need_is_taken(text: str) -> None:
    assert compile_pattern(text, "k").pattern == text.encode("latin-1")


@pytest.mark.parametrize("text", EXPENSIVE)
def test_what_may_take_for_ever_is_refused(text: str) -> None:
    with pytest.raises(PointError, match="one line can make expensive") as caught:
        compile_pattern(text, "protocol.pattern")
    assert caught.value.key == "protocol.pattern"


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_taken_says_why(text: str) -> None:
    with pytest.raises(PointError, match=REFUSED[text]):
        compile_pattern(text, "k")


@pytest.mark.parametrize(("text", "column"), [("a(b", 2), ("[", 1), ("a{2}{3}", 5), ("ab**", 4)])
def test_a_slip_has_its_column(text: str, column: int) -> None:
    with pytest.raises(PointError, match=f"at column {column} "):
        compile_pattern(text, "k")


ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\d", "ab", ",", "(?:a|b)", "(?:a|ab)"])
REPEATS = st.sampled_from(["", "*", "+", "?", "*?", "{2}", "{1,3}", "{2,}", "++"])
PATTERNS = st.recursive(
    st.tuples(ATOMS, REPEATS).map(lambda p: "(?:" + p[0] + ")" + p[1]),
    lambda inner: st.tuples(st.lists(inner, min_size=1, max_size=3), REPEATS).map(
        lambda p: "(?:" + "".join(p[0]) + ")" + p[1]
    ),
    max_leaves=6,
)


@given(text=PATTERNS, piece=st.sampled_from(["a", "b", "ab", "aab", ",", "1", "a,"]))
@settings(max_examples=300, deadline=None)
def test_what_is_taken_is_never_slow(text: str, piece: str) -> None:
    """The bound is of a whole line that fails at its very end."""
    try:
        pattern = compile_pattern(text, "k")
    except PointError:
        return
    line = (piece * LINE_BYTES_MAX)[: LINE_BYTES_MAX - 1].encode() + b"\xfe"
    begin = time.thread_time()
    pattern.fullmatch(line)
    assert time.thread_time() - begin < 0.25, text


def test_the_parser_is_as_it_is_known() -> None:
    """``re._parser`` has no public name: these are the nodes that are looked at."""
    assert CHOICES_MAX >= LINE_BYTES_MAX
    found = {str(node[0]) for node in re._parser.parse(rb"a[^b]?(c|.)*?$\d")}
    assert found == {"LITERAL", "MAX_REPEAT", "MIN_REPEAT", "AT", "IN"}
