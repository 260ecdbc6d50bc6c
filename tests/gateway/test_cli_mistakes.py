"""What a user can get wrong ends in one line with the reason, never in a traceback."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.__main__ import main
from gateway.cli import audit, export, letters
from gateway.store import history_file, ledger_reader
from gateway.store.ledger import Ledger
from gateway.times import utc_ns_of
from gateway.view.history_query import HistoryQuery
from tests.gateway.test_store_history import open_history, second

BEYOND = "9" * 20
NOBODY = 65_534
LOADED = (audit, export, letters, history_file, ledger_reader)  # before the user is changed


@pytest.fixture
async def state(tmp_path: Path) -> Path:
    """A state directory as a gateway leaves it."""
    history = await open_history(tmp_path)
    await second(history, 1)
    await history.close()
    ledger = await Ledger.open(tmp_path / "ledger.db", "shaft", reserve_bytes=0)
    for number in range(3):
        await ledger.command("test", "bypass", f"target-{number}", {})
    await ledger.close()
    return tmp_path


@pytest.fixture
def barred(state: Path) -> Iterator[Path]:
    """The same, which this user may not enter."""
    mode = state.stat().st_mode
    state.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield state
    finally:
        os.seteuid(user)
        state.chmod(stat.S_IMODE(mode))


def said(words: str, state: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code and the lines of stderr."""
    code = main([*words.split(), "--state-dir", str(state), "--runtime-dir", str(state)])
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("words", ["audit show", "audit verify", "export", "letters"])
def test_a_directory_that_may_not_be_entered(
    barred: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = said(words, barred, capsys)
    assert code == 1
    assert len(lines) == 1
    assert str(barred) in lines[0]
    assert "Permission denied" in lines[0]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (f"letters show {BEYOND}", 1),
        (f"letters list --after {BEYOND}", 1),
        (f"audit show --before {BEYOND}", 0),
        ("export --from 0001-01-01 --to 9999-12-31", 0),
        ("export --from 0001-01-01 --to 9999-12-31 --resolution 5m", 0),
        ("export --output .", 1),
        ("export --output ..", 1),
        ("export --output /", 1),
    ],
)
async def test_numbers_times_and_names_that_cannot_be(
    state: Path, words: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found, lines = said(words, state, capsys)
    assert found == code, lines
    assert len(lines) == bool(code)


async def test_an_entry_before_any_number_is_among_the_newest(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(f"audit show --json --before {BEYOND}", state, capsys)[0] == 0
    main(["audit", "show", "--json", "--state-dir", str(state)])
    assert capsys.readouterr().out.count("target-") == 3


@pytest.mark.parametrize(("year", "utc_ns"), [("9999", 2**63 - 1), ("0001", -(2**63) + 1)])
async def test_a_time_that_no_history_has(state: Path, year: str, utc_ns: int) -> None:
    assert utc_ns_of(f"{year}-12-31", 0) == utc_ns
    for words in ({"from": f"{year}-12-31"}, {"to": f"{year}-12-31"}):
        answer = await HistoryQuery(state / "history.db").answer({"tag": "a", **words})
        assert answer["complete"]


async def test_a_body_that_somebody_stored_as_text(
    state: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with closing(sqlite3.connect(state / "ledger.db", isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        sql = "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'audit'"
        database.execute(sql)
    with closing(sqlite3.connect(state / "ledger.db", isolation_level=None)) as database:
        database.execute("UPDATE audit SET body = CAST(body AS TEXT) WHERE seq = 2")
    assert main(["audit", "show", "--raw", "--state-dir", str(state)]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/a/file"), "/a/file: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_whatever_the_system_refuses(
    error: OSError,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(_: object) -> int:
        raise error

    monkeypatch.setattr(audit, "paths_of", refused)
    code, lines = said("audit show", tmp_path, capsys)
    assert code == 1
    assert lines[-1].endswith(text)


def test_a_standard_stream_that_is_closed_is_no_traceback() -> None:
    command = f"exec {sys.executable} -m gateway check config/mine-face.toml"
    for closed in (">&-", "2>&-", "<&- >&-"):
        done = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), closed
