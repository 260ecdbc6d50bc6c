"""Samples on their way to the history: gathered until a commit, then pieces that wait.

Bounded: where the disk takes none for too long, the oldest pieces go, and are counted.
"""

import zlib
from collections import deque
from collections.abc import Sequence
from typing import Final

from fastpath.accumulator import Accumulator
from fastpath.columns import CODEC_PACKED
from gateway.store.chunks import Piece, members_of
from gateway.store.items import PollGroup

SAMPLES_PER_PIECE_MAX: Final = 1_000
BYTES_MAX: Final = 32 * 1024 * 1024
COMMIT_BYTES_MAX: Final = 1024 * 1024


class Waiting:
    """Samples and pieces that are not stored. A piece's ``group_id`` is its place in ``groups``."""

    def __init__(self, groups: Sequence[PollGroup]) -> None:
        self.dropped = {"store": 0, "no_group": 0}  # samples
        self._accumulator = Accumulator([list(g.indices) for g in groups], SAMPLES_PER_PIECE_MAX)
        self._places = [{tag: i for i, tag in enumerate(g.indices)} for g in groups]
        self._pieces: deque[Piece] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Pieces that wait."""
        return len(self._pieces)

    @property
    def refused(self) -> int:
        """Samples for which there was no memory."""
        return self._accumulator.refused

    def add(self, samples: bytes) -> int:
        """Take messages.SAMPLE records by tag index; gives how many belong to a group."""
        taken = self._accumulator.add(samples)
        self.dropped["no_group"] += len(samples) // 32 - taken
        return taken

    def collect(self) -> None:
        """Make pieces of what was added."""
        for place, tags, t_first, t_last, n, body in self._accumulator.take():
            members = members_of(tags, self._places[place])
            crc32 = zlib.crc32(body)
            self._pieces.append(
                Piece(0, place, members, t_first, t_last, n, CODEC_PACKED, crc32, body)
            )
            self._bytes += len(body)

    def trim(self) -> int:
        """Keep to the bound; gives how many of the oldest had to go."""
        before = len(self._pieces)
        while self._bytes > BYTES_MAX:
            self.dropped["store"] += self._pop().n
        return before - len(self._pieces)

    def oldest(self) -> list[Piece]:
        """The oldest pieces that one transaction takes: the -wal stays small."""
        size = 0
        found: list[Piece] = []
        for piece in self._pieces:
            size += len(piece.body)
            if found and size > COMMIT_BYTES_MAX:
                break
            found.append(piece)
        return found

    def stored(self, count: int) -> None:
        """So many of the oldest are stored."""
        for _ in range(count):
            self._pop()

    def _pop(self) -> Piece:
        piece = self._pieces.popleft()
        self._bytes -= len(piece.body)
        return piece
