"""Tables of bypasses, of values by hand and of proof tests."""

from collections.abc import Iterable, Sequence

from gateway.cli.table import moment, show_table
from gateway.times import span_words
from gateway.view.shapes import BypassRow, InterlockRow, SubstitutionRow

_NS_PER_S = 1_000_000_000


def print_bypasses(rows: Iterable[tuple[str, BypassRow | None]]) -> None:
    """Those that are live; nothing where none is."""
    cells = [
        (ident, moment(row.until), span_words(row.left_s * _NS_PER_S), row.by, row.reason)
        for ident, row in rows
        if row is not None
    ]
    if cells:
        show_table("BYPASSED", ("id", "until", "left", "by", "reason"), cells)


def print_substitutions(rows: Iterable[tuple[str, float | None, SubstitutionRow | None]]) -> None:
    """Values by hand; nothing where there is none."""
    cells = [
        (ident, value, moment(row.until), span_words(row.left_s * _NS_PER_S), row.by, row.reason)
        for ident, value, row in rows
        if row is not None
    ]
    if cells:
        show_table("BY HAND", ("tag", "value", "until", "left", "by", "reason"), cells)


def print_proofs(rows: Sequence[InterlockRow]) -> None:
    """Demands, and what proves that the outputs still move."""
    cells = []
    for row in rows:
        proof = row.proof
        due = "" if proof is None else ("OVERDUE" if proof.overdue else moment(proof.due))
        passed = "-" if proof is None else moment(proof.last_passed)
        made = proof.made if proof else 0
        cells.append((row.id, row.demands, row.withheld_demands, made, passed, due))
    headings = ("interlock", "demands", "withheld", "proof tests", "last passed", "next due")
    show_table("demands and proof tests", headings, cells)
