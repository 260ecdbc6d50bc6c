"""Raises as they are stored and read back: everybody who looks at what is wrong now reads them.

One that is not what its checksum says is made of its alert again. Where that does not fit either it
is left out, and its maker raises it anew; else it would stand for ever beside the new one.
"""

import zlib
from collections.abc import Callable
from typing import Any

import msgspec
from aiosqlite import Connection

from gateway.store.alert import ActiveAlert, Alert

Fetch = Callable[[int], tuple[Any, Any] | None]  # (crc32, body) of the alert of a sequence

STORED = "SELECT crc32, body FROM alert WHERE seq = ?"
_INSERT = "INSERT OR REPLACE INTO active VALUES (?, ?, ?, ?)"


def crc_of(item: ActiveAlert) -> int:
    """Its checksum: no part of it can be another."""
    return zlib.crc32(b"\0".join((item.subject.encode(), item.id.encode(), item.body)))


def mended(item: ActiveAlert, crc32: int | None, fetch: Fetch) -> ActiveAlert | None:
    """It as it was; None where that is not known.

    ``crc32`` None: it was stored without one, so its alert, which has one, is believed first.
    """
    if crc_of(item) == crc32:
        return item
    for ident in _idents_of(item):
        stored_crc32, body = fetch(_seq_of(ident)) or (0, None)
        if isinstance(body, bytes) and zlib.crc32(body) == stored_crc32:
            found, alert = ActiveAlert(item.subject, ident, body), _decoded(body)
            if alert and alert.id == ident and crc32 in {None, crc_of(found)}:
                return found
    own = _decoded(item.body)
    return item if crc32 is None and own and own.id == item.id else None


async def read(connection: Connection) -> list[ActiveAlert]:
    """All of them; a row that is damaged is stored anew, or deleted."""
    found = []
    for subject, ident, body, crc32 in await connection.execute_fetchall("SELECT * FROM active"):
        item: ActiveAlert | None = ActiveAlert(subject, ident, body)
        if item and crc_of(item) != crc32:
            item = await _mended(connection, item, crc32)
            await connection.execute_fetchall("DELETE FROM active WHERE subject = ?", (subject,))
            await write(connection, [item] if item else [])
        found += [item] if item else []
    return found


async def write(connection: Connection, items: list[ActiveAlert]) -> None:
    """Store some, each in the place of that of its subject."""
    await connection.executemany(
        _INSERT, [(item.subject, item.id, item.body, crc_of(item)) for item in items]
    )


async def seal(connection: Connection) -> None:
    """Bring those of version 2 over, which had no checksums; inside a transaction."""
    for row in await connection.execute_fetchall("SELECT subject, id, body FROM active_v2"):
        item = await _mended(connection, ActiveAlert(*row), None)
        await write(connection, [item] if item else [])
    await connection.execute_fetchall("DROP TABLE active_v2")


async def _mended(
    connection: Connection, item: ActiveAlert, crc32: int | None
) -> ActiveAlert | None:
    stored = {
        seq: tuple(row)
        for seq in map(_seq_of, _idents_of(item))
        for row in await connection.execute_fetchall(STORED, (seq,))
    }
    return mended(item, crc32, stored.get)


def _decoded(body: bytes) -> Alert | None:
    try:
        return msgspec.json.decode(body, type=Alert)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _idents_of(item: ActiveAlert) -> list[str]:
    own = _decoded(item.body)
    return [own.id, item.id] if own else [item.id]


def _seq_of(ident: str) -> int:
    digits = ident.rpartition("/")[2]
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else 0
