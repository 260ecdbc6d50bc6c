"""Text of a condition -> tree, with every flaw that can be told from the text alone.

The grammar is ``grammar.lark``; the parser works bottom-up in linear time. Names, types and units
are ``infer``'s.
"""

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Final

from lark import Lark, ParseTree, Token, Tree, UnexpectedCharacters, UnexpectedToken

from gateway.logic.build import DEPTH_MAX, Builder, Flaw
from gateway.logic.tree import Expr
from gateway.site.complaints import did_you_mean, shown
from gateway.site.durations import near_duration

TEXT_MAX: Final = 8_192  # characters
KEYWORDS: Final = ("and", "or", "not", "until", "for", "hold")

_SLIPS: Final = {
    "==": "=", "!=": "<>", "=>": ">=", "=<": "<=", "&&": "and", "||": "or",
    "&": "and", "|": "or", "!": "not", "≥": ">=", "≤": "<=", "≠": "<>",
    "（": "(", "）": ")", "，": ",", "、": ",", "×": "*", "÷": "/", "–": "-", "−": "-",
    "AND": "and", "OR": "or", "NOT": "not", "UNTIL": "until", "FOR": "for",
    "And": "and", "Or": "or", "Not": "not",
}  # fmt: skip
_SLIPPED_WORD: Final = re.compile(r"(?<![\w.-])(AND|OR|NOT|UNTIL|FOR|And|Or|Not)\s*\Z")
_ONE_BLANK: Final = "; a unit follows its number after one blank, as in 10 m"
_OPERAND: Final = {"NAME", "NUMBER", "QUANTITY", "VOTE", "LPAR", "NOT"}
_WORDS: Final = {
    "DURATION": 'a duration such as "2s"',
    "COMPARE": 'a comparison such as "< 1.0"',
    "RPAR": '")"',
    "COMMA": '","',
}


class ConditionError(ValueError):
    """A condition cannot be read; ``flaws`` has each error."""

    def __init__(self, flaws: tuple[Flaw, ...]) -> None:
        super().__init__("; ".join(flaw.text for flaw in flaws))
        self.flaws = flaws


@dataclass(frozen=True, slots=True)
class Reading:
    """A condition as far as it could be read. Without flaws ``tree`` is never None."""

    tree: Expr | None
    flaws: tuple[Flaw, ...] = ()


def parse(text: str) -> Expr:
    """The tree of a condition. Raises ConditionError."""
    reading = read(text)
    if reading.tree is None or reading.flaws:
        raise ConditionError(reading.flaws)
    return reading.tree


@lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    """Read a condition, telling what is wrong with its text."""
    if len(text) > TEXT_MAX:
        return _failed(0, f"found {len(text)} characters, expected at most {TEXT_MAX}")
    try:
        parsed = _parser().parse(text)
    except UnexpectedToken as error:
        return Reading(None, (_unexpected_token(text, error),))
    except UnexpectedCharacters as error:
        return Reading(None, (_unexpected_text(text, int(error.pos_in_stream or 0)),))
    if _too_deep(parsed):
        return _failed(0, f"found more than {DEPTH_MAX} levels, expected fewer")
    builder = Builder(text)
    found = builder.build(parsed)
    return Reading(found, tuple(sorted(set(builder.flaws))))


@cache
def _parser() -> Lark:
    grammar = resources.files("gateway.logic").joinpath("grammar.lark").read_text("utf-8")
    return Lark(grammar, parser="lalr", lexer="basic", propagate_positions=True)


def _failed(at: int, text: str) -> Reading:
    return Reading(None, (Flaw(at, text),))


