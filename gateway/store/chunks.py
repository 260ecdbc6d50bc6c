"""Rows and chunks: what the columns of a poll group look like in the database.

A row is one message upstream and keeps its boundary for ever. A chunk with codec 0 holds the bodies
of many rows one after another, with a table of where each stands; a denser codec may merge them.
"""

import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from fastpath import columns
from gateway.store.items import SampleItem

CODEC: Final = columns.CODEC_PLAIN

_PACKER: Final = msgspec.msgpack.Encoder()


class Row(NamedTuple):
    """One line of the tail (its fields in the table's order)."""

    row: int
    group_id: int
    members: bytes  # uint16 places in the group's tags; empty: all
    t_first: int
    t_last: int
    n: int
    codec: int
    crc32: int
    body: bytes


class Chunk(NamedTuple):
    """One line of the chunk table without its id (its fields in the table's order)."""

    first_row: int
    last_row: int
    group_id: int
    t_first: int
    t_last: int
    n: int
    codec: int
    crc32: int
    rows: bytes
    body: bytes


class _Place(msgspec.Struct, array_like=True, frozen=True):
    """Where one row stands in a chunk's body."""

    row: int
    members: bytes
    t_first: int
    t_last: int
    n: int
    length: int


_PLACES: Final = msgspec.msgpack.Decoder(list[_Place])


def members_of(tags: Sequence[int], places: dict[int, int]) -> bytes:
    """The places of a row's tags in its group, b"" where it has all of them in order."""
    found = [places[tag] for tag in tags]
    return b"" if found == list(range(len(places))) else array("H", found).tobytes()


def pack_rows(first_row: int, last_row: int, rows: Iterable[Row]) -> list[Chunk]:
    """The chunks of a window of rows, one per group."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group_id, []).append(row)
    return [_chunk(first_row, last_row, group_id, own) for group_id, own in groups.items()]


def rows_of(chunk: Chunk) -> list[Row]:
    """The rows of a chunk. Raises ValueError where it is damaged."""
    if zlib.crc32(chunk.body, zlib.crc32(chunk.rows)) != chunk.crc32:
        msg = f"the chunk of rows {chunk.first_row} to {chunk.last_row} is damaged"
        raise ValueError(msg)
    rows, at = [], 0
    for place in _PLACES.decode(chunk.rows):
        body = chunk.body[at : at + place.length]
        at += place.length
        rows.append(
            Row(place.row, chunk.group_id, place.members, place.t_first, place.t_last, place.n,
                chunk.codec, zlib.crc32(body), body)
        )  # fmt: skip
    return rows


def item_of(seq: int, row: Row, group_tags: Sequence[str]) -> SampleItem:
    """A row as it leaves. Raises ValueError where it is damaged or of an unknown codec."""
    times, values, qualities = _columns(row)
    t0_ns = times[0] if times else row.t_first
    return SampleItem(
        seq=seq,
        t0_ns=t0_ns,
        dt_ns=[time - t0_ns for time in times],
        tags=tags_of(row, group_tags),
        values=values,
        qualities=qualities,
    )


def series_of(row: Row, group_tags: Sequence[str], tag: str) -> list[tuple[int, float, int]]:
    """(UTC ns, value, quality byte) of one tag in a row. Raises ValueError."""
    tags = tags_of(row, group_tags)
    if tag not in tags:
        return []
    i = tags.index(tag)
    times, values, qualities = _columns(row)
    found = zip(times, values[i], qualities[i], strict=True)
    return [item for item in found if item[2] != columns.ABSENT]


def tags_of(row: Row, group_tags: Sequence[str]) -> list[str]:
    """The ids of a row's tags."""
    if not row.members:
        return list(group_tags)
    return [group_tags[place] for place in array("H", row.members)]


def _columns(row: Row) -> tuple[list[int], list[list[float]], list[bytes]]:
    if row.codec != CODEC:
        msg = f"row {row.row} has codec {row.codec}"
        raise ValueError(msg)
    if zlib.crc32(row.body) != row.crc32:
        msg = f"row {row.row} is damaged"
        raise ValueError(msg)
    return columns.unpack(row.body)


def _chunk(first_row: int, last_row: int, group_id: int, rows: list[Row]) -> Chunk:
    places: list[Any] = [
        _Place(row.row, row.members, row.t_first, row.t_last, row.n, len(row.body)) for row in rows
    ]
    table = _PACKER.encode(places)
    body = b"".join(row.body for row in rows)
    return Chunk(
        first_row=first_row,
        last_row=last_row,
        group_id=group_id,
        t_first=min(row.t_first for row in rows),
        t_last=max(row.t_last for row in rows),
        n=sum(row.n for row in rows),
        codec=CODEC,
        crc32=zlib.crc32(body, zlib.crc32(table)),
        rows=table,
        body=body,
    )
