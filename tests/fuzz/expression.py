"""Conditions: any text is read or refused with flaws, and what is read means one thing.

Input: 0 and UTF-8 text, or 1 and words of the language, a byte each.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastpath import blob
from fastpath.codes import Owner, Quality, RecordMode
from fastpath.program import Conditions
from gateway.logic import tree
from gateway.logic.canonical import canonical
from gateway.logic.emit import Emitter
from gateway.logic.infer import resolve
from gateway.logic.kinds import Kind, Scope, Symbol
from gateway.logic.parse import TEXT_MAX, parse, read

MAX_BYTES = TEXT_MAX + 64
SYMBOLS = {
    "p": Symbol(Kind.NUMBER, "MPa", (0.0, 4.0)),
    "t": Symbol(Kind.NUMBER, "°C", (-40.0, 200.0)),
    "ch4": Symbol(Kind.NUMBER, "%CH4", (0.0, 4.0)),
    "n": Symbol(Kind.NUMBER, ""),
    "on": Symbol(Kind.BOOLEAN, ""),
    "fan.run": Symbol(Kind.BOOLEAN, ""),
}
SCOPE = Scope(SYMBOLS)
SLOTS = {name: slot for slot, name in enumerate(SYMBOLS)}
WORDS = (
    *SYMBOLS, "and", "or", "not", "until", "for", "hold", "(", ")", "(", ")", ",",
    "+", "-", "*", "/", "<", "<=", ">", ">=", "=", "<>", "1oo1(", "1oo2(", "2oo3(",
    "abs(", "min(", "max(", "bad(", "good(",
    "mean(", "rate(", "delta(", "lowest(", "highest(", "total(",
    "0", "1", "1.5", "-2", "1e3", "1e-7", "1e308", "100", "2s", "500ms", "10m", "0.5h", "1d", "7ns",
    "1 MPa", "5 kPa", "20 °C", "300 K", "1 %CH4", "3 m", "n > 1", "on and", "p >= 1.5 until < 1",
    "unknown",
)  # fmt: skip
SECOND = 1_000_000_000


def run(data: bytes) -> int:
    """Read; what is good goes all the way into a program and through two scans."""
    text = data[1:].decode("utf-8", "replace")
    if data[:1] != b"\0":
        text = " ".join(WORDS[each % len(WORDS)] for each in data[1:])
    reading = read.__wrapped__(text)
    for flaw in reading.flaws:
        assert 0 <= flaw.at <= len(text)
        assert flaw.text
        assert "\n" not in flaw.text
    if reading.tree is None:
        assert reading.flaws
        return 1
    number = resolve(reading.tree, SCOPE, number=True)
    checked = resolve(reading.tree, SCOPE)
    if reading.flaws:
        return 2
    if checked.flaws:
        return 3 if number.flaws else 4
    _said_again(checked.tree)
    return 5 + min(500, _emitted(checked.tree))


def _said_again(node: tree.Expr) -> None:
    text = canonical(node)
    if len(text) > TEXT_MAX:  # of few words many parentheses: nobody reads it again
        return

    def bare(each: tree.Expr) -> tree.Expr:
        return tree.Number(each.value) if isinstance(each, tree.Number) else each

    assert parse(text) == tree.mapped(node, bare)
    assert canonical(parse(text)) == text


def _emitted(node: tree.Expr) -> int:
    program = blob.Program(1, tick_ns=SECOND // 100, start_within_ns=SECOND)
    program.tags = [
        blob.Tag(slot + 1, owner=Owner.GATEWAY, record=RecordMode.ALL) for slot in SLOTS.values()
    ]
    emitter = Emitter(SLOTS)
    emitter.begin("fuzz")
    register = emitter.truth(node)
    program.code, program.nodes, program.windows = emitter.code, emitter.nodes, emitter.windows
    scan = Conditions(blob.build(program))
    for now in (SECOND, 2 * SECOND):
        for slot in SLOTS.values():
            scan.write(slot, 1.0, Quality.GOOD, 0, now)
        scan.evaluate(now)
        scan.truth(register)
    return len(program.code)


def seeds() -> Iterator[bytes]:
    """The conditions of the example sites; a word of each kind."""
    for path in sorted((Path(__file__).parents[2] / "config").glob("*.toml")):
        for text in _conditions(tomllib.loads(path.read_text())):
            yield b"\0" + text.encode()
    for text in (
        "(p >= 1.5 MPa until < 1 MPa) or 2oo3(p > 1, t > 20 °C, on) for 2s",
        "mean(ch4, 60s) >= 1.5 until < 1.0 hold 10s", "not bad(fan.run) and max(p, 2) > n / 3",
        "((((n))))", "n > -(-1)", "p => 1", "on && on", "p > 1,5", "p > 5kPa", "(" * 80,
    ):  # fmt: skip
        yield b"\0" + text.encode()
    for first in range(0, len(WORDS), 8):
        yield bytes((1, *range(first, min(first + 8, len(WORDS)))))


def _conditions(site: Any) -> Iterator[str]:
    for interlock in site.get("interlock", ()):
        yield from (interlock[key] for key in ("cause", "permissive") if key in interlock)
    yield from (tag["value"] for tag in site.get("tag", ()) if isinstance(tag.get("value"), str))
