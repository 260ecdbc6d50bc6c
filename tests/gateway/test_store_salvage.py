"""A damaged ledger: what can be read of it comes over in full, and the new one says what cannot."""

import contextlib
import json
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.audit import LeftHead, verdict_of
from gateway.store.alert import ActiveAlert, AlertDraft, LegNote, OutputNote, Source
from gateway.store.ledger import Ledger
from gateway.store.ledger_reader import LedgerReader
from tests.helpers.audits import audit_entries

OLD = Path(__file__).parent.parent / "stores" / "ledger-v1.db"
OLD_2 = OLD.with_name("ledger-v2.db")
COMMANDS = 150
MANY = 100_000
START_S = 10.0


def alert(number: int, **fields: Any) -> AlertDraft:
    """As long as real ones are, with legs, outputs and guidance."""
    legs = tuple(LegNote(f"ch4-{i}.value > 1.5 %CH4 for 2 s", "true", 1.5 + i) for i in range(4))
    outputs = tuple(OutputNote(f"breaker-{i}", "TRIPPED", 9_000_000) for i in range(4))
    return AlertDraft(
        kind="trip",
        state="raised",
        source=Source("interlock", "face"),
        cause=f"trip {number}: two of three methane transmitters above their limit",
        guidance="Leave the face by the intake side, report to the control room. " * 5,
        legs=legs,
        outputs=outputs,
        **fields,
    )


async def fill(directory: Path, commands: int = COMMANDS) -> list[str]:
    """A ledger with a long audit, raises and letters; the heads that it had."""
    ledger = await open_ledger(directory)
    heads = [ledger.audit_head]
    await ledger.append([alert(i, subject=f"interlock:{i}") for i in range(20)])
    await ledger.command("uid:ann", "substitute", "gas", {"value": 1.5})
    heads.append(ledger.audit_head)
    for i in range(commands):
        seq = await ledger.command("uid:ann", "reset", f"face-{i}", {"reason": "x" * 200})
        heads.append(ledger.audit_head)
        await ledger.command_result(seq, 1, "done")
        heads.append(ledger.audit_head)
    await ledger.proof_test("uid:bob", "face", {"passed": True})
    heads.append(ledger.audit_head)
    for seq in range(1, 6):
        await ledger.letter("platform", "alert", seq, "payload", b'{"kept": true}')
    await ledger.letters.mark([2])
    await ledger.letters.discard([3], "no use")
    await ledger.close()
    return heads


async def open_ledger(directory: Path) -> Ledger:
    path = directory / "ledger.db"
    return await Ledger.open(path, "shaft", uplinks=("platform",), reserve_bytes=0)


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for sql in statements:
        connection.execute(sql)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def places(directory: Path, heads: list[str]) -> list[int | None]:
    """The entries that heads which left have in the present chain, which must hold."""
    left = [LeftHead(head=head) for head in heads]
    with LedgerReader(directory / "ledger.db") as reader:
        found = verdict_of(reader, left)
        assert verdict_of(reader, []).ok
    return [each.entry for each in found.heads]


def note_in(directory: Path) -> tuple[int, dict[str, Any]]:
    """The entry that tells of the gap."""
    with LedgerReader(directory / "ledger.db") as reader:
        bodies = [json.loads(row[3]) for row in reader.audit_rows()]
    notes = [body for body in bodies if body["action"] == "new ledger"]
    return notes[-1]["seq"], notes[-1]["detail"]


async def test_everything_comes_over_where_one_entry_was_edited(tmp_path: Path) -> None:
    heads = await fill(tmp_path, commands=3)
    edit(
        tmp_path / "ledger.db",
        "UPDATE audit SET body = CAST(replace(body, 'face-1', 'face-9') AS BLOB) WHERE seq = 5",
        "DROP TABLE journal",
    )
    ledger = await open_ledger(tmp_path)
    try:
        assert len(ledger.active()) == 20
        letters = await ledger.letters.page(0, 100, every=True)
        assert [(each.id, each.seq, each.state, each.note) for each in letters] == [
            (1, 1, "dead", ""), (2, 2, "queued", ""), (3, 3, "discarded", "no use"),
            (4, 4, "dead", ""), (5, 5, "dead", ""),
        ]  # fmt: skip
        assert ledger.letters_marked("platform") == 1
        assert await ledger.letters_to_send("platform")
        assert ledger.audit.proofs()["face"].passed
        assert [tag for tag, *_ in ledger.audit.substitutions()] == ["gas"]
        first = json.loads((await ledger.alerts(0, 1))[0].body)
        assert (first["kind"], first["priority"]) == ("gap", "high")
        assert "5 letters, and the audit but for 1 of its 9 entries" in first["cause"]
        await ledger.command("uid:ann", "trip", "face", {})
        assert audit_entries(ledger) == len(heads) + 1
        count = ledger.head
    finally:
        await ledger.close()
    assert places(tmp_path, heads) == [1, 2, 3, 4, None, 6, 7, 8, 9]
    seq, note = note_in(tmp_path)
    assert (seq, note["entries_that_hold"], note["entries_lost"]) == (5, 4, 1)
    assert (note["entries_before"], note["audit_head_before"]) == (9, heads[-1])
    ledger = await open_ledger(tmp_path)
    assert ledger.head == count
    await ledger.close()


