"""The tier behind the raw samples: five-minute buckets, kept for long and bounded for themselves.

Made of each window when it is packed, in that transaction: every sample is in exactly one line,
whenever it came. A bucket that two windows share, or into which late samples fall, stands in parts,
which are joined when they are read.
"""

import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aiosqlite import Connection

from fastpath.columns import CODEC_PACKED, FIELDS, Block
from gateway.store.chunks import Chunk, Piece, block_of, tags_of

SPAN_NS: Final = 300 * 1_000_000_000
MAX_AGE_NS: Final = 365 * 86_400 * 1_000_000_000
PART_OF_BYTES: Final = 4  # of the history's bound: at most so little a part is the tier's
SHED_LINES: Final = 256  # at a time
_LINES: Final = 256  # read at a time
_WINDOW_LINES_MAX: Final = 1 << 20  # of one window: a line of each group at most
_QUALITY: Final = 3
_NS_MAX: Final = 2**63 - 1

_LOGGER = logging.getLogger(__name__)


class Bucket(NamedTuple):
    """What remains of a tag's samples of [t_ns, t_ns + SPAN_NS).

    ``mean`` has 7 digits. ``samples``: samples that were not BAD; 0: the values are NaN.
    ``quality``: the quality byte of the worst of all.
    """

    t_ns: int
    minimum: float
    mean: float
    maximum: float
    last: float
    samples: int
    quality: int


class Part(NamedTuple):
    """What one line has of a bucket, and when its last value was."""

    bucket: Bucket
    last_ns: int


class Line(NamedTuple):
    """One line of the summary table (its fields in the table's order)."""

    id: int
    group_id: int
    t_first: int
    t_last: int
    n: int
    crc32: int
    body: bytes


class Shed(NamedTuple):
    """What the oldest lines came to."""

    buckets: int
    bytes: int


def whole_spans(t0_ns: int, t1_ns: int) -> tuple[int, int]:
    """The first and last ns of the buckets that these two are in, as far as int64 goes."""
    first, last = t0_ns // SPAN_NS * SPAN_NS, t1_ns // SPAN_NS * SPAN_NS + SPAN_NS - 1
    return max(first, -_NS_MAX), min(last, _NS_MAX)


def line_id(last_piece: int, place: int = 0) -> int:
    """The id of a line of the window that ends with this piece, ``place`` of its lines before it.

    So it is known which lines stand for raw samples that are still there.
    """
    return last_piece * _WINDOW_LINES_MAX + place


def lines_of(chunks: Sequence[Chunk], group_tags: Mapping[int, Sequence[str]]) -> list[Line]:
    """The lines of a window's chunks. It takes a while: for a thread."""
    found: list[Line] = []
    for chunk in chunks:
        if chunk.members:  # of some tags alone: what could not be merged
            continue
        tags = group_tags[chunk.group_id]
        try:
            body = block_of(chunk, tags).summary(SPAN_NS)
            block = Block(CODEC_PACKED, body, FIELDS * len(tags))
        except ValueError as error:
            _LOGGER.error("no five-minute values of a chunk: %s", error)
            continue
        found.append(
            Line(line_id(chunk.last_piece, len(found)), chunk.group_id, block.t_first_ns,
                 block.t_last_ns, block.samples, zlib.crc32(body), body)
        )  # fmt: skip
    return found


