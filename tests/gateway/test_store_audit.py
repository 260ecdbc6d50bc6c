"""The audit's chain: recomputed by other tools, and every kind of change to it found."""

import asyncio
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main
from gateway.cli.audit import verdict_of
from gateway.store.audit import AuditEntry
from gateway.store.ledger import Ledger
from gateway.store.ledger_reader import LedgerReader
from gateway.store.migration import copies
from tests.helpers.audits import audit_entries

OLD = Path(__file__).parent.parent / "stores" / "ledger-v1.db"
OLD_HEAD = "82f14503aeb75eb1f59a4ae2f3f14253b58de98c32700ba7406a9134e0dacf20"
ENTRIES = 6
MOVE = "UPDATE audit SET seq = ? WHERE seq = ?"
COLUMNS = {  # how each is read and written, byte by byte
    "kind": (
        "SELECT CAST(kind AS BLOB) FROM audit WHERE seq = ?",
        "UPDATE audit SET kind = CAST(? AS TEXT) WHERE seq = ?",
    ),
    "action": (
        "SELECT CAST(action AS BLOB) FROM audit WHERE seq = ?",
        "UPDATE audit SET action = CAST(? AS TEXT) WHERE seq = ?",
    ),
    "body": (
        "SELECT body FROM audit WHERE seq = ?",
        "UPDATE audit SET body = ? WHERE seq = ?",
    ),
    "hash": (
        "SELECT hash FROM audit WHERE seq = ?",
        "UPDATE audit SET hash = ? WHERE seq = ?",
    ),
}
DOCUMENTED = r"""
prev=; while IFS= read -r body; do
  test "$(jq -r .prev <<<"$body")" = "$prev" || echo "does not fit: $body"
  prev=$(printf %s "$body" | sha256sum | cut -d' ' -f1)
done; echo "$prev"
"""


async def filled(directory: Path) -> tuple[Ledger, list[str]]:
    """A ledger with a short audit of every sort, and the heads that it had."""
    ledger = await Ledger.open(directory / "ledger.db", "shaft", reserve_bytes=0)
    heads = [ledger.audit_head]
    words = {
        "reason": '瓦斯 "quoted" \\ \t\u0007 🚨',
        "b": 1.5,
        "a": [1, None, {"z": 1, "y": True}],
    }
    seq = await ledger.command("uid:ann", "reset", "face", words)
    heads.append(ledger.audit_head)
    await ledger.command_result(seq, 1, "done")
    heads.append(ledger.audit_head)
    await ledger.proof_test("uid:bob", "face", {"passed": True})
    heads.append(ledger.audit_head)
    for target in ("one", "two"):
        await ledger.command("uid:ann", "trip", target, {})
        heads.append(ledger.audit_head)
    return ledger, heads


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A ledger that was closed, and the heads that it had."""
    directory = tmp_path_factory.mktemp("original")

    async def made() -> list[str]:
        ledger, heads = await filled(directory)
        await ledger.close()
        return heads

    return directory / "ledger.db", asyncio.run(made())


@pytest.fixture
def heads(original: tuple[Path, list[str]], tmp_path: Path) -> list[str]:
    """The heads of the ledger in ``tmp_path``."""
    path, found = original
    shutil.copy(path, tmp_path / path.name)
    return found


def verdict(
    directory: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, dict[str, Any]]:
    code = main(["audit", "verify", "--json", "--state-dir", str(directory), *options])
    return code, json.loads(capsys.readouterr().out)


def edit(directory: Path, *statements: tuple[Any, ...]) -> None:
    connection = sqlite3.connect(directory / "ledger.db", isolation_level=None)
    for sql, *parameters in statements:
        connection.execute(sql, parameters)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def bodies(path: Path) -> list[bytes]:
    """By SQLite's own tool."""
    done = subprocess.run(
        ["sqlite3", "-readonly", path, "SELECT body FROM audit ORDER BY seq"],
        capture_output=True,
        check=True,
    )
    return done.stdout.splitlines()


