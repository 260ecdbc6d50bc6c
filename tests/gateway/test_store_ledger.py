"""The ledger: gap-free numbers, refs, exactly once with the journal, audit, cursors, letters."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.errors import StoreError
from gateway.store.alert import Alert, AlertDraft, Source, rfc3339
from gateway.store.audit import AuditEntry
from gateway.store.audit_memory import ORDERS_MAX, AuditMemory
from gateway.store.ledger import Ledger
from tests.helpers.audits import audit_entries

JOURNAL = 0xFFFF_FFFF_0000_0001  # beyond a signed 64-bit number, as half of the random ids are


def draft(cause: str = "", **fields: Any) -> AlertDraft:
    fields.setdefault("kind", "trip")
    fields.setdefault("state", "event")
    return AlertDraft(source=Source("interlock", "face"), cause=cause, **fields)


def raised(subject: str, **fields: Any) -> AlertDraft:
    return draft("raised", state="raised", subject=subject, **fields)


def cleared(subject: str, **fields: Any) -> AlertDraft:
    return draft("cleared", state="cleared", subject=subject, **fields)


async def open_ledger(path: Path, **options: Any) -> Ledger:
    options.setdefault("reserve_bytes", 0)
    return await Ledger.open(path / "ledger.db", "shaft", site="north-shaft", **options)


async def bodies(ledger: Ledger, after: int = 1) -> list[dict[str, Any]]:
    """Alerts after the gap record that every ledger begins with."""
    return [json.loads(item.body) for item in await ledger.alerts(after, 10_000)]


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(tmp_path)
    yield opened
    await opened.close()


async def test_a_new_ledger_begins_with_a_gap_record(ledger: Ledger) -> None:
    (first,) = await bodies(ledger, after=0)
    assert (first["seq"], first["kind"], first["site"]) == (1, "gap", "north-shaft")
    assert first["id"] == f"shaft/{ledger.epoch}/1"
    assert ledger.head == 1


async def test_alerts_are_numbered_and_carry_every_field(ledger: Ledger) -> None:
    ledger.stamp(program="ab" * 32, unarmed_count=2)
    seqs = await ledger.append(
        [
            draft("one", utc_ns=1_700_000_000_000_000_001, value=float("nan"), limit=1.5),
            draft("two"),
        ]
    )
    assert seqs == [2, 3]
    one, two = await bodies(ledger)
    assert one["time"] == "2023-11-14T22:13:20.000000001Z"
    assert (one["program"], one["unarmed_count"], one["limit"]) == ("ab" * 32, 2, 1.5)
    assert "value" not in one  # NaN is no JSON
    assert two["id"] == f"shaft/{ledger.epoch}/3"
    assert {"historical", "audit_head"}.isdisjoint(two)
    for item in await ledger.alerts(0, 10):
        msgspec.json.decode(item.body, type=Alert, strict=True)


async def test_a_clear_names_its_raise_also_after_a_restart(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path)
    await ledger.append([raised("a"), raised("b"), cleared("b")])
    raise_a, raise_b, clear_b = await bodies(ledger)
    assert clear_b["ref"] == raise_b["id"]
    assert [item.subject for item in ledger.active()] == ["a"]
    await ledger.close()

    ledger = await open_ledger(tmp_path)
    try:
        assert [item.id for item in ledger.active()] == [raise_a["id"]]
        assert await ledger.append([cleared("a")]) == [5]
        assert (await bodies(ledger))[-1]["ref"] == raise_a["id"]
        assert ledger.active() == []
    finally:
        await ledger.close()


async def test_what_says_nothing_new_is_not_said(ledger: Ledger) -> None:
    assert await ledger.append([cleared("a"), raised("a"), raised("a")]) == [0, 2, 0]
    assert await ledger.append([raised("a"), cleared("a"), cleared("a")]) == [0, 3, 0]
    assert ledger.head == 3


async def test_a_repeated_raise_follows_the_one_before(ledger: Ledger) -> None:
    await ledger.append([raised("a", repeat=True), raised("a", repeat=True), cleared("a")])
    first, second, end = await bodies(ledger)
    assert second["ref"] == first["id"]
    assert end["ref"] == second["id"]


async def test_an_end_without_a_beginning_can_be_an_event(ledger: Ledger) -> None:
    await ledger.append([cleared("a", unmatched="event"), cleared("a", unmatched="cleared")])
    assert [body["state"] for body in await bodies(ledger)] == ["event", "cleared"]


async def test_a_record_of_the_journal_becomes_an_alert_once(ledger: Ledger) -> None:
    batch = [draft(f"record {seq}", journal_seq=seq) for seq in (5, 6, 7)]
    assert await ledger.append(batch, journal=(JOURNAL, 8)) == [2, 3, 4]
    again = [*batch, draft("record 8", journal_seq=8)]
    assert await ledger.append(again, journal=(JOURNAL, 9)) == [0, 0, 0, 5]
    assert await ledger.journal_position(JOURNAL) == 9
    assert await ledger.journal_position(7) is None


async def test_a_position_never_goes_back(ledger: Ledger) -> None:
    await ledger.append([], journal=(JOURNAL, 9), samples=(JOURNAL, 100))
    await ledger.append([], journal=(JOURNAL, 4))
    assert await ledger.journal_position(JOURNAL) == 9
    assert await ledger.sample_position(JOURNAL) == 100
    assert await ledger.knows_journals()


async def test_positions_of_journals_long_gone_are_forgotten(
    ledger: Ledger, tmp_path: Path
) -> None:
    for journal in range(1, 40):
        await ledger.append([], journal=(journal, journal))
    assert await ledger.journal_position(39) == 39
    await ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        (count,) = connection.execute("SELECT count(*) FROM journal").fetchone()
    connection.close()
    assert count < 20


async def test_the_audit_is_a_chain(ledger: Ledger, tmp_path: Path) -> None:
    head = ledger.audit_head
    seq = await ledger.command("uid 1000", "reset", "face", {"generation": 3})
    await ledger.command_result(seq, 1, "done")
    assert seq >= 1
    assert ledger.audit_head != head
    assert audit_entries(ledger) == seq + 1
    await ledger.close()

    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute(
            "UPDATE audit SET body = CAST(replace(body, 'uid 1000', 'uid 0') AS BLOB) "
            "WHERE kind = 'command'"
        )
    connection.close()
    changed = await open_ledger(tmp_path)
    try:
        with pytest.raises(StoreError, match=f"entry {seq}"):
            audit_entries(changed)
    finally:
        await changed.close()


async def test_a_cut_audit_is_seen(ledger: Ledger, tmp_path: Path) -> None:
    seq = await ledger.command("uid 1000", "trip", "face", {})
    await ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DELETE FROM audit WHERE seq = ?", (seq,))
    connection.close()
    cut = await open_ledger(tmp_path)
    try:  # it is behind its mark: its numbers were given to others already
        first = (await bodies(cut, after=0))[0]
        assert "commits are missing" in first["cause"]
    finally:
        await cut.close()


async def test_cursors_move_forward_only(ledger: Ledger) -> None:
    await ledger.append([draft() for _ in range(5)])
    assert await ledger.cursor("platform", "alert") == 0
    await ledger.move_cursor("platform", "alert", 4)
    await ledger.move_cursor("platform", "alert", 4)
    assert await ledger.cursor("platform", "alert") == 4
    for wrong in (3, 7):
        with pytest.raises(ValueError, match="cursor"):
            await ledger.move_cursor("platform", "alert", wrong)


async def test_a_letter_is_kept_and_told_once(ledger: Ledger) -> None:
    notice = draft("refused", kind="gap")
    assert await ledger.letter("platform", "alert", 1, "too_large", b"{}", notice)
    assert not await ledger.letter("platform", "alert", 1, "too_large", b"{}", notice)
    assert await ledger.letter("platform", "live", 1, "invalid", b"{}", epoch=77)
    assert ledger.head == 2
    letters = ledger.stats().letters
    assert letters == {("platform", "too_large"): 1, ("platform", "invalid"): 1}


async def test_a_cancelled_caller_leaves_nothing_half_done(ledger: Ledger) -> None:
    async def many(name: str) -> None:
        for _ in range(20):
            await ledger.append([draft(name), draft(name)])

    tasks = [asyncio.create_task(many(str(i))) for i in range(4)]
    await ledger.append([draft("meanwhile")])
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await ledger.append([draft("last")])
    found = await bodies(ledger, after=0)
    assert [body["seq"] for body in found] == list(range(1, len(found) + 1))
    assert sum(body["cause"] == "3" for body in found) == 40
    for name in "01":
        assert sum(body["cause"] == name for body in found) % 2 == 0


async def test_closed_is_a_store_error(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path)
    waiting = [asyncio.create_task(ledger.append([draft()])) for _ in range(300)]
    await asyncio.sleep(0)
    await ledger.close()
    await ledger.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, list | StoreError) for result in results)
    with pytest.raises(StoreError, match="closed"):
        await ledger.append([draft()])


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    await (await open_ledger(tmp_path)).close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema 99"):
        await open_ledger(tmp_path)
    assert list(tmp_path.glob("*damaged*")) == []


async def test_delivered_alerts_make_room_in_a_full_ledger(tmp_path: Path) -> None:
    ledger = await open_ledger(tmp_path, uplinks=("a", "b"), max_bytes=3 * 1024 * 1024)
    try:
        batch = [draft("x" * 400) for _ in range(500)]
        with pytest.raises(StoreError):  # noqa: PT012
            for _ in range(100):
                await ledger.append(batch)
        head = ledger.head
        assert head > 2_000
        await ledger.move_cursor("b", "alert", 100)
        await ledger.move_cursor("a", "alert", head - 5)
        for _ in range(3):  # b is dead: that does not keep the next ones from a
            await ledger.append(batch)
        (first, *_) = await ledger.alerts(0, 1)
        assert 101 < first.seq < head - 5
        assert ledger.stats().dropped["shed"] == first.seq - 101  # those that b did not have
        for _ in range(10):
            await ledger.append(batch)
            await ledger.move_cursor("a", "alert", ledger.head)
            await ledger.move_cursor("b", "alert", ledger.head)
        assert ledger.stats().dropped["shed"] < head
        assert ledger.ok
    finally:
        await ledger.close()


async def test_the_connection_is_as_it_must_be(ledger: Ledger) -> None:
    async def look(connection: Any) -> list[Any]:
        names = ("journal_mode", "synchronous", "auto_vacuum", "page_size", "mmap_size")
        rows = [await connection.execute_fetchall(f"PRAGMA {name}") for name in names]
        return [next(iter(row))[0] for row in rows]

    assert await ledger._db.query(look) == ["wal", 2, 2, 4096, 0]


def test_times_have_nine_digits() -> None:
    assert rfc3339(1) == "1970-01-01T00:00:00.000000001Z"


async def test_who_ordered_what_and_the_proof_tests_are_at_hand_after_a_restart(
    tmp_path: Path,
) -> None:
    ledger = await open_ledger(tmp_path)
    ident = bytes(range(16))
    seq = await ledger.command(
        "uid:ann", "bypass_start", "face", {"id": ident.hex(), "reason": "new sensor"}
    )
    await ledger.proof_test("uid:ann", "face", {"passed": True})
    await ledger.proof_test("uid:ann", "face", {"passed": False})
    for _ in range(2):
        order = ledger.audit.order(ident)
        assert order is not None
        assert order == ledger.audit.order_at(seq)
        assert (order.who, order.target, order.reason) == ("uid:ann", "face", "new sensor")
        proof = ledger.audit.proofs()["face"]
        assert (proof.made, proof.passed) == (2, False)
        assert 0 < proof.passed_utc_ns <= proof.utc_ns
        assert ledger.audit.order(bytes(16)) is None
        await ledger.close()
        ledger = await open_ledger(tmp_path)
    await ledger.close()


def test_only_the_newest_orders_are_kept() -> None:
    memory = AuditMemory()
    for seq in range(1, ORDERS_MAX + 3):
        detail = f'{{"id": "{seq:032x}", "reason": "r{seq}"}}'
        memory.take(AuditEntry(seq, 0, "command", None, "who", "reset", "face", detail))
    assert memory.order_at(2) is None
    assert memory.order(bytes.fromhex(f"{2:032x}")) is None
    newest = memory.order(bytes.fromhex(f"{ORDERS_MAX + 2:032x}"))
    assert newest is not None
    assert newest.reason == f"r{ORDERS_MAX + 2}"
    memory.take(AuditEntry(ORDERS_MAX + 3, 0, "command", None, "who", "x", "y", "[no json"))
    assert memory.order_at(ORDERS_MAX + 3) is not None
