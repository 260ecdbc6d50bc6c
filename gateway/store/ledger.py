"""The ledger: alerts, commands and operator state, durable before anybody is told.

Constraints:
- alerts are numbered gap-free per (gateway, epoch) inside the transaction that stores them; with
  them moves the position of the guard's journal that they were made of, so each record becomes an
  alert exactly once;
- an alert's content never changes; nothing that an uplink still needs is ever deleted;
- the audit is a hash chain.
"""

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from aiosqlite import Connection
from msgspec import Struct

from gateway.store.alert import ActiveAlert, AlertDraft, AlertItem
from gateway.store.appends import Appends
from gateway.store.audit import COMMAND, PROOF, RESULT, AuditEntry
from gateway.store.audit_memory import AuditMemory
from gateway.store.batch import Batch, Stamp
from gateway.store.cursors import Cursors
from gateway.store.database import Database
from gateway.store.ledger_state import EVENTS, SAMPLES, UNCOMPARED, LedgerState
from gateway.store.letter import DEAD, QUEUED_ONE, RESENT, Letter, LetterBox

MAX_BYTES: Final = 1024 * 1024 * 1024
FILL_PERCENT: Final = (
    80  # of the file: alerts' bodies, at most; the rest is rows' own and the audit
)
RESERVE_BYTES: Final = 256 * 1024 * 1024  # 100,000 alerts of up to 2 KB with their pages, the -wal


class LedgerStats(Struct, frozen=True, kw_only=True):
    """Counters since the start, sizes as last seen. ``bytes_written``: to the disk."""

    ok: bool
    trouble: str
    epoch: int
    head: int
    active: int
    bytes: int
    bytes_written: int
    reserve_bytes: int
    letters: dict[tuple[str, str], int]  # (uplink, reason): ever
    letter_states: dict[tuple[str, str], int]  # (uplink, state): now
    audit_entries: int
    audit_head: str
    dropped: dict[str, int]


