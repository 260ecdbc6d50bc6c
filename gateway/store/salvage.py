"""What can still be read of a damaged ledger: the alerts that are owed, and the operator state.

It reads the file that was put aside, read-only and bounded in time; whatever cannot be read is left
out. Blocking: to be called in a thread.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.store.alert import ActiveAlert, Alert

SALVAGE_S_MAX: Final = 3.0
ALERTS_MAX: Final = 100_000
_STEP: Final = 64  # alerts per read; around a damaged page they are read one by one


@dataclass(slots=True)
class Salvage:
    """What was found. ``positions`` is empty where alerts are missing: their records come again."""

    epoch: int = 0
    audit_head: str = ""
    alerts: list[Alert] = field(default_factory=list)
    active: list[ActiveAlert] = field(default_factory=list)
    positions: dict[tuple[int, str], int] = field(default_factory=dict)


def salvage_ledger(path: Path) -> Salvage:
    """Read what can be read; never raises."""
    found = Salvage()
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return found
    with closing(connection):
        _read(connection, found)
    return found


def _read(connection: sqlite3.Connection, found: Salvage) -> None:
    def rows(sql: str, *parameters: Any) -> list[Any]:
        try:
            return connection.execute(sql, parameters).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            return []

    for (epoch,) in rows("SELECT value FROM meta WHERE key = 'epoch'"):
        found.epoch = epoch if isinstance(epoch, int) else 0
    for (digest,) in rows("SELECT hash FROM audit ORDER BY seq DESC LIMIT 1"):
        found.audit_head = digest.hex() if isinstance(digest, bytes) else ""
    for subject, ident, body in rows("SELECT * FROM active"):
        if isinstance(subject, str) and isinstance(ident, str) and isinstance(body, bytes):
            found.active.append(ActiveAlert(subject, ident, body))
    sent = rows("SELECT min(seq) FROM cursor WHERE lane = 'alert' AND epoch = ?", found.epoch)
    after = sent[0][0] if sent and isinstance(sent[0][0], int) else 0
    whole = _alerts(connection, found, after)
    if whole:
        for journal_id, stream, seq in rows("SELECT journal_id, stream, next_seq FROM journal"):
            if isinstance(journal_id, int) and isinstance(seq, int):
                found.positions[journal_id % (1 << 64), str(stream)] = seq


def _alerts(connection: sqlite3.Connection, found: Salvage, after: int) -> bool:
    """The alerts above ``after``; True where none of them is missing."""
    head = 0
    with suppress(sqlite3.Error):
        head = connection.execute("SELECT ifnull(max(seq), 0) FROM alert").fetchone()[0]
    deadline = time.monotonic() + SALVAGE_S_MAX
    expected = after + 1
    for seq, body in _pieces(connection, after, head, lambda: time.monotonic() < deadline):
        expected = expected + 1 if seq == expected and len(found.alerts) < ALERTS_MAX else 0
        if len(found.alerts) < ALERTS_MAX:
            try:
                found.alerts.append(msgspec.json.decode(body, type=Alert))
            except (msgspec.MsgspecError, TypeError):
                expected = 0
    return head > 0 and expected == head + 1


def _pieces(
    connection: sqlite3.Connection, after: int, head: int, go_on: Callable[[], bool]
) -> Iterator[tuple[int, Any]]:
    sql = "SELECT seq, body FROM alert WHERE seq BETWEEN ? AND ? ORDER BY seq"
    first = after + 1
    while first <= head and go_on():
        last = min(first + _STEP - 1, head)
        try:
            yield from connection.execute(sql, (first, last)).fetchall()
        except sqlite3.Error:
            for seq in range(first, last + 1):
                with suppress(sqlite3.Error):
                    yield from connection.execute(sql, (seq, seq)).fetchall()
        first = last + 1
