"""Cells that a spreadsheet would take for a formula, written so that it does not."""

import re
from typing import Final

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_GUARDED: Final = re.compile(r"'+[=+\-@\t\r]")


def guarded(cell: str) -> str:
    """A text that no spreadsheet takes for a formula: with an apostrophe before it.

    What looks guarded already gets one more, so that ``unguarded`` gives every text back.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """The text without the apostrophe that guards it."""
    return cell[1:] if _GUARDED.match(cell) else cell
