"""Programs by the short number that journal records carry, read from where the gateway keeps them.

Records may be older than the running program (the gateway was away while it changed), so the texts
and the slots of every program that is still on disk can be asked for.
"""

import contextlib
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fastpath import blob
from fastpath.codes import NONE_U32, Owner
from gateway.guard.program_text import ProgramText

_KNOWN_MAX: Final = 8


class KnownPrograms:
    """``directory`` has blobs under their hash in hexadecimal, ``last_good`` is the guard's."""

    def __init__(self, directory: Path, last_good: Path, tag_index: Mapping[str, int]) -> None:
        self._directory = directory
        self._last_good = last_good
        self._tag_index = tag_index
        self._texts: dict[int, ProgramText] = {}  # newest last
        self._tables: dict[int, array[int]] = {}
        self.add(blob.EMPTY)

    def add(self, program: bytes) -> None:
        """Know a blob without the disk."""
        text = ProgramText(program)
        number = number_of(text.hash)
        self._texts[number] = text
        self._tables[number] = self._table(program, text)
        for oldest in list(self._texts)[1:-_KNOWN_MAX]:  # the empty one stays
            del self._texts[oldest], self._tables[oldest]

    def text(self, number: int) -> ProgramText | None:
        """The texts of a program, None where it is not on disk."""
        if number not in self._texts:
            self._read(number)
        return self._texts.get(number)

    def texts(self) -> list[ProgramText]:
        """Those that are known now, newest first."""
        return list(reversed(self._texts.values()))

    def table(self, number: int) -> "array[int] | None":
        """Guard slot to tag index, NONE_U32 for what the guard does not poll itself."""
        if number not in self._tables:
            self._read(number)
        return self._tables.get(number)

    def _read(self, number: int) -> None:
        start = number.to_bytes(8, "little").hex()
        for path in (*self._directory.glob(f"{start}*"), self._last_good):
            with contextlib.suppress(OSError, ValueError, LookupError):
                found = path.read_bytes()
                digest = found[blob.HASH_AT : blob.HASH_AT + 32]
                if number_of(digest) == number and blob.blob_hash(found) == digest:
                    self.add(found)
                    return

    def _table(self, program: bytes, text: ProgramText) -> "array[int]":
        tags: list[blob.Tag] = blob.section(program, "tags")
        return array(
            "I",
            [
                self._tag_index.get(ident, NONE_U32) if tag.owner == Owner.GUARD else NONE_U32
                for ident, tag in zip(text.tags, tags, strict=True)
            ],
        )


def number_of(program_hash: bytes) -> int:
    """The short form of a program's hash, as records carry it."""
    return int.from_bytes(program_hash[:8], "little")