def _too_deep(parsed: ParseTree | Token) -> bool:
    waiting: list[tuple[Tree[Token] | Token | None, int]] = [(parsed, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > 2 * DEPTH_MAX:
            return True
        if isinstance(node, Tree):
            waiting.extend((child, depth + 1) for child in node.children)
    return False


def _unexpected_token(text: str, error: UnexpectedToken) -> Flaw:
    token: Token = error.token
    accepted = set(error.accepts or error.expected)
    if token.type == "$END":
        return Flaw(len(text.rstrip()), f"found the end, expected {_expected(accepted)}")
    at = token.start_pos or 0
    slip = _slip(text, at)
    if slip is not None:
        return _slipped(text, at, slip)
    if "AND" in accepted and (slipped := _SLIPPED_WORD.search(text[:at])):
        return _slipped(text, at, (slipped.start(1), slipped[1]))
    hint = _advice(text, token, accepted)
    if not hint and token.type == "NAME":
        hint = did_you_mean(str(token), [word for word in KEYWORDS if word.upper() in accepted])
    return Flaw(at, f"found {shown(str(token))}, expected {_expected(accepted)}{hint}")


def _unexpected_text(text: str, at: int) -> Flaw:
    slip = _slip(text, at)
    if slip is not None:
        return _slipped(text, at, slip)
    word = re.match(r"[^\s(),]+|.", text[at:], re.DOTALL)
    found = shown(word[0] if word else text[at])
    if re.search(r"(?:for|hold)\s+\Z", text[:at]):
        meant = near_duration(word[0]) if word else None
        hint = f'; did you mean "{meant}"?' if meant else ""
        return Flaw(at, f"found {found}, expected {_WORDS['DURATION']}{hint}")
    if re.match(r"[0-9]+oo\s*\(", text[at:]):
        return Flaw(at, f"found {found}, expected MooN such as 2oo3")
    vote = re.match(r"([0-9]+)[A-Za-z]+([0-9]+)\s*\(", text[at:])
    if vote:
        near = f"{vote[1]}oo{vote[2]}"
        return Flaw(at, f'found {found}, expected MooN; did you mean "{near}"?')
    if re.search(r"[0-9]\Z", text[:at]) or re.match(r"[0-9.]+[^\W\d_%‰°]", text[at:]):
        return Flaw(at, f"found {found}, expected a number{_ONE_BLANK}")
    return Flaw(at, f"found {found}, expected a tag, a number or an operator")


def _slip(text: str, at: int) -> tuple[int, str] | None:
    """A sign of another language at ``at``, or ending there: its place and the sign."""
    for sign in sorted(_SLIPS, key=len, reverse=True):
        for start in (at, at - 1):
            if start >= 0 and text.startswith(sign, start) and _stands_alone(text, start, sign):
                return start, sign
    return None


def _stands_alone(text: str, start: int, sign: str) -> bool:
    if not sign.isalpha():
        return len(sign) > 1 or text[start] == sign
    return re.match(r"[A-Za-z]+", text[start:]).group() == sign  # type: ignore[union-attr]


def _slipped(text: str, at: int, slip: tuple[int, str]) -> Flaw:
    start, sign = slip
    right = _SLIPS[sign]
    return Flaw(start, f'found {shown(sign)}, expected "{right}"')


def _expected(accepted: set[str]) -> str:
    if accepted == {"LPAR"}:
        return '"("'
    operator = "AND" in accepted
    words = []
    if operator:
        words.append("an operator such as and, or, >=, for")
    elif accepted & _OPERAND:
        words.append('a tag, a number, "not" or "("' if "NOT" in accepted else "a tag or a number")
    else:
        words += [word for name, word in _WORDS.items() if name in accepted]
    words += ['")"'] if operator and "RPAR" in accepted else []
    words += ["the end"] if "$END" in accepted else []
    return " or ".join(words)


def _advice(text: str, token: Token, accepted: set[str]) -> str:
    at = token.start_pos or 0
    if token.type == "DURATION" and accepted & _OPERAND:
        return _ONE_BLANK
    if token.type == "NAME" and re.search(r"[0-9]\s{2,}\Z", text[:at]):
        return _ONE_BLANK
    if taken := _word_taken_for_unit(text[:at]):
        return taken
    if token.type == "NAME" and (minus := re.search(r"([\w.]+)-\s+\Z", text[:at])):
        return f"; a minus has blanks around it: {minus[1]} - {token}"
    if token.type == "COMPARE" and "COMPARE" not in accepted and "AND" in accepted:
        return "; two comparisons are joined by and: 1 < x and x < 5"
    if token.type == "COMMA" and re.search(r"[0-9]\Z", text[:at]):
        return "; a decimal point is a dot"
    if "DURATION" in accepted:
        near = near_duration(str(token)) or near_duration(f"{token}s")
        return f'; did you mean "{near}"?' if near else ""
    return ""


def _word_taken_for_unit(before: str) -> str:
    """``x > 5 unti < 3``: what stands behind a number and a blank reads as its unit."""
    unit = re.search(r"[0-9] ([A-Za-z]+)\s*\Z", before)
    near = did_you_mean(unit[1], KEYWORDS) if unit and unit[1] not in KEYWORDS else ""
    return f"; {shown(unit[1])} reads as a unit{near}" if unit and near else ""
