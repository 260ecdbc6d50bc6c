"""The audit of a damaged ledger: its front as far as the chain holds, then what fits itself.

The front comes over as it is, byte by byte. What follows is chained anew behind an entry that tells
of the gap, each with the hash that it had, so that heads which left the box are still found.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.store.audit import ROWS, AuditEntry, Chain, ChainError
from gateway.store.rechain import OLD_ROWS, OldChain

_STEP: Final = 256
_ENTRIES_MAX: Final = 200_000


@dataclass(slots=True)
class AuditFound:
    """``front``: rows of version 2 whose chain holds; ``rest``: (entry, the hash that it had)."""

    front: list[tuple[int, str, str, bytes, bytes]] = field(default_factory=list)
    rest: list[tuple[AuditEntry, str]] = field(default_factory=list)
    last_seq: int = 0  # that can be known
    last_head: str = ""  # hexadecimal
    chained_anew: str = ""  # the algorithm that it had before, "" where it is ours

    @property
    def lost(self) -> int:
        """Entries that there were and that cannot be read."""
        return max(0, self.last_seq - len(self.front) - len(self.rest))


def read_audit(connection: sqlite3.Connection, version: int, deadline_s: float) -> AuditFound:
    """What can be read until ``deadline_s`` (monotonic); never raises."""
    found = AuditFound()
    if version == 1:
        _read_old(connection, found, deadline_s)
    else:
        _read_new(connection, found, deadline_s)
    return found


def _read_new(connection: sqlite3.Connection, found: AuditFound, deadline_s: float) -> None:
    chain, holds = Chain(), True
    for row in _rows(connection, ROWS, deadline_s):
        seq, _kind, _action, body, stated = row
        if holds:
            try:
                entry, _was = chain.take(row)
                found.front.append((seq, entry.kind, entry.action, body, stated))
            except ChainError:
                holds = False
        if not (isinstance(body, bytes) and isinstance(stated, bytes)):
            continue
        if not holds and hashlib.sha256(body).digest() == stated:
            try:
                found.rest.append((AuditEntry.of(body), stated.hex()))
            except ValueError:
                continue
        found.last_seq, found.last_head = seq, stated.hex()


def _read_old(connection: sqlite3.Connection, found: AuditFound, deadline_s: float) -> None:
    """Of version 1: its front is chained anew, too, once it is known to hold."""
    old, digest = OldChain(), b""
    found.chained_anew = "BLAKE2b-256"
    for row in _rows(connection, OLD_ROWS.format("audit"), deadline_s):
        try:
            entry = old.take(row)
            body, made = entry.sealed(digest, old.head.hex())
        except (AttributeError, LookupError, TypeError, ValueError):
            old.wrong = old.wrong or row[0]
            continue
        if old.wrong:
            found.rest.append((entry, old.head.hex()))
        else:
            found.front.append((entry.seq, entry.kind, entry.action, body, made))
            digest = made
        found.last_seq, found.last_head = entry.seq, old.head.hex()


def _rows(connection: sqlite3.Connection, sql: str, deadline_s: float) -> Iterator[Any]:
    """In order; around a damaged page one by one, until that brings nothing any more."""
    after = in_vain = 0
    while after < _ENTRIES_MAX and in_vain < _STEP and time.monotonic() < deadline_s:
        limit = 1 if in_vain else _STEP
        try:
            rows = connection.execute(sql, (after, limit)).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            if limit == 1:
                after += 1
            in_vain += 1
            continue
        if not rows:
            return
        yield from rows
        in_vain, after = 0, rows[-1][0]
