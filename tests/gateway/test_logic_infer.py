"""Names, types and units of conditions."""

import pytest
from hypothesis import given, settings

from gateway.logic import tree
from gateway.logic.infer import resolve
from gateway.logic.kinds import Kind, Scope, Symbol
from gateway.logic.parse import parse
from tests.helpers.trees import BOOLEANS, NUMBERS, conditions

SCOPE = Scope(
    symbols={
        "ch4": Symbol(Kind.NUMBER, "%CH4", (0.0, 4.0)),
        "ch4.b": Symbol(Kind.NUMBER, "%CH4", (0.0, 4.0)),
        "speed": Symbol(Kind.NUMBER, "m/s"),
        "plain": Symbol(Kind.NUMBER, ""),
        "fan": Symbol(Kind.BOOLEAN, ""),
        "broken": Symbol(Kind.ANY),
        "sys.gateway.alive": Symbol(Kind.BOOLEAN, ""),
    },
    lost=frozenset(["swallowed"]),
    refused={"sys.slow.connected": "expected a device of the guard"},
)

GOOD = [
    "ch4 >= 1.5 %CH4 until < 1.0",
    "max(ch4, ch4.b, 1 %CH4) > 1.5",
    "ch4 - ch4.b > 0.5 %CH4",
    "ch4 * 2 > 3 %CH4",
    "ch4 / 2 > 1 %CH4",
    "ch4 / ch4.b > 0.5",  # a ratio has no unit that we could check
    "speed * ch4 > 7 kg",
    "plain > 3 and fan",
    "ch4 > plain",  # nobody wrote down the unit of one
    "bad(ch4) or good(fan) or bad(ch4 + ch4.b)",
    "broken and broken > 3 and bad(broken) and 2oo2(broken, fan)",
    "broken + 3 > 1",
    "swallowed and swallowed > 7 bar",
    "not sys.gateway.alive",
    "ch4 >= 4 or ch4 <= 0 or ch4 <> 5",
    "(speed < 0.25 until > 0.3) for 2s",
    "ch4 >= 1.5 until < 1.5",
    "ch4 > 1.5 until <= 1.5",
    "ch4 >= speed / speed until < 1",
    "mean(ch4, 60s) >= 1.5 %CH4 until < 1.0",
    "rate(ch4, 10s) > 0.1 %CH4/s",
    "rate(plain, 10s) > 0.1 1/s",
    "ch4 - mean(ch4, 10m) > 0.5 %CH4 hold 10s",
    "max(lowest(ch4, 1m), highest(ch4.b, 1m)) > 1 %CH4",
    "delta(plain, 10m) > total(plain, 10m)",
    "bad(mean(ch4, 60s)) or (fan hold 2s)",
    "total(ch4, 1m) > 100 and delta(ch4, 1m) > 10 and rate(ch4, 1m) > 5",
    "mean(swallowed, 1m) > 1 and mean(broken, 1m) > 2 bar",
]

