"""What the ledger holds, as committed: numbers, active raises, positions, cursors, audit head.

``LedgerState`` reads it whenever the file is opened; ``Batch`` works out what a transaction adds,
without changing the state, so that a transaction may fail or run again; ``take`` adopts it after
the commit.
"""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from aiosqlite import Connection

from gateway.store import active
from gateway.store.alert import ActiveAlert, AlertDraft, Source
from gateway.store.audit import NOTE, AuditEntry
from gateway.store.audit_memory import AuditMemory
from gateway.store.batch import Batch, Stamp
from gateway.store.cursors import ALERT, begin_cursors, read_cursors
from gateway.store.file_parts import EPOCH
from gateway.store.letter import LetterCount
from gateway.store.migration import Step
from gateway.store.owner import Opened
from gateway.store.rechain import rechain
from gateway.store.salvage import Salvage
from gateway.store.salvage_audit import AuditFound
from gateway.store.sqlite_file import Schema, value_of

ALERTS_KEPT_MIN: Final = 1_000  # delivered alerts that stay for people to look at
ALERTS_UNSENT_MIN: Final = 100_000  # that stay where nobody is to get them
ROOM_ALERTS: Final = 5_000  # delivered alerts that go at once when there is no room
JOURNALS_MAX: Final = 8  # positions of journals that are gone
EVENTS: Final = "events"
SAMPLES: Final = "samples"
OWN: Final = ("problem:", "alarm:")  # what subjects of raises begin with that are not the guard's
UNCOMPARED: Final = "not compared with the guard"  # of meta: since a salvage
_SIGN: Final = 1 << 63

_ENCODER: Final = msgspec.json.Encoder()


