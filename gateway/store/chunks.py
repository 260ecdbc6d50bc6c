"""Pieces and chunks: what the columns of a poll group look like in the database.

A piece is one commit's samples of a group and one live message. A chunk merges the pieces of a
window by time; its body is cut into backfill messages, always in the same way. What cannot be
merged stays as it is: a chunk of one piece, one message.
"""

import logging
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from fastpath import columns
from fastpath.columns import Block
from gateway.store.items import SampleItem

_LOGGER = logging.getLogger(__name__)

# Decoded, a sample takes 17 bytes: a group that has more than this in a window has several chunks.
CHUNK_SAMPLES: Final = 62_500

Columns = tuple[list[int], list[int], list[list[float]], list[bytes]]


class Piece(NamedTuple):
    """One line of the tail (its fields in the table's order)."""

    piece: int
    group_id: int
    members: bytes  # uint16 places in the group's tags; empty: all
    t_first: int
    t_last: int
    n: int
    codec: int
    crc32: int
    body: bytes


class Chunk(NamedTuple):
    """One line of the chunk table (its fields in the table's order).

    ``first_message`` counts from 0 until the window's messages are numbered.
    """

    id: int | None
    first_piece: int
    last_piece: int
    group_id: int
    members: bytes
    t_first: int
    t_last: int
    n: int
    first_message: int
    messages: int
    codec: int
    crc32: int
    body: bytes


def members_of(tags: Sequence[int], places: Mapping[int, int]) -> bytes:
    """The places of a piece's tags in its group, b"" where it has all of them in order."""
    found = [places[tag] for tag in tags]
    return b"" if found == list(range(len(places))) else array("H", found).tobytes()


def merged(
    span: tuple[int, int], window: Sequence[Piece], group_tags: Mapping[int, Sequence[str]]
) -> list[Chunk]:
    """The chunks of the pieces of a window (first, last), by group. It takes a while: for a thread.

    Every chunk is decoded once before its pieces may go.
    """
    groups: dict[int, list[Piece]] = {}
    for piece in window:
        groups.setdefault(piece.group_id, []).append(piece)
    chunks: list[Chunk] = []
    messages = 0
    for group_id, pieces in groups.items():
        for chunk in _merged_group(span, pieces, len(group_tags[group_id])):
            chunks.append(chunk._replace(first_message=messages))
            messages += chunk.messages
    return chunks


def single(piece: Piece, first: int, last: int) -> Chunk:
    """A piece of the window first .. last as it is: a chunk of one message."""
    return Chunk(None, first, last, piece.group_id, piece.members, piece.t_first, piece.t_last,
                 piece.n, 0, 1, piece.codec, piece.crc32, piece.body)  # fmt: skip


def whole(stored: Piece | Chunk, group_tags: Sequence[str]) -> Columns:
    """All of it as one message. Raises ValueError where it is damaged or of an unknown codec."""
    if stored.codec != columns.CODEC_PLAIN:
        return block_of(stored, group_tags).whole()
    _check(stored)
    times, values, qualities = columns.unpack(stored.body)
    return times, list(range(len(values))), values, qualities


def block_of(stored: Piece | Chunk, group_tags: Sequence[str]) -> Block:
    """Its body decoded. Raises ValueError where it is damaged or of an unknown codec."""
    _check(stored)
    count = len(stored.members) // 2 or len(group_tags)
    return Block(stored.codec, stored.body, count)


def item_of(seq: int, found: Columns, tags: Sequence[str]) -> SampleItem:
    """A message of a block as it leaves; ``tags`` are those of the block's places."""
    times, places, values, qualities = found
    t0_ns = times[0] if times else 0
    return SampleItem(
        seq=seq,
        t0_ns=t0_ns,
        dt_ns=[time - t0_ns for time in times],
        tags=[tags[place] for place in places],
        values=values,
        qualities=qualities,
    )


def places_of(members: bytes, count: int) -> list[int]:
    """The places in a group of ``count`` tags of the columns of a body."""
    return array("H", members).tolist() if members else list(range(count))


def tags_of(members: bytes, group_tags: Sequence[str]) -> list[str]:
    """The ids of the tags of the columns of a body."""
    return [group_tags[place] for place in places_of(members, len(group_tags))]


def _check(stored: Piece | Chunk) -> None:
    if zlib.crc32(stored.body) != stored.crc32:
        msg = "the checksum is wrong"
        raise ValueError(msg)


def _merged_group(span: tuple[int, int], pieces: list[Piece], tags: int) -> list[Chunk]:
    sound = [piece for piece in pieces if zlib.crc32(piece.body) == piece.crc32]
    chunks = [single(piece, *span) for piece in pieces if zlib.crc32(piece.body) != piece.crc32]
    for part in _parted(sound):
        chunks += _merged_part(span, part, tags)
    return chunks


def _parted(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """In runs of at most ``CHUNK_SAMPLES``, or of one piece that alone has more."""
    part: list[Piece] = []
    n = 0
    for piece in pieces:
        if part and n + piece.n > CHUNK_SAMPLES:
            yield part
            part, n = [], 0
        part.append(piece)
        n += piece.n
    if part:
        yield part


def _merged_part(span: tuple[int, int], pieces: list[Piece], tags: int) -> list[Chunk]:
    first, last = span
    n = sum(piece.n for piece in pieces)
    parts = [(places_of(piece.members, tags), piece.codec, piece.body) for piece in pieces]
    try:
        body = columns.merge(parts, tags)
        block = Block(columns.CODEC_PACKED, body, tags)
    except ValueError as error:
        _LOGGER.error("pieces %s to %s are kept as they are: %s", first, last, error)
        return [single(piece, first, last) for piece in pieces]
    if block.samples != n:
        _LOGGER.error("pieces %s to %s: %s samples became %s", first, last, n, block.samples)
        return [single(piece, first, last) for piece in pieces]
    chunk = Chunk(
        None, first, last, pieces[0].group_id, b"", block.t_first_ns, block.t_last_ns, n, 0,
        block.messages(), columns.CODEC_PACKED, zlib.crc32(body), body,
    )  # fmt: skip
    return [chunk]