FLAWED = {
    "ch4": [(0, "which is a number")],
    "not ch4": [(4, "which is a number")],
    "(ch4) for 2s": [(1, "which is a number")],
    "2oo2(fan, ch4)": [(10, "which is a number")],
    "abs(ch4)": [(0, "which is a number")],
    "3": [(0, "which is a number")],
    "fan > 1": [(0, "a boolean tag")],
    "fan = 1": [(0, 'did you mean "fan"?')],
    "fan <> 1": [(0, 'did you mean "not fan"?')],
    "1 = fan": [(4, 'did you mean "fan"?')],
    "fan + 1 > 1": [(0, "a boolean tag")],
    "-fan > 1": [(1, "a boolean tag")],
    "abs(fan) > 1": [(4, "a boolean tag")],
    "(fan and fan) > 1": [(1, "found a condition")],
    "ch4 + (ch4 > 1) > 2": [(7, "found a condition")],
    "bad(ch4 > 1)": [(4, "found a condition")],
    "1 > 0": [(0, "expected a tag in the comparison")],
    "ch5 > 1": [(0, 'did you mean "ch4"?')],
    "ch4-speed > 1": [(0, "ch4 - speed")],
    "sys.slow.connected": [(0, "expected a device of the guard")],
    "ch4 > 1 m/s": [(6, 'expected "%CH4"')],
    "ch4 > 1 %CH4 until < 0.5 m": [(21, 'expected "%CH4"')],
    "ch4 + speed > 1": [(0, '"%CH4" beside "m/s"')],
    "ch4 > speed": [(0, '"%CH4" beside "m/s"')],
    "plain > 3 m": [(8, "expected no unit")],
    "max(ch4, 1 m) > 1": [(9, 'expected "%CH4"')],
    "ch4 > 4": [(6, "never reaches")],
    "ch4 >= 4.01": [(7, "never reaches")],
    "ch4 < 0": [(6, "never reaches")],
    "ch4 <= -1": [(7, "never reaches")],
    "ch4 = 9": [(6, "never reaches")],
    "ch4 > 1 until > 0.5": [(16, "expected < or <=")],
    "ch4 < 1 until < 2": [(16, "expected > or >=")],
    "ch4 > 1 until < 2": [(16, "true together")],
    "speed < 1 until > 0.5": [(18, "true together")],
    "ch4 >= 1 until <= 1": [(18, "true together")],
    "ch4 = 1 until < 1": [(0, "behind <, <=, > or >=")],
    "1 <= ch4 until < 1": [(0, "expected the tag there")],
    "ch4 > 1 until < fan": [(16, "expected a number")],
    "mean(fan, 60s) > 0.5": [(5, "a boolean tag")],
    "mean(ch5, 60s) > 0.5": [(5, 'did you mean "ch4"?')],
    "mean(ch4, 11m) > 0.5": [(10, "found 11m, expected at most 10m in an interlock")],
    "mean(ch4, 60s)": [(0, "which is a number")],
    "rate(ch4, 10s) > 0.1 %CH4": [(17, 'expected "%CH4/s"')],
    "rate(ch4, 10s) > speed": [(0, '"%CH4/s" beside "m/s"')],
    "mean(ch4, 10s) > 4": [(17, "never reaches")],
    "lowest(ch4, 10s) < 0": [(19, "never reaches")],
    "highest(ch4, 10s) > 1 until > 0.5": [(30, "expected < or <=")],
    "(ch4) hold 2s": [(1, "which is a number")],
    "what and ever > 1": [(0, "expected a tag"), (9, "expected a tag")],
}


@pytest.mark.parametrize("text", GOOD)
def test_good(text: str) -> None:
    assert not resolve(parse(text), SCOPE).flaws


@pytest.mark.parametrize("text", FLAWED)
def test_flawed(text: str) -> None:
    found = resolve(parse(text), SCOPE).flaws
    assert [flaw.at for flaw in found] == [at for at, _ in FLAWED[text]]
    for flaw, (_, part) in zip(found, FLAWED[text], strict=True):
        assert part in flaw.text


def test_a_site_with_unread_tags_blames_no_name() -> None:
    scope = Scope(symbols={}, open=True)
    assert not resolve(parse("a > 1 and b"), scope).flaws


@given(conditions())
@settings(max_examples=200, deadline=None)
def test_whatever_is_well_typed_passes(condition: tree.Expr) -> None:
    """Trees that are made right have no flaw of type or name."""
    symbols = {name: Symbol(Kind.NUMBER) for name in NUMBERS}
    symbols |= {name: Symbol(Kind.BOOLEAN) for name in BOOLEANS}
    said = [flaw.text for flaw in resolve(condition, Scope(symbols)).flaws]
    allowed = ("until", "together", "expected the tag there", "a tag in the comparison")
    assert [text for text in said if not any(part in text for part in allowed)] == []