class LedgerState:
    """The owner of a ledger file (``owner.Owner``)."""

    once = True
    schema = Schema(
        "ledger",
        0x53574C31,
        3,
        steps=(
            Step(2, sql="ledger_v2_from_v1.sql", code=rechain),
            Step(3, sql="ledger_v3_from_v2.sql", code=active.seal),
        ),
    )

    def __init__(self, stamp: Stamp, uplinks: Sequence[str]) -> None:
        self.stamp = stamp
        self.epoch = 0
        self.head = 0
        self.audit_seq = 0
        self.audit_hash = b""
        self.audit = AuditMemory()
        self.active: dict[str, ActiveAlert] = {}
        self._stood: dict[str, ActiveAlert] = {}  # as this process committed it last
        self.positions: dict[tuple[int, str], int] = {}
        self.cursors: dict[tuple[str, str], int] = {}
        self.letters = LetterCount()
        self.uncompared = False
        self.shed_alerts = 0  # since the start: that one uplink had and another had not
        self._uplinks = tuple(uplinks)

    def mark(self) -> tuple[int, int]:
        """(epoch, alerts and audit entries ever written)."""
        return self.epoch, self.head + self.audit_seq

    # ---- the file ------------------------------------------------------------------------------

    async def load(self, connection: Connection, opened: Opened) -> None:
        """Read everything; a file without an epoch is begun."""
        self._forget()
        epoch = await value_of(connection, EPOCH)
        if epoch is None:
            await self._begin(connection, opened)
            await begin_cursors(connection, self._uplinks, self.epoch)
            self.cursors = await read_cursors(connection, self.epoch)
            return
        self.epoch = int(epoch)
        self.head = await value_of(connection, "SELECT ifnull(max(seq), 0) FROM alert")
        for seq, digest in await connection.execute_fetchall(
            "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1"
        ):
            self.audit_seq, self.audit_hash = seq, digest
        await self.audit.load(connection)
        sql = "SELECT value FROM meta WHERE key = ?"
        self.uncompared = await value_of(connection, sql, (UNCOMPARED,)) is not None
        self.active = {item.subject: item for item in await active.read(connection)}
        for journal_id, stream, seq in await connection.execute_fetchall(
            "SELECT journal_id, stream, next_seq FROM journal"
        ):
            self.positions[journal_id % (1 << 64), stream] = seq
        self.cursors = await read_cursors(connection, self.epoch)
        await self.letters.load(connection)

    async def make_room(self, connection: Connection) -> Callable[[], None] | None:
        """Delete the oldest alerts that every uplink has; None where none may go.

        Where that gives no room, those go that at least one uplink has: one that is dead for weeks
        must not keep the next alert from the others. It gets a gap marker in their place. What no
        uplink has never goes.
        """
        first = await value_of(connection, "SELECT ifnull(min(seq), 0) FROM alert")
        taken = [self.cursors.get((uplink, ALERT), 0) for uplink in self._uplinks]
        everywhere = min(taken, default=self.head - ALERTS_UNSENT_MIN)
        somewhere = max(taken, default=everywhere)
        for sent in (everywhere, somewhere):
            last = min(sent, self.head - ALERTS_KEPT_MIN, first + ROOM_ALERTS)
            if last >= first:
                await connection.execute_fetchall("DELETE FROM alert WHERE seq <= ?", (last,))
                owed = max(0, last - max(first - 1, everywhere))
                return partial(self._shed, owed) if owed else _nothing
        return None

    def _shed(self, alerts: int) -> None:
        self.shed_alerts += alerts

    def _forget(self) -> None:
        self.epoch = self.head = self.audit_seq = 0
        self.audit_hash = b""
        self.audit = AuditMemory()
        self.active = {}
        self.positions = {}
        self.cursors = {}
        self.letters = LetterCount()
        self.uncompared = False

    async def _begin(self, connection: Connection, opened: Opened) -> None:
        """A new epoch: the gap record first, then what could be salvaged."""
        salvage = Salvage()
        if opened.aside:
            salvage = await asyncio.to_thread(Salvage.of, opened.aside, self._uplinks)
        try:
            self.epoch = max(self.stamp.utc_ns(), opened.epoch_min + 1, salvage.epoch + 1)
            await connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("epoch", self.epoch), ("gateway", self.stamp.gateway)],
            )
            if opened.aside:
                self.uncompared = True
                await connection.execute_fetchall("INSERT INTO meta VALUES (?, 1)", (UNCOMPARED,))
            await self._begin_audit(connection, opened, salvage.audit)
            await connection.executemany(
                "INSERT INTO letter VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", salvage.letters
            )
            await self.letters.load(connection)
            await self._begin_alerts(connection, opened, salvage)
        finally:
            salvage.close()

    async def _begin_alerts(self, connection: Connection, opened: Opened, salvage: Salvage) -> None:
        """The gap record, written last since it tells of the others, and what is owed."""
        head = 1
        raised = {item.id: item for item in salvage.active}
        while bodies := await asyncio.to_thread(salvage.next_alerts):
            batch = Batch(self.stamp, self.epoch, head, {})
            for body in bodies:
                old, ident, fresh = batch.add_salvaged(body) or ("", "", b"")
                if item := raised.get(old):
                    batch.active[item.subject] = ActiveAlert(item.subject, ident, fresh)
            head = batch.head
            await self.write(connection, batch)
            self._adopt(batch)
        head = await self._tell_own_again(connection, head, {i.subject for i in salvage.active})
        first = Batch(self.stamp, self.epoch, 0, {})
        first.add(_gap_draft(self.stamp.gateway, opened, salvage))
        for item in salvage.active:
            if item.subject not in self.active:
                first.active[item.subject] = item
        first.positions = dict(salvage.positions())
        await self.write(connection, first)
        self._adopt(first)
        self.head = head

    async def _tell_own_again(
        self, connection: Connection, head: int, found: Container[str]
    ) -> int:
        """Raises of the gateway's own that stood until now, and that the file has lost.

        Their makers believe them told. The guard's are compared with the guard.
        """
        batch = Batch(self.stamp, self.epoch, head, {})
        for subject, item in self._stood.items():
            if subject.startswith(OWN) and subject not in self.active and subject not in found:
                _, ident, body = batch.add_salvaged(item.body) or ("", "", b"")
                batch.active[subject] = ActiveAlert(subject, ident, body) if ident else None
        await self.write(connection, batch)
        self._adopt(batch)
        return batch.head

    async def _begin_audit(self, connection: Connection, opened: Opened, found: AuditFound) -> None:
        """The front of the chain before, the entry that tells of the gap, then what fits itself."""
        await connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", found.front)
        if found.front:
            self.audit_seq, *_, self.audit_hash = found.front[-1]
        note: dict[str, Any] = {"reason": opened.reason, "audit_head_before": found.last_head}
        if found.last_seq:
            note |= {"entries_before": found.last_seq, "entries_that_hold": len(found.front)}
            note |= {
                "entries_lost": found.lost,
                "chained_before_by": found.chained_anew or "SHA-256",
            }
        await self._write_audit(
            connection, self.audit_entry(NOTE, None, "", "new ledger", "", note)
        )
        numbers: dict[int | None, int] = {}
        for entry, was in found.rest:
            numbers[entry.seq] = entry.seq = self.audit_seq + 1
            entry.ref = numbers.get(entry.ref, entry.ref)
            await self._write_audit(connection, entry, was)
        await self.audit.load(connection)

    # ---- alerts --------------------------------------------------------------------------------

    def batch(self, told: Mapping[int, int] | None = None) -> Batch:
        """An empty batch on top of what is committed; ``told``: ``Batch.told``."""
        return Batch(self.stamp, self.epoch, self.head, self.active, told or {})

    def fill(
        self,
        batch: Batch,
        drafts: Sequence[AlertDraft],
        journal: tuple[int, int] | None = None,
        samples: tuple[int, int] | None = None,
    ) -> None:
        """Number the drafts. Those whose journal record is recorded already are left out."""
        recorded = 0
        if journal:
            before = self.positions.get((journal[0], EVENTS), 0)
            recorded = batch.positions.get((journal[0], EVENTS), before)
        for draft in drafts:
            if draft.journal_seq and draft.journal_seq < recorded:
                batch.seqs.append(0)
            else:
                batch.add(draft)
        if journal and journal[1] > recorded:
            batch.positions[journal[0], EVENTS] = journal[1]
        if samples:
            batch.positions[samples[0], SAMPLES] = samples[1]

    async def write(self, connection: Connection, batch: Batch) -> None:
        """Bring a batch into the database."""
        now_ns = self.stamp.utc_ns()
        if batch.rows:
            await connection.executemany("INSERT INTO alert VALUES (?, ?, ?, ?, ?)", batch.rows)
        raised = [item for item in batch.active.values() if item]
        ended = [(subject,) for subject, item in batch.active.items() if item is None]
        if raised:
            await active.write(connection, raised)
        if ended:
            await connection.executemany("DELETE FROM active WHERE subject = ?", ended)
        if batch.positions:
            await connection.executemany(
                "INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?)",
                [(_signed(j), stream, seq, now_ns) for (j, stream), seq in batch.positions.items()],
            )
            if len(self.positions) + len(batch.positions) > 2 * JOURNALS_MAX:
                await self._drop_old_journals(connection)

    def take(self, batch: Batch) -> None:
        """Adopt a batch that is committed."""
        self._adopt(batch)
        self._stood = self.active

    def _adopt(self, batch: Batch) -> None:
        self.head = batch.head
        self.positions.update(batch.positions)
        for subject, item in batch.active.items():
            if item is None:
                self.active.pop(subject, None)
            else:
                self.active[subject] = item

    async def _drop_old_journals(self, connection: Connection) -> None:
        await connection.execute_fetchall(
            "DELETE FROM journal WHERE journal_id NOT IN (SELECT journal_id FROM journal "
            "GROUP BY journal_id ORDER BY max(moved_ns) DESC LIMIT ?)",
            (JOURNALS_MAX,),
        )

    # ---- audit ---------------------------------------------------------------------------------

    def audit_entry(
        self, kind: str, ref: int | None, who: str, action: str, target: str, detail: Any
    ) -> AuditEntry:
        """The next entry of the chain."""
        text = _ENCODER.encode(detail).decode()
        now_ns = self.stamp.utc_ns()
        return AuditEntry(self.audit_seq + 1, now_ns, kind, ref, who, action, target, text)

    async def write_audit(self, connection: Connection, entry: AuditEntry, was: str = "") -> bytes:
        """Bring an entry into the database; gives the chain's new head."""
        body, digest = entry.sealed(self.audit_hash, was)
        await connection.execute_fetchall(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?)",
            (entry.seq, entry.kind, entry.action, body, digest),
        )
        return digest

    async def _write_audit(self, connection: Connection, entry: AuditEntry, was: str = "") -> None:
        self.audit_hash = await self.write_audit(connection, entry, was)
        self.audit_seq = entry.seq


def _nothing() -> None:
    """What is in memory is not touched by alerts that go."""


def _gap_draft(gateway: str, opened: Opened, salvage: Salvage) -> AlertDraft:
    cause = "a new ledger begins: what happened before is not in it"
    if opened.aside:
        cause = (
            f"the ledger was damaged ({opened.reason}) and put aside as {opened.aside.name}; "
            f"{salvage.alerts} of {salvage.owed} undelivered alerts were salvaged, "
            f"{len(salvage.active)} raises, {len(salvage.letters)} letters, and the audit but for "
            f"{salvage.audit.lost} of its {salvage.audit.last_seq} entries"
        )
    return AlertDraft(
        kind="gap",
        state="event",
        source=Source("gateway", gateway),
        priority="high" if opened.aside else "low",
        cause=cause,
    )


def _signed(journal_id: int) -> int:
    """SQLite's integers are signed."""
    return journal_id - (1 << 64) if journal_id >= _SIGN else journal_id
