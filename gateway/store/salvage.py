"""What can still be read of a damaged ledger: the alerts that are owed, and the operator state.

It reads the file that was put aside, read-only and bounded in time; whatever cannot be read is left
out. Blocking: to be called in a thread.
"""

import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.store.alert import ActiveAlert, Alert

SALVAGE_S_MAX: Final = 3.0
ALERTS_MAX: Final = 100_000
UNOWED_MAX: Final = 1_000  # alerts that are kept for people where there is no uplink
_STEP: Final = 64  # alerts per read; around a damaged page they are read one by one


@dataclass(slots=True)
class Salvage:
    """What was found. ``positions`` is empty where alerts are missing: their records come again."""

    epoch: int = 0
    audit_head: str = ""
    alerts: list[Alert] = field(default_factory=list)
    active: list[ActiveAlert] = field(default_factory=list)
    positions: dict[tuple[int, str], int] = field(default_factory=dict)


def salvage_ledger(path: Path, uplinks: Sequence[str]) -> Salvage:
    """Read what can be read; never raises. Owed is what not each of ``uplinks`` has."""
    found = Salvage()
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return found
    with closing(connection):
        _read(connection, found, uplinks)
    return found


def _read(connection: sqlite3.Connection, found: Salvage, uplinks: Sequence[str]) -> None:
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
    head = next((seq for (seq,) in rows("SELECT ifnull(max(seq), 0) FROM alert")), 0)
    cursors = dict(
        rows("SELECT uplink, seq FROM cursor WHERE lane = 'alert' AND epoch = ?", found.epoch)
    )
    sent = min((cursors.get(uplink, 0) for uplink in uplinks), default=head - UNOWED_MAX)
    if not isinstance(head, int) or not isinstance(sent, int):
        return
    if _alerts(connection, found, max(0, sent), head):
        for journal_id, stream, seq in rows("SELECT journal_id, stream, next_seq FROM journal"):
            if isinstance(journal_id, int) and isinstance(seq, int):
                found.positions[journal_id % (1 << 64), str(stream)] = seq


def _alerts(connection: sqlite3.Connection, found: Salvage, after: int, head: int) -> bool:
    """The alerts above ``after``; True where none of them is missing."""
    deadline = time.monotonic() + SALVAGE_S_MAX
    for _seq, crc32, body in _pieces(connection, after, head, lambda: time.monotonic() < deadline):
        if len(found.alerts) >= ALERTS_MAX:
            break
        with suppress(msgspec.MsgspecError, TypeError):
            if zlib.crc32(body) == crc32:
                found.alerts.append(msgspec.json.decode(body, type=Alert))
    return head > 0 and len(found.alerts) == head - after


def _pieces(
    connection: sqlite3.Connection, after: int, head: int, go_on: Callable[[], bool]
) -> Iterator[tuple[int, int, Any]]:
    sql = "SELECT seq, crc32, body FROM alert WHERE seq BETWEEN ? AND ? ORDER BY seq"
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