@pytest.mark.parametrize("anew", [False, True])
async def test_raises_are_what_their_alerts_say_or_are_left_out(tmp_path: Path, anew: bool) -> None:
    """A bit in a row of them is found by nothing else, and everybody reads them."""
    await fill(tmp_path, commands=1)
    edit(
        tmp_path / "ledger.db",
        "UPDATE active SET body = CAST('{' || body AS BLOB) WHERE subject = 'interlock:3'",
        "UPDATE active SET id = id || '7' WHERE subject = 'interlock:4'",
        "UPDATE active SET body = x'00', id = 'x' WHERE subject = 'interlock:5'",
        "UPDATE active SET subject = 'inperlock:6' WHERE subject = 'interlock:6'",
        *(["DROP TABLE journal"] if anew else []),
    )
    ledger = await open_ledger(tmp_path)
    try:
        for active in (ledger.active(), await again(ledger, tmp_path)):
            found = {item.subject: json.loads(item.body) for item in active}
            assert found.keys() == {f"interlock:{i}" for i in range(20) if i not in {5, 6}}
            assert [item.id for item in active] == [body["id"] for body in found.values()]
            assert found["interlock:3"]["cause"].startswith("trip 3")
            assert found["interlock:4"]["cause"].startswith("trip 4")
        ledger = await open_ledger(tmp_path)
        assert all(await ledger.append([alert(i, subject=f"interlock:{i}") for i in (5, 6)]))
        assert {item.subject for item in ledger.active()} == {f"interlock:{i}" for i in range(20)}
    finally:
        await ledger.close()


@pytest.mark.parametrize("damage", ["", "DROP TABLE journal"])
async def test_raises_of_version_2_come_over(tmp_path: Path, damage: str) -> None:
    """They had no checksums, in a file that is brought forward and in one that is salvaged."""
    shutil.copy(OLD_2, tmp_path / "ledger.db")
    if damage:
        edit(tmp_path / "ledger.db", damage, "UPDATE alert SET body = x'00' WHERE seq = 7")
    ledger = await open_ledger(tmp_path)
    try:
        assert [item.subject for item in ledger.active()] == [f"alarm:ch4-{i}" for i in range(2, 6)]
        for item in ledger.active():
            body = json.loads(item.body)
            assert (body["id"], body["cause"]) == (item.id, f"{item.subject[6:]} raised")
        assert ledger.letters_marked("platform") == 0
        assert len(await ledger.letters.page(0, 100, every=True)) == 1
        assert audit_entries(ledger)
    finally:
        await ledger.close()
    before = ledger.active()
    assert await again(ledger, tmp_path) == before


@pytest.mark.parametrize("damage", ["", "DROP TABLE journal"])
async def test_damaged_raises_of_version_2_are_not_given_a_checksum(
    tmp_path: Path, damage: str
) -> None:
    shutil.copy(OLD_2, tmp_path / "ledger.db")
    edit(
        tmp_path / "ledger.db",
        "UPDATE active SET body = CAST(replace(body, 'ch4-2 r', 'ch4-9 r') AS BLOB) "
        "WHERE subject = 'alarm:ch4-2'",
        "UPDATE active SET id = id || '7' WHERE subject = 'alarm:ch4-3'",
        "UPDATE active SET body = CAST('{' || body AS BLOB) WHERE subject = 'alarm:ch4-4'",
        "UPDATE active SET body = x'00', id = 'x' WHERE subject = 'alarm:ch4-5'",
        *filter(None, [damage]),
    )
    ledger = await open_ledger(tmp_path)
    for active in (ledger.active(), await again(ledger, tmp_path)):
        assert [item.subject for item in active] == [f"alarm:ch4-{i}" for i in range(2, 5)]
        for item in active:
            body = json.loads(item.body)
            assert (body["id"], body["cause"]) == (item.id, f"{item.subject[6:]} raised")


