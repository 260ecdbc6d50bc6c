"""Exactly once, gap-free, whatever the order of replays, failures, cursors and kills.

A state machine on the real ledger. A crash copies the files while the ledger is open: what kill -9
leaves. The model is a plain list of what was acknowledged.
"""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from aiosqlite import Connection
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from gateway.errors import StoreError
from gateway.store.alert import AlertDraft, Source, State
from gateway.store.ledger import Ledger
from tests.helpers.audits import audit_entries

_T = TypeVar("_T")
JOURNALS = (3, 2**64 - 1)
SUBJECTS = ("a", "b", "c")


class LedgerMachine(RuleBasedStateMachine):
    """``records`` is what the guard has journalled; ``said`` what must be in the ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.directory = self.root / "0"
        self.directory.mkdir()
        self.said: list[tuple[str, str]] = []  # (cause, state)
        self.raised: dict[str, str] = {}  # subject: cause of the raise
        self.positions = dict.fromkeys(JOURNALS, 1)
        self.cursor = 0
        self.commands = 0
        self.crashes = 0

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(coroutine)

    @initialize()
    def begin(self) -> None:
        self.ledger = self.run(self.open())
        self.epoch = self.ledger.epoch

    async def open(self) -> Ledger:
        return await Ledger.open(
            self.directory / "ledger.db", "shaft", uplinks=("up",), reserve_bytes=0
        )

    # ---- what may happen

    @rule(
        journal=st.sampled_from(JOURNALS),
        back=st.integers(0, 5),
        count=st.integers(0, 6),
        data=st.data(),
    )
    def record(self, journal: int, back: int, count: int, data: st.DataObject) -> None:
        """Records of a journal, some of them for the second time."""
        position = self.positions[journal]
        first = max(1, position - back)
        drafts = []
        for seq in range(first, position + count):
            subject = data.draw(st.sampled_from(("", *SUBJECTS)))
            state: State = data.draw(st.sampled_from(("raised", "cleared", "event")))
            state = state if subject else "event"
            repeat = data.draw(st.booleans())
            drafts.append(self.draft(f"{journal}/{seq}", subject, state, repeat, seq))
            if seq >= position:
                self.expect(drafts[-1])
        end = position + count
        seqs = self.run(self.ledger.append(drafts, journal=(journal, end)))
        assert len(seqs) == len(drafts)
        self.positions[journal] = end

    @rule(count=st.integers(1, 4), data=st.data())
    def alarms(self, count: int, data: st.DataObject) -> None:
        drafts = []
        for _ in range(count):
            subject = data.draw(st.sampled_from(SUBJECTS))
            state: State = data.draw(st.sampled_from(("raised", "cleared")))
            drafts.append(self.draft(f"alarm {len(self.said)}", subject, state, False, 0))
            self.expect(drafts[-1])
        self.run(self.ledger.append(drafts))

    @rule()
    def failing(self) -> None:
        """A transaction that fails at its very end leaves nothing."""

        async def body(connection: Connection) -> None:
            batch = self.ledger._state.batch()
            self.ledger._state.fill(batch, [self.draft("never", "a", "raised", True, 0)])
            await self.ledger._state.write(connection, batch)
            msg = "no"
            raise sqlite3.OperationalError(msg)

        try:
            self.run(self.ledger._db.transact(body))
        except StoreError:
            return
        raise AssertionError

    @rule()
    def command(self) -> None:
        seq = self.run(self.ledger.command("uid 0", "reset", "face", {}))
        self.commands += 1
        assert seq == self.commands + 1

    @rule(step=st.integers(0, 10))
    def acknowledge(self, step: int) -> None:
        self.cursor = min(self.cursor + step, self.ledger.head)
        self.run(self.ledger.move_cursor("up", "alert", self.cursor))

    @rule(seq=st.integers(1, 5))
    def letter(self, seq: int) -> None:
        kept = self.run(self.ledger.letter("up", "alert", seq, "invalid", b"{}"))
        again = self.run(self.ledger.letter("up", "alert", seq, "invalid", b"{}"))
        assert not again or not kept

    @rule()
    def restart(self) -> None:
        self.run(self.ledger.close())
        self.ledger = self.run(self.open())

    @precondition(lambda self: self.crashes < 8)
    @rule(pending=st.booleans())
    def crash(self, pending: bool) -> None:
        """kill -9, at rest or in the middle of a transaction."""
        self.crashes += 1
        after = self.root / str(self.crashes)

        def copy() -> None:
            after.mkdir()
            for part in self.directory.glob("ledger.db*"):
                shutil.copy(part, after / part.name)

        async def body(connection: Connection) -> None:
            batch = self.ledger._state.batch()
            self.ledger._state.fill(batch, [self.draft("lost", "b", "raised", True, 0)])
            await self.ledger._state.write(connection, batch)
            copy()
            msg = "killed"
            raise sqlite3.OperationalError(msg)

        if pending:
            with contextlib.suppress(StoreError):
                self.run(self.ledger._db.transact(body))
        else:
            copy()
        self.run(self.ledger.close())
        self.directory = after
        self.ledger = self.run(self.open())

    # ---- what must be so

    @invariant()
    def everything_is_there_once(self) -> None:
        if not hasattr(self, "ledger"):
            return
        found = [json.loads(item.body) for item in self.run(self.ledger.alerts(1, 100_000))]
        assert self.ledger.epoch == self.epoch
        assert [item["seq"] for item in found] == list(range(2, len(found) + 2))
        assert [(item["cause"], item["state"]) for item in found] == self.said
        by_id = {item["id"]: item for item in found}
        for item in found:
            if item["state"] == "cleared":
                assert by_id[item["ref"]]["seq"] < item["seq"]
                assert by_id[item["ref"]]["state"] == "raised"
        active = {item.subject: by_id[item.id]["cause"] for item in self.ledger.active()}
        assert active == self.raised
        assert self.run(self.ledger.cursor("up", "alert")) == self.cursor
        assert audit_entries(self.ledger) == self.commands + 1
        for journal, position in self.positions.items():
            assert (self.run(self.ledger.journal_position(journal)) or 1) == position

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.run(self.ledger.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)

    # ---- the model

    @staticmethod
    def draft(cause: str, subject: str, state: State, repeat: bool, seq: int) -> AlertDraft:
        return AlertDraft(
            kind="trip",
            state=state,
            source=Source("interlock", "face"),
            cause=cause,
            subject=subject,
            repeat=repeat,
            journal_seq=seq,
        )

    def expect(self, draft: AlertDraft) -> None:
        if draft.subject:
            if draft.state == "raised" and draft.subject in self.raised and not draft.repeat:
                return
            if draft.state == "cleared" and draft.subject not in self.raised:
                return
            if draft.state == "raised":
                self.raised[draft.subject] = draft.cause
            elif draft.state == "cleared":
                del self.raised[draft.subject]
        self.said.append((draft.cause, draft.state))


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
