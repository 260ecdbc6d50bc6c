"""That the saboteurs still are what they were; whether they are caught says ``make saboteurs``."""

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.saboteurs.table import HERE, ROOT, Saboteur, saboteurs

LINES_MAX = 10  # of a patch: a saboteur breaks one rule and nothing else
FEWEST = 28


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources that patches may change, where a dry run leaves nothing behind."""
    copy = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / "fastpath", copy / "fastpath", ignore=ignored)
    return copy


@pytest.mark.parametrize("one", saboteurs(), ids=lambda one: one.name)
def test_it_applies_and_is_small(one: Saboteur, tree: Path) -> None:
    command = ["patch", "-p1", "--fuzz=2", "--dry-run", "-i", str(one.patch)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    lines = one.patch.read_text().splitlines()
    changed = [line for line in lines[2:] if line.startswith(("+", "-"))]
    assert 1 <= len(changed) <= LINES_MAX
    assert one.rule.endswith(".")


@pytest.mark.parametrize("one", saboteurs(), ids=lambda one: one.name)
def test_its_test_exists(one: Saboteur) -> None:
    path, name = one.test.split("[")[0].split("::")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    defined = ast.parse((ROOT / path).read_text()).body
    assert name in {node.name for node in defined if isinstance(node, functions)}


def test_the_table_and_the_folder_agree() -> None:
    listed = [one.patch.name for one in saboteurs()]
    assert listed == sorted(path.name for path in HERE.glob("*.patch"))
    assert len(listed) >= FEWEST