def recomputed(lines: list[bytes]) -> str:
    """The head by code of its own: nothing of it is ours."""
    prev = ""
    for number, line in enumerate(lines, 1):
        fields = json.loads(line)
        assert fields["seq"] == number
        assert fields["prev"] == prev
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert canonical.encode() == line
        prev = hashlib.sha256(line).hexdigest()
    return prev


def test_the_chain_is_recomputed_by_others(heads: list[str], tmp_path: Path) -> None:
    lines = bodies(tmp_path / "ledger.db")
    assert recomputed(lines) == heads[-1]
    source = b"\n".join(lines) + b"\n"
    command = ["bash", "-c", DOCUMENTED]
    done = subprocess.run(command, input=source, capture_output=True, check=True)
    assert done.stdout.decode().split("\n") == [heads[-1], ""]
    assert json.loads(lines[1])["detail"]["reason"].startswith("瓦斯")
    sorted_by_jq = subprocess.run(["jq", "-cS", "."], input=source, capture_output=True, check=True)
    assert sorted_by_jq.stdout == source
    assert DOCUMENTED.strip() in _undented(Path("gateway/store/audit.py").read_text())


def _undented(text: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in text.splitlines())


def test_raw_is_what_is_hashed(
    heads: list[str], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["audit", "show", "--raw", "--state-dir", str(tmp_path)]) == 0
    assert recomputed(capfdbinary.readouterr().out.splitlines()) == heads[-1]


def test_an_untouched_chain_holds_with_every_head(
    heads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for head in heads for word in ("--head", head)]
    code, found = verdict(tmp_path, capsys, *options)
    assert (code, found["ok"], found["entries"], found["head"]) == (0, True, ENTRIES, heads[-1])
    assert [head["entry"] for head in found["heads"]] == list(range(1, ENTRIES + 1))