async def store(connection: Connection, lines: Sequence[Line]) -> None:
    """Add them, in the transaction of their chunks."""
    await connection.executemany(
        "INSERT INTO summary (id, group_id, t_first, t_last, n, crc32, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        lines,
    )
    await connection.execute_fetchall(
        "INSERT INTO tier VALUES (1, ?1, ?2, 0) ON CONFLICT DO UPDATE SET "
        "buckets = buckets + ?1, bytes = bytes + ?2",
        (sum(line.n for line in lines) // FIELDS, sum(len(line.body) for line in lines)),
    )


async def shed(connection: Connection, before_ns: int, max_bytes: int) -> Shed | None:
    """Delete the oldest lines that are older than this or beyond the bytes; None: there are none.

    At most SHED_LINES at a time.
    """
    over = -max_bytes
    for (size,) in await connection.execute_fetchall("SELECT bytes FROM tier"):
        over += size
    gone, buckets, freed = [], 0, 0
    for ident, t_last, n, length in await connection.execute_fetchall(
        "SELECT id, t_last, n, length(body) FROM summary ORDER BY id LIMIT ?", (SHED_LINES,)
    ):
        if t_last >= before_ns and freed >= over:
            break
        gone.append((ident,))
        buckets += n // FIELDS
        freed += length
    if not gone:
        return None
    await connection.executemany("DELETE FROM summary WHERE id = ?", gone)
    await connection.execute_fetchall(
        "UPDATE tier SET buckets = buckets - ?1, bytes = bytes - ?2, "
        "shed_buckets = shed_buckets + ?1",
        (buckets, freed),
    )
    return Shed(buckets, freed)


async def shed_so_far(connection: Connection) -> int:
    """Buckets that were ever shed."""
    for (buckets,) in await connection.execute_fetchall("SELECT shed_buckets FROM tier"):
        return int(buckets)
    return 0


async def lines_in(
    group_id: int, span: tuple[int, int], after: int, connection: Connection
) -> list[Line]:
    """Some of those that have something of the span, above ``after``."""
    found = await connection.execute_fetchall(
        "SELECT id, group_id, t_first, t_last, n, crc32, body FROM summary "
        "WHERE id > ? AND group_id = ? AND t_last >= ? AND t_first <= ? ORDER BY id LIMIT ?",
        (after, group_id, *span, _LINES),
    )
    return [Line(*row) for row in found]


def block_of_line(line: Line, tags: int) -> Block:
    """Its body decoded, for ``parts_of``. Raises ValueError where it is damaged."""
    if zlib.crc32(line.body) != line.crc32:
        msg = "the checksum is wrong"
        raise ValueError(msg)
    return Block(CODEC_PACKED, line.body, FIELDS * tags)


def parts_of(block: Block, place: int, span: tuple[int, int]) -> list[Part]:
    """What a block of buckets has of the tag at ``place`` in the buckets that touch the span."""
    low, high = whole_spans(*span)
    fields = [block.series(place * FIELDS + field, low, high) for field in range(FIELDS)]
    return [
        Part(
            Bucket(minimum[0], minimum[1], mean[1], maximum[1], newest[1], int(count[1]),
                   minimum[2]),
            newest[0],
        )
        for minimum, mean, maximum, newest, count in zip(*fields, strict=True)
    ]  # fmt: skip


class Buckets:
    """The buckets of one tag in a span, joined from their parts."""

    def __init__(self, tag: str, span: tuple[int, int]) -> None:
        self._tag = tag
        self._span = span
        self._found: dict[int, Part] = {}

    def add_line(self, line: Line, group_tags: Sequence[str]) -> None:
        """What a line has of it. Raises ValueError where the line is damaged."""
        self._add(block_of_line(line, len(group_tags)), group_tags.index(self._tag))

    def add_samples(self, stored: Piece | Chunk, group_tags: Sequence[str]) -> None:
        """What is not summarised yet. Raises ValueError where it is damaged."""
        tags = tags_of(stored.members, group_tags)
        if self._tag in tags:
            body = block_of(stored, group_tags).summary(SPAN_NS)
            block = Block(CODEC_PACKED, body, FIELDS * len(tags))
            self._add(block, tags.index(self._tag))

    def first(self, limit: int) -> list[Bucket]:
        """The oldest of them, by time."""
        return [self._found[t_ns].bucket for t_ns in sorted(self._found)[:limit]]

    def _add(self, block: Block, place: int) -> None:
        for part in parts_of(block, place, self._span):
            t_ns = part.bucket.t_ns
            before = self._found.get(t_ns)
            self._found[t_ns] = part if before is None else _joined(before, part)


def _joined(one: Part, other: Part) -> Part:
    """Two parts of a bucket; of the same time the later part is the last."""
    a, b = one.bucket, other.bucket
    quality = a.quality if a.quality & _QUALITY <= b.quality & _QUALITY else b.quality
    if not a.samples or not b.samples:
        full = one if a.samples else other
        return full._replace(bucket=full.bucket._replace(quality=quality))
    count = a.samples + b.samples
    newest = one if one.last_ns > other.last_ns else other
    joined = Bucket(
        t_ns=a.t_ns,
        minimum=min(a.minimum, b.minimum),
        mean=math.fsum((a.mean * a.samples / count, b.mean * b.samples / count)),
        maximum=max(a.maximum, b.maximum),
        last=newest.bucket.last,
        samples=count,
        quality=quality,
    )
    return Part(joined, newest.last_ns)