class Ledger:
    """``ledger.db``. Every coroutine may raise StoreError; then nothing of the call is done."""

    def __init__(
        self, path: Path, stamp: Stamp, uplinks: Sequence[str], sizes: tuple[int, int]
    ) -> None:
        self._state = LedgerState(stamp, uplinks)
        self._max_bytes, reserve_bytes = sizes
        self._db = Database(
            path, self._state, max_bytes=self._max_bytes, reserve_bytes=reserve_bytes
        )
        self._appends = Appends(self._db, self._state)
        self._letters = LetterBox(self._db, lambda: self._state.letters, stamp.utc_ns)
        self.cursors = Cursors(self._db, self._state)
        self._damaged = 0

    @classmethod
    async def open(
        cls,
        path: Path,
        gateway: str,
        *,
        site: str = "",
        uplinks: Sequence[str] = (),
        clock_synced: Callable[[], bool] = lambda: False,
        exercise: bool = False,
        utc_ns: Callable[[], int] = time.time_ns,
        max_bytes: int = MAX_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> Self:
        """Open or begin the ledger of a gateway.

        A disk that does not take it now is no error here: calls raise StoreError until it does.
        ``uplinks`` are those whose delivery alerts wait for. ``exercise``: every alert says that
        it is one. Raises StoreError for a file of a
        newer version.
        """
        stamp = Stamp(gateway, site or gateway, utc_ns, clock_synced, exercise=exercise)
        ledger = cls(path, stamp, uplinks, (max_bytes, reserve_bytes))
        await ledger._db.start()
        return ledger

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        await self._appends.close()
        await self._db.close()

    @property
    def mishaps(self) -> tuple[int, str]:
        """How often the file or its task was mended and went on, and how the last time."""
        return self._db.mishaps

    @property
    def ok(self) -> bool:
        """False while the file cannot be used."""
        return self._db.ok

    @property
    def epoch(self) -> int:
        """UTC ns of the ledger's creation; 0 while it was never open."""
        return self._state.epoch

    @property
    def head(self) -> int:
        """Sequence of the last alert."""
        return self._state.head

    @property
    def audit_head(self) -> str:
        """The audit chain's head, hexadecimal."""
        return self._state.audit_hash.hex()

    def active(self) -> list[ActiveAlert]:
        """Raises that nothing has ended yet."""
        return list(self._state.active.values())

    def stamp(self, *, program: str | None, unarmed_count: int | None) -> None:
        """What alerts carry from now on: the running program's hash, how many are unarmed."""
        self._state.stamp.program = program
        self._state.stamp.unarmed_count = unarmed_count

    # ---- alerts --------------------------------------------------------------------------------

    async def append(
        self,
        drafts: Sequence[AlertDraft],
        *,
        journal: tuple[int, int] | None = None,
        samples: tuple[int, int] | None = None,
        epoch: int = 0,
    ) -> list[int]:
        """Store alerts in one transaction; gives their sequences, 0 for one that says nothing new.

        ``journal`` = (journal id, next record): all records before are recorded by this. Drafts of
        records that were recorded before are left out. ``samples`` likewise for the sample ring.

        ``epoch``: that in which the position was asked for; where it is over StoreError, since the
        present ledger may lack what is before these. 0: any.

        Each draft is one event: after StoreError the same objects are appended again, not others
        like them, since a commit that failed may be in the file all the same.
        """
        if not drafts and journal is None and samples is None:
            return []
        return await self._appends.put(tuple(drafts), journal, samples, epoch)

    async def alerts(self, after: int, limit: int) -> list[AlertItem]:
        """The oldest alerts with a sequence above ``after``, at most ``limit``.

        One that is damaged on the disk is left out (counted): never is another content sent.
        """
        sql = "SELECT seq, crc32, body FROM alert WHERE seq > ? ORDER BY seq LIMIT ?"
        while rows := await self._rows(sql, (after, limit)):
            items = [
                AlertItem(seq, body)
                for seq, crc, body in rows
                if isinstance(body, bytes) and crc == zlib.crc32(body)
            ]
            self._damaged += len(rows) - len(items)
            if items:
                return items
            after = rows[-1][0]
        return []

    @property
    def bound_bytes(self) -> int:
        """Bytes of alerts' bodies that there is room for."""
        return self._max_bytes * FILL_PERCENT // 100

    async def bytes_after(self, seq: int) -> int:
        """Bytes of the alerts' bodies above ``seq``; by the oldest 1,000 where they are more."""
        sql = (
            "SELECT count(*), sum(length(body)) FROM "
            "(SELECT body FROM alert WHERE seq > ? ORDER BY seq LIMIT 1000)"
        )
        (count, size), *_ = await self._rows(sql, (seq,))
        return size * (self.head - seq) // count if count else 0

    async def journal_position(self, journal_id: int) -> int | None:
        """The first record of this journal that is not recorded; None: never seen."""
        await self._ready()
        return self._state.positions.get((journal_id, EVENTS))

    async def sample_position(self, journal_id: int) -> int | None:
        """The first sample of this journal that alarms have not been made of; None: none yet."""
        await self._ready()
        return self._state.positions.get((journal_id, SAMPLES))

    async def knows_journals(self) -> bool:
        """False in a ledger that has not yet recorded anything of any guard."""
        await self._ready()
        return bool(self._state.positions)

    @property
    def uncompared(self) -> bool:
        """Whether it began from a damaged one, and what the guard has was not looked at since."""
        return self._state.uncompared

    async def compared(self, drafts: Sequence[AlertDraft]) -> None:
        """Store what the guard has and it had not; ``uncompared`` no more."""

        async def body(connection: Connection) -> Batch:
            batch = self._state.batch()
            self._state.fill(batch, drafts)
            await self._state.write(connection, batch)
            await connection.execute_fetchall("DELETE FROM meta WHERE key = ?", (UNCOMPARED,))
            return batch

        def then(batch: Batch) -> None:
            self._state.uncompared = False
            self._state.take(batch)

        await self._db.transact(body, then)

    # ---- commands ------------------------------------------------------------------------------

    async def command(self, who: str, action: str, target: str, detail: Mapping[str, Any]) -> int:
        """Write a command down; gives its place in the audit (from 1), the guard's ledger seq."""
        return await self._audit(COMMAND, None, who, action, target, dict(detail))

    async def command_result(self, seq: int, code: int, text: str) -> None:
        """Write down what became of the command ``seq``; ``code`` 0: no answer."""
        await self._audit(RESULT, seq, "", "", "", {"code": code, "text": text})

    async def proof_test(self, who: str, target: str, detail: Mapping[str, Any]) -> None:
        """Write down the result of a proof test; ``detail`` says ``passed``."""
        await self._audit(PROOF, None, who, "proof test", target, dict(detail))

    @property
    def audit(self) -> AuditMemory:
        """Who ordered what, and the newest proof tests: what of the audit is at hand."""
        return self._state.audit

    # ---- uplinks -------------------------------------------------------------------------------

    async def cursor(self, uplink: str, lane: str) -> int:
        """The highest contiguous sequence that the uplink has acknowledged, 0 at first."""
        await self._ready()
        return self.cursors.of(uplink, lane)

    async def move_cursor(self, uplink: str, lane: str, seq: int, *, epoch: int = 0) -> None:
        """Move it forward, durably. Raises ValueError for a step back or beyond the last alert.

        ``epoch`` is that of the sequence (0: the present one); where it is over StoreError.
        """
        await self._ready()
        await self.cursors.move(uplink, lane, seq, epoch or self._state.epoch)

    async def letter(
        self,
        uplink: str,
        lane: str,
        seq: int,
        reason: str,
        body: bytes,
        draft: AlertDraft | None = None,
        *,
        epoch: int = 0,
    ) -> bool:
        """Keep a dead letter and append ``draft`` in one transaction.

        ``epoch`` is that of the store that numbered it (0: the ledger's). False, and nothing is
        done, where this letter is kept already.
        """

        async def keep(connection: Connection) -> Batch | None:
            now_ns = self._state.stamp.utc_ns()
            added = await connection.execute_fetchall(
                "INSERT INTO letter (uplink, lane, epoch, seq, reason, utc_ns, state, changed_ns, "
                "note, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', ?) "
                "ON CONFLICT DO NOTHING RETURNING id",
                (uplink, lane, epoch or self._state.epoch, seq, reason, now_ns, DEAD, now_ns, body),
            )
            if not list(added):
                return None
            batch = self._state.batch()
            self._state.fill(batch, (draft,) if draft else ())
            await self._state.write(connection, batch)
            return batch

        def then(batch: Batch | None) -> None:
            if batch is not None:
                self._state.letters.came(uplink, reason)
                self._state.take(batch)

        return await self._db.transact(keep, then) is not None

    @property
    def letters(self) -> LetterBox:
        """The dead letters, for people."""
        return self._letters

    def letters_marked(self, uplink: str) -> int:
        """How many letters of an uplink are to be sent again."""
        return self._letters.queued(uplink)

    async def letters_to_send(self, uplink: str) -> list[Letter]:
        """The oldest of them, with their bodies."""
        return await self._letters.to_send(uplink)

    async def letter_sent(self, uplink: str, lane: str, epoch: int, seq: int) -> None:
        """It was taken this time: marked so, and its body goes."""
        await self._letters.settle(QUEUED_ONE, (uplink, lane, epoch, seq), RESENT)

    async def letter_refused(
        self, uplink: str, lane: str, epoch: int, seq: int, reason: str
    ) -> None:
        """It was refused again: a dead letter as before."""
        await self._letters.settle(QUEUED_ONE, (uplink, lane, epoch, seq), DEAD, reason)

    def stats(self) -> LedgerStats:
        """Counters and sizes."""
        return LedgerStats(
            ok=self._db.ok,
            trouble=self._db.trouble,
            epoch=self._state.epoch,
            head=self._state.head,
            active=len(self._state.active),
            bytes=self._db.file_bytes,
            bytes_written=self._db.bytes_written,
            reserve_bytes=self._db.reserve_bytes,
            letters=dict(self._state.letters.by_reason),
            letter_states=dict(self._state.letters.by_state),
            audit_entries=self._state.audit_seq,
            audit_head=self.audit_head,
            dropped={"damaged": self._damaged, "shed": self._state.shed_alerts},
        )

    # ---- inside --------------------------------------------------------------------------------

    async def _audit(
        self, kind: str, ref: int | None, who: str, action: str, target: str, detail: Any
    ) -> int:
        async def body(connection: Connection) -> tuple[AuditEntry, bytes]:
            entry = self._state.audit_entry(kind, ref, who, action, target, detail)
            return entry, await self._state.write_audit(connection, entry)

        def then(result: tuple[AuditEntry, bytes]) -> None:
            entry, self._state.audit_hash = result
            self._state.audit_seq = entry.seq
            self._state.audit.take(entry)

        entry, _ = await self._db.transact(body, then)
        return entry.seq

    async def _rows(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        async def body(connection: Connection) -> list[Any]:
            return list(await connection.execute_fetchall(sql, parameters))

        return await self._db.query(body)

    async def _ready(self) -> None:
        """What is known in memory is only known while the file is open."""
        if not self._db.ok:
            await self._rows("SELECT 1", ())