async def again(ledger: Ledger, directory: Path) -> list[ActiveAlert]:
    """What is active after another start."""
    await ledger.close()
    ledger = await open_ledger(directory)
    await ledger.close()
    return ledger.active()


def leaves(data: bytes, page: int) -> list[int]:
    """The leaf pages of a table or index below a page, in order (SQLite's file format, 1.6)."""
    body = data[(page - 1) * 4096 : page * 4096]
    if body[0] in {10, 13}:
        return [page]
    assert body[0] in {2, 5}, "no page of a tree"
    cells = int.from_bytes(body[3:5], "big")
    places = [int.from_bytes(body[at : at + 2], "big") for at in range(12, 12 + 2 * cells, 2)]
    below = [int.from_bytes(body[at : at + 4], "big") for at in (*places, 8)]
    return [leaf for child in below for leaf in leaves(data, child)]


@pytest.mark.parametrize("table", ["audit", "letter", "active"])
async def test_a_lost_page_costs_what_stood_on_it(tmp_path: Path, table: str) -> None:
    heads = await fill(tmp_path)
    path = tmp_path / "ledger.db"
    edit(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [(root,)] = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        )
    pages = leaves(path.read_bytes(), root)
    with path.open("r+b") as file:
        file.seek((pages[len(pages) // 2] - 1) * 4096)
        file.write(bytes(4096))
    ledger = await open_ledger(tmp_path)
    try:
        entries = audit_entries(ledger)
        active = len(ledger.active())
        letters = len(await ledger.letters.page(0, 100, every=True))
    finally:
        await ledger.close()
    found = places(tmp_path, heads)
    _, note = note_in(tmp_path)
    lost = found.count(None)
    assert lost == note["entries_lost"] == len(heads) + 1 - entries
    if table == "audit":
        assert 0 < lost < 20
        assert (active, letters) == (20, 5)
    else:
        assert lost == 0
        assert active < 20 if table == "active" else letters < 5


async def test_a_damaged_file_of_version_1_is_salvaged_as_well(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    shutil.copy(OLD, path)
    edit(path, "DROP TABLE letter")
    ledger = await Ledger.open(path, "shaft", uplinks=("platform", "archive"), reserve_bytes=0)
    try:
        assert ledger.epoch > 1790000000123456789
        assert len(ledger.active()) == 4
        assert audit_entries(ledger) == 16
        assert ledger.audit.proofs()["face-0"].passed
        assert await ledger.journal_position(0xFFFF_FFFF_0000_0001) == 32
        owed = [json.loads(item.body) for item in await ledger.alerts(1, 100)]
        assert [each["was"].rpartition("/")[2] for each in owed] == [str(n) for n in range(13, 38)]
    finally:
        await ledger.close()
    connection = sqlite3.connect(f"{OLD.as_uri()}?immutable=1", uri=True)
    old = [digest.hex() for (digest,) in connection.execute("SELECT hash FROM audit ORDER BY seq")]
    connection.close()
    assert places(tmp_path, old) == list(range(1, 16))
    assert note_in(tmp_path)[1]["chained_before_by"] == "BLAKE2b-256"


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_100_000_alerts_are_salvaged_within_the_time_of_a_start(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path)
    for first in range(0, MANY - 1, 1_000):
        count = min(1_000, MANY - 1 - first)
        await ledger.append([alert(i, subject="face", repeat=True) for i in range(count)])
    for i in range(20_000):
        await ledger.command("uid:ann", "reset", f"face-{i}", {"reason": "x" * 100})
    await ledger.close()
    edit(tmp_path / "ledger.db", "DROP TABLE journal")
    started_s = time.monotonic()
    ledger = await open_ledger(tmp_path)
    took_s = time.monotonic() - started_s
    try:
        print(f"started in {took_s:.1f} s, {ledger.head} alerts, {audit_entries(ledger)}")
        assert ledger.head == MANY + 1
        assert took_s < START_S
    finally:
        await ledger.close()
