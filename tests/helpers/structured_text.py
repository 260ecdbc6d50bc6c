"""Runs a function block of Structured Text as it is written, cycle by cycle, on a clock of its own.

Knows what the blocks in config/plc use: IF, assignments, TON, comparisons, AND OR NOT, whole
numbers. Anything else is refused, so that nothing runs otherwise than a PLC would read it.
"""

import re
from pathlib import Path
from types import CodeType
from typing import Any

_TOKEN = re.compile(r"\s*(:=|<>|<=|>=|=>|[-+*/<>=(),;:.]|\d+|[A-Za-z_]\w*)")
_WORDS = {"AND": " and ", "OR": " or ", "NOT": " not ", "TRUE": "True", "FALSE": "False"}
_SYMBOLS = {"=": "==", "<>": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "+": "+", "(": "(",
            ")": ")"}  # fmt: skip
_DEFAULTS: dict[str, Any] = {"BOOL": False, "UINT": 0, "INT": 0, "TIME": 0}


class Ton:
    """IEC 61131-3's on-delay timer; times in ms."""

    def __init__(self) -> None:
        self.Q = False
        self._since_ms: int | None = None

    def __call__(self, now_ms: int, *, IN: bool, PT: int) -> None:
        if not IN:
            self._since_ms = None
        elif self._since_ms is None:
            self._since_ms = now_ms
        self.Q = self._since_ms is not None and now_ms - self._since_ms >= PT


class FunctionBlock:
    """One instance; its variables are attributes. ``cycle(now_ms, **inputs)`` calls it."""

    def __init__(self, source: Path) -> None:
        text = re.sub(r"\(\*.*?\*\)", " ", source.read_text(), flags=re.DOTALL)
        declared, body = (
            text.split("END_VAR", text.count("END_VAR"))[:-1],
            text.rpartition("END_VAR")[2],
        )
        self.inputs: set[str] = set()
        for block in declared:
            self._declare(block)
        self._code = _compiled(body.replace("END_FUNCTION_BLOCK", " "))

    def cycle(self, now_ms: int, **inputs: Any) -> None:
        """One cycle of the task that calls it."""
        assert set(inputs) == self.inputs
        vars(self).update(inputs)
        names = {"self": self, "now_ms": now_ms}
        exec(self._code, {"__builtins__": {}}, names)  # noqa: S102  a file of ours, translated above

    def _declare(self, block: str) -> None:
        kind = re.search(r"VAR(_INPUT|_OUTPUT| CONSTANT|)", block)
        assert kind is not None
        pattern = r"(\w+)\s*:\s*(BOOL|UINT|INT|TIME|TON)\s*(?::=\s*(\d+)\s*)?;"
        found = re.findall(pattern, block)
        assert len(found) == block.count(";")
        for name, type_name, value in found:
            start = Ton() if type_name == "TON" else _DEFAULTS[type_name]
            setattr(self, name, int(value) if value else start)
            if kind[1] == "_INPUT":
                self.inputs.add(name)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def _compiled(body: str) -> CodeType:
    tokens = _TOKEN.findall(body)
    assert "".join(tokens) == re.sub(r"\s+", "", body)
    lines = _statements(tokens)
    return compile("\n".join(lines), "structured text", "exec")


def _statements(tokens: list[str]) -> list[str]:
    lines: list[str] = []
    depth = 0
    at = 0
    while at < len(tokens):
        word = tokens[at]
        if word in {"IF", "ELSIF"}:
            end = tokens.index("THEN", at)
            depth += word == "IF"
            keyword = "if" if word == "IF" else "elif"
            lines.append(f"{'    ' * (depth - 1)}{keyword} {_expression(tokens[at + 1 : end])}:")
            at = end + 1
        elif word == "ELSE":
            lines.append(f"{'    ' * (depth - 1)}else:")
            at += 1
        elif word == "END_IF":
            assert tokens[at + 1] == ";"
            depth -= 1
            at += 2
        else:
            end = tokens.index(";", at)
            lines.append(f"{'    ' * depth}{_simple(tokens[at:end])}")
            at = end + 1
    assert depth == 0
    return lines


def _simple(tokens: list[str]) -> str:
    """An assignment, or the call of a timer."""
    if tokens[1] == ":=":
        return f"self.{tokens[0]} = {_expression(tokens[2:])}"
    assert tokens[1] == "("
    assert tokens[-1] == ")"
    comma = tokens.index(",")
    assert tokens[2:4] == ["IN", ":="]
    assert tokens[comma + 1 : comma + 3] == ["PT", ":="]
    when, time = _expression(tokens[4:comma]), _expression(tokens[comma + 3 : -1])
    return f"self.{tokens[0]}(now_ms, IN={when}, PT={time})"


def _expression(tokens: list[str]) -> str:
    out = []
    for i, token in enumerate(tokens):
        if token in _WORDS:
            out.append(_WORDS[token])
        elif token in _SYMBOLS:
            out.append(_SYMBOLS[token])
        elif token == ".":
            out.append(".")
        elif token.isdigit() or (i and tokens[i - 1] == "."):
            out.append(token)
        else:
            assert token.isidentifier(), token
            out.append(f"self.{token}")
    return "".join(out)