@pytest.mark.usefixtures("heads")
@pytest.mark.parametrize("column", COLUMNS)
def test_any_edited_byte_is_found(column: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    read, put = COLUMNS[column]
    reader = LedgerReader(tmp_path / "ledger.db")
    edits = 0
    for seq in range(1, ENTRIES + 1):
        (value,) = connection.execute(read, (seq,)).fetchone()
        for place in range(len(value)):
            changed = bytearray(value)
            changed[place] ^= 1 << (place % 8)
            connection.execute(put, (bytes(changed), seq))
            found = verdict_of(reader, [])
            assert (found.ok, found.wrong_at) == (False, seq)
            edits += 1
        connection.execute(put, (value, seq))
    assert edits >= ENTRIES * 4
    assert verdict_of(reader, []).ok
    connection.close()
    reader.__exit__()


@pytest.mark.parametrize("seq", range(1, ENTRIES + 1))
def test_an_entry_with_another_number_is_found(
    heads: list[str], seq: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tmp_path, ("UPDATE audit SET seq = seq + 100 WHERE seq = ?", seq))
    code, found = verdict(tmp_path, capsys, "--head", heads[-1])
    assert (code, found["wrong_at"]) == (1, seq)


@pytest.mark.parametrize("seq", range(1, ENTRIES + 1))
def test_a_missing_row_is_found(
    heads: list[str], seq: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tmp_path, ("DELETE FROM audit WHERE seq = ?", seq))
    code, found = verdict(tmp_path, capsys, "--head", heads[-1])
    assert (code, found["wrong_at"]) == (1, seq)


@pytest.mark.parametrize("seq", range(1, ENTRIES))
def test_swapped_rows_are_found(
    heads: list[str], seq: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(
        tmp_path,
        (MOVE, 99, seq),
        (MOVE, seq, seq + 1),
        (MOVE, seq + 1, 99),
    )
    code, found = verdict(tmp_path, capsys)
    assert (code, found["wrong_at"]) == (1, seq)


@pytest.mark.parametrize("left", range(1, ENTRIES))
def test_a_cut_is_found_by_a_head_that_left(
    heads: list[str], left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tmp_path, ("DELETE FROM audit WHERE seq > ?", left))
    assert verdict(tmp_path, capsys)[0] == 0, "by itself it looks whole"
    code, found = verdict(tmp_path, capsys, "--head", heads[left])
    assert (code, found["entries"], found["wrong_at"]) == (1, left, left + 1)
    assert heads[left][:12] in found["text"]


def test_a_chain_that_was_written_anew_is_found(
    heads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By somebody who knows how: an entry is changed and all that follow are chained again."""
    connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    before = b""
    for seq, body in connection.execute("SELECT seq, body FROM audit ORDER BY seq").fetchall():
        entry = AuditEntry.of(body)
        if entry.seq == 2:
            entry.who = "uid:eve"
        body, before = entry.sealed(before)
        connection.execute("UPDATE audit SET body = ?, hash = ? WHERE seq = ?", (body, before, seq))
    connection.close()
    assert verdict(tmp_path, capsys)[0] == 0
    code, found = verdict(tmp_path, capsys, "--head", heads[3])
    assert (code, found["ok"]) == (1, False)


def test_alerts_of_a_receiver_say_what_left(
    heads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def alert(seq: int, head: str, gateway: str = "shaft") -> dict[str, Any]:
        return {"id": f"{gateway}/1/{seq}", "gateway": gateway, "audit_head": head}

    lines, posted = tmp_path / "lines.jsonl", tmp_path / "posted.json"
    foreign = alert(9, "ab" * 32, "pit")
    lines.write_text(
        "\n".join(map(json.dumps, [alert(1, heads[0]), foreign, alert(2, heads[4])])) + "\nnone\n"
    )
    posted.write_text(json.dumps({"alerts": [{"specversion": "1.0", "data": alert(3, heads[5])}]}))
    code, found = verdict(tmp_path, capsys, "--alert", str(lines), "--alert", str(posted))
    assert code == 0
    assert [(head["alert"], head["entry"]) for head in found["heads"]] == [
        ("shaft/1/1", 1), ("shaft/1/2", 5), ("shaft/1/3", 6)
    ]  # fmt: skip
    edit(tmp_path, ("DELETE FROM audit WHERE seq > 4",))
    code, found = verdict(tmp_path, capsys, "--alert", str(lines))
    assert code == 1
    assert "shaft/1/2" in found["text"]


async def test_it_is_read_beside_a_gateway_and_never_written(tmp_path: Path) -> None:
    crashed = tmp_path / "crashed"  # what a kill leaves, with all of it in the -wal
    crashed.mkdir()
    ledger, heads = await filled(tmp_path)
    try:
        before = await asyncio.to_thread(run, "sha256sum", *parts(tmp_path))
        assert before.count("ledger.db") == 2
        for _ in range(3):
            out = await asyncio.to_thread(
                run, sys.executable, "-m", "gateway", "audit", "verify", "--json",
                "--state-dir", tmp_path, "--head", heads[-1],
            )  # fmt: skip
            assert json.loads(out)["entries"] == ENTRIES
        assert await asyncio.to_thread(run, "sha256sum", *parts(tmp_path)) == before
        await ledger.command("uid:ann", "trip", "three", {})
        await asyncio.to_thread(run, "cp", *parts(tmp_path), crashed)
    finally:
        await ledger.close()
    found = {part: part.read_bytes() for part in parts(crashed)}
    with LedgerReader(crashed / "ledger.db") as reader:
        verdict = verdict_of(reader, [])
    assert (verdict.ok, verdict.entries) == (True, ENTRIES + 1)
    assert {part: part.read_bytes() for part in parts(crashed)} == found


def parts(directory: Path) -> list[Path]:
    return [directory / "ledger.db", directory / "ledger.db-wal"]


def run(*command: "str | Path") -> str:
    """In a process of its own: a file that this one closes would lose SQLite its locks."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_show_is_bounded_and_says_who_did_what(
    heads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state-dir", str(tmp_path)]
    assert main(["audit", "show", "--last", "2", *state]) == 0
    out = capsys.readouterr().out
    assert "uid:ann" in out
    assert "two" in out
    assert "reset" not in out
    assert main(["audit", "show", "--json", "--before", "4", "--last", "2", *state]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [entry["seq"] for entry in shown] == [2, 3]
    assert shown[0]["detail"]["reason"].endswith("🚨")


def test_what_cannot_be_verified_is_said(
    heads: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["--state-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as wrong:
        main(["audit", "verify", "--head", "xyz", *state])
    assert wrong.value.code == 2
    empty = tmp_path / "empty"
    empty.touch()
    assert main(["audit", "verify", "--alert", str(empty), *state]) == 1
    assert main(["audit", "verify", "--state-dir", str(tmp_path / "nowhere")]) == 1
    edit(tmp_path, ("PRAGMA user_version=9",))
    assert main(["audit", "verify", *state]) == 1
    err = capsys.readouterr().err
    for words in ("64 hexadecimal", "no alert of gateway 'shaft'", "no ledger.db", "schema 9"):
        assert words in err


@pytest.mark.usefixtures("heads")
def test_it_must_be_the_audit_of_the_site_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.toml"
    for ident, expected in (("shaft", 0), ("pit", 1)):
        site.write_text(f'[site]\nid = "{ident}"\n')
        assert main(["audit", "verify", str(site), "--state-dir", str(tmp_path)]) == expected
    assert "of gateway 'shaft'" in capsys.readouterr().err
    site.write_text("[site\n")
    assert main(["audit", "verify", str(site), "--state-dir", str(tmp_path)]) == 2


async def test_version_1_is_chained_anew_with_everything_else_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.db"
    shutil.copy(OLD, path)
    ledger = await Ledger.open(path, "shaft", uplinks=("platform", "archive"), reserve_bytes=0)
    try:
        assert audit_entries(ledger) == 16
        assert (ledger.epoch, ledger.head) == (1790000000123456789, 37)
        assert len(ledger.active()) == 4
        assert await ledger.cursor("platform", "alert") == 30
        assert await ledger.cursor("archive", "alert") == 12
        assert await ledger.journal_position(0xFFFF_FFFF_0000_0001) == 32
        assert await ledger.sample_position(0xFFFF_FFFF_0000_0001) == 300
        assert ledger.audit.proofs()["face-0"].passed
        assert ledger.audit.order_at(6) is not None
        letters = await ledger.letters.page(0, 10, every=True)
        assert [(each.lane, each.seq, each.state) for each in letters] == [
            ("alert", 5, "dead"), ("live", 17, "dead")
        ]  # fmt: skip
        assert await ledger.append([]) == []
        old = _rows(OLD, "SELECT seq, crc32, body FROM alert")
        assert [(item.seq, item.body) for item in await ledger.alerts(0, 100)] == [
            (seq, body) for seq, _, body in old
        ]
    finally:
        await ledger.close()
    assert _rows(copies(path)[0], "SELECT hex(hash) FROM audit")[-1][0].lower() == OLD_HEAD
    assert recomputed(bodies(path))
    last = json.loads(bodies(path)[-1])
    assert last["detail"] == {"was": "BLAKE2b-256", "entries": 15, "head": OLD_HEAD}
    old_heads = [digest.hex() for (digest,) in _rows(OLD, "SELECT hash FROM audit ORDER BY seq")]
    options = [word for head in old_heads for word in ("--head", head)]
    code, found = verdict(tmp_path, capsys, *options)
    assert code == 0, "heads that left before are still found"
    assert [head["entry"] for head in found["heads"]] == list(range(1, 16))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    await (await Ledger.open(fresh / "ledger.db", "shaft", reserve_bytes=0)).close()
    tables = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
    assert [(kind, name, _plain(sql)) for kind, name, sql in _rows(path, tables)] == [
        (kind, name, _plain(sql)) for kind, name, sql in _rows(fresh / "ledger.db", tables)
    ]


async def test_a_chain_of_version_1_that_was_touched_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    shutil.copy(OLD, path)
    edit(tmp_path, ("UPDATE audit SET who = 'uid:eve' WHERE seq = 4",))
    await (await Ledger.open(path, "shaft", reserve_bytes=0)).close()
    assert json.loads(bodies(path)[-1])["detail"]["wrong_at"] == 4


def _rows(path: Path, sql: str) -> list[Any]:
    options = "immutable=1" if path == OLD else "mode=ro"  # beside OLD no file may appear
    connection = sqlite3.connect(f"{path.as_uri()}?{options}", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def _plain(sql: str | None) -> str:
    return " ".join((sql or "").replace('"', "").split())
