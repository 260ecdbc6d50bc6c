"""The table of faults in README.md: every row is there, and every test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "tests" / "README.md"
ROWS = [
    *(f"D{n}" for n in range(1, 27)),
    *(f"F{n}" for n in range(1, 21)),
    *(f"P{n}" for n in range(1, 18)),
    *(f"U{n}" for n in range(1, 14) if n != 9),
    *(f"S{n}" for n in (8, 9, 10, 11, 13)),
]
COLUMNS = ["Row", "What must hold", "Guard", "Driver", "Other"]
NAMED = re.compile(r"`(tests/[a-z_/]+/test_[a-z0-9_]+\.py)::(test_[a-z0-9_]+)`")


def table() -> list[list[str]]:
    """The cells of each row, the heading first."""
    lines = README.read_text().splitlines()
    start = lines.index(f"| {' | '.join(COLUMNS)} |")
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


@cache
def names_in(path: str) -> frozenset[str]:
    """Every test that a file has and that a plain run runs."""
    file = ROOT / path
    if not file.exists():
        return frozenset()
    found = ast.walk(ast.parse(file.read_text()))
    functions = [n for n in found if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(f.name for f in functions if not any(map(_is_long, f.decorator_list)))


def _is_long(decorator: ast.expr) -> bool:
    return ast.unparse(decorator) == "pytest.mark.campaign"


def test_every_row_is_there_once_and_has_tests() -> None:
    heading, *rows = table()
    assert heading == COLUMNS
    assert [row[0] for row in rows] == ROWS
    for ident, says, *cells in rows:
        assert len(cells) == 3, ident
        assert says, ident
        assert any(cells), f"{ident} has no test"


def test_every_test_that_is_named_exists_and_runs_by_default() -> None:
    missing, named = [], 0
    for ident, _, *cells in table()[1:]:
        for cell in filter(None, cells):
            for one in cell.split("<br>"):
                match = NAMED.fullmatch(one)
                assert match, f"{ident}: {one} is not the name of a test"
                named += 1
                if match[2] not in names_in(match[1]):
                    missing.append(f"{ident}: {one}")
    assert missing == []
    assert named >= 2 * len(ROWS)
