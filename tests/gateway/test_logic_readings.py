"""The table of readings: what conditions mean, and what is said of texts that mean nothing.

The table stands in ``readings.toml``; it tests the parser apart from everything that evaluates.
"""

import tomllib
from pathlib import Path

import pytest

from gateway.logic.canonical import canonical
from gateway.logic.parse import ConditionError, parse

TABLE = tomllib.loads((Path(__file__).parent / "readings.toml").read_text("utf-8"))


@pytest.mark.parametrize(("text", "reading"), TABLE["readings"])
def test_reading(text: str, reading: str) -> None:
    assert canonical(parse(text)) == reading
    assert canonical(parse(reading)) == reading


@pytest.mark.parametrize(("text", "errors"), [(row[0], row[1:]) for row in TABLE["refused"]])
def test_refused(text: str, errors: list[str]) -> None:
    with pytest.raises(ConditionError) as caught:
        parse(text)
    assert [f"column {flaw.at + 1}: {flaw.text}" for flaw in caught.value.flaws] == errors


def test_the_table_is_large_and_says_nothing_twice() -> None:
    texts = [row[0] for rows in TABLE.values() for row in rows]
    assert len(texts) == len(set(texts))
    assert len(TABLE["readings"]) >= 150
    assert len(TABLE["refused"]) >= 100
