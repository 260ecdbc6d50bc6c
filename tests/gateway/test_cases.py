"""Site files in folders: a broken one with every error line, a good one with what check says.

A case is a folder in ``tests/cases`` with ``site.toml`` and ``expected.err`` or ``expected.txt``;
credentials stand in ``credentials/``.
"""

import os
import shutil
from pathlib import Path

import pytest

from gateway.check import Checked, check_site
from gateway.errors import ConfigError

CASES = Path(__file__).parent.parent / "cases"
BROKEN = sorted(path.parent.name for path in CASES.glob("*/expected.err"))
GOOD = sorted(path.parent.name for path in CASES.glob("*/expected.txt"))


def check_case(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """Check a copy, whose files have the rights that credentials must have."""
    copy = tmp_path / name
    shutil.copytree(CASES / name, copy)
    for path in (copy / "credentials").rglob("*"):
        os.chmod(path, 0o700 if path.is_dir() else 0o600)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return check_site(Path("site.toml"), credentials_dir=Path("credentials"))


def said_of(checked: Checked) -> str:
    """The summary without the hash, which any change of the compiler may change, and warnings."""
    summary = [line for line in checked.summary.text().split("\n") if "program " not in line]
    return "\n".join([*summary, "", *checked.warnings, ""])


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        check_case(name, tmp_path, monkeypatch)
    expected = (CASES / name / "expected.err").read_text().splitlines()
    assert caught.value.errors == expected


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = check_case(name, tmp_path, monkeypatch)
    assert said_of(checked) == (CASES / name / "expected.txt").read_text()


def test_every_folder_is_a_case() -> None:
    assert len(BROKEN) >= 20
    assert {path.name for path in CASES.iterdir()} == {*BROKEN, *GOOD}
    assert not {*BROKEN} & {*GOOD}
