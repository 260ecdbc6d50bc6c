"""The table of saboteurs: which patch breaks which rule, and the test that must notice."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Saboteur:
    """One patch (a file of this folder), the rule that it breaks, the node id of its test."""

    patch: Path
    rule: str
    test: str

    @property
    def name(self) -> str:
        """The patch without its ending."""
        return self.patch.stem


def saboteurs() -> list[Saboteur]:
    """All of them, in the table's order."""
    table = tomllib.loads((HERE / "table.toml").read_text())
    return [Saboteur(HERE / row["patch"], row["rule"], row["test"]) for row in table["saboteur"]]
