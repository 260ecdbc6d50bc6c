"""A disk that loses its power: what may be left of a directory after any moment of a recorded life.

``libdisk.so`` (disk.c) writes down what a process does to its files; here that is replayed onto a
model that knows what the last sync of each file and directory has promised. Everything else a disk
was free to keep, drop or tear: pages of 4096 bytes in any order, of several versions any, torn at
sectors of 512 bytes; sizes; names. A sync that failed promises nothing, and what it was to write is
clean for the kernel from then on: no later sync brings it.
"""

import mmap
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from tests.helpers.build import build

_T = TypeVar("_T")
PAGE = 4096
SECTOR = 512
SHARED = "-shm"  # of SQLite: memory that all connections map; rebuilt by the first
HOLLOW = ".reserve"  # blocks alone: nothing of their content counts

CREATE, WRITE, SIZE, SYNC, RENAME, UNLINK, LINK, MKDIR = range(1, 9)
_RECORD = struct.Struct("<QQQQIIII")
_CONTROL = struct.Struct("<48s10I")
_FIELDS = (
    "sync_errno", "sync_ms", "write_errno", "open_errno", "end_at",
    "records", "syncs_failed", "writes_failed", "opens_failed", "syncs_slow",
)  # fmt: skip


class Record(NamedTuple):
    """One thing that was done, ``at`` a place of the log (bytes); times are CLOCK_MONOTONIC ns."""

    at: int
    ns: int
    inode: int
    a: int
    b: int
    op: int
    path: str
    to: str
    data: bytes


class Recorded:
    """The shim around the processes of one directory: what they preload, their log, the faults.

    A context manager; ``root`` is where the directory will be.
    """

    def __init__(self, directory: Path, root: Path) -> None:
        self.log = directory / "disk.log"
        self.root = root
        self._page = directory / "disk.control"
        self._page.write_bytes(bytes(_CONTROL.size))
        self._file = self._page.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), _CONTROL.size)
        self._read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()
        self._file.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a process has to be started with."""
        return {
            "LD_PRELOAD": str(build("libdisk.so")),
            "SITEWARDEN_DISK_ROOT": str(self.root),
            "SITEWARDEN_DISK_LOG": str(self.log),
            "SITEWARDEN_DISK_CONTROL": str(self._page),
        }

    def faults(self, match: str, **fields: int) -> None:
        """From now on files whose path contains ``match`` fail so; without fields: no more."""
        for name in _FIELDS[:5]:
            at = 48 + 4 * _FIELDS.index(name)
            self._map[at : at + 4] = struct.pack("<I", fields.get(name, 0))
        self._map[:48] = match.encode().ljust(48, b"\0")

    def count(self, name: str) -> int:
        """``records``, or how often a fault was met: ``syncs_failed`` ..."""
        found: int = struct.unpack_from("<I", self._map, 48 + 4 * _FIELDS.index(name))[0]
        return found

    def news(self) -> list[Record]:
        """What was written down since the last call."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(self._read)
            raw = file.read()
        found = list(_records(raw, self._read))
        self._read += len(raw)
        return found


def _records(raw: bytes, began: int) -> Iterator[Record]:
    at = 0
    while at < len(raw):
        ns, inode, a, b, op, data_bytes, path_bytes, to_bytes = _RECORD.unpack_from(raw, at)
        ends = [at + _RECORD.size]
        for size in (path_bytes, to_bytes, data_bytes):
            ends.append(ends[-1] + size)
        path, to = (raw[ends[i] : ends[i + 1]].decode() for i in (0, 1))
        yield Record(began + at, ns, inode, a, b, op, path, to, raw[ends[2] : ends[3]])
        at = ends[3]


@dataclass
class _File:
    """One inode: what it holds for a reader, what is durable of it, what happened since."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    size: int = 0
    durable_size: int = 0
    pages: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)  # versions
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def write(self, index: int, at: int, data: bytes) -> None:
        end = at + len(data)
        if end > len(self.live):
            self.live.extend(bytes(end - len(self.live)))
        self.live[at:end] = data
        for page in range(at // PAGE, (end + PAGE - 1) // PAGE):
            self._changed(index, page)
        if end > self.size:
            self.size = end
            self.sizes.append((index, end))

    def resize(self, index: int, size: int) -> None:
        if size < len(self.live):
            gone = range(size // PAGE, (len(self.live) + PAGE - 1) // PAGE)
            del self.live[size:]
            for page in gone:
                self._changed(index, page)
        self.size = size
        self.sizes.append((index, size))

    def sync(self, began: int, *, kept: bool) -> None:
        """Everything before the record ``began`` is durable, or (not kept) will never be."""
        for page in list(self.pages):
            versions = self.pages[page]
            done = [body for index, body in versions if index < began]
            if done and kept:
                self._store(page, done[-1])
            self.pages[page] = [each for each in versions if each[0] >= began]
            if not self.pages[page]:
                del self.pages[page]
        if kept:
            self.durable_size = next(
                (size for index, size in reversed(self.sizes) if index < began), self.durable_size
            )
            self.sizes = [each for each in self.sizes if each[0] >= began]

    def left(self, chance: random.Random) -> tuple[bytes, int]:
        """Content and size as they may be found."""
        found = bytearray(self.durable)
        keep = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        torn = chance.choice((0.0, 0.3))
        for page, versions in self.pages.items():
            old = bytes(self.durable[page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0")
            bodies = [old, *(body for _, body in versions)]
            first = _drawn(chance, bodies, keep)
            body = bytearray(first)
            if chance.random() < torn:
                for at in range(0, PAGE, SECTOR):
                    body[at : at + SECTOR] = _drawn(chance, bodies, keep)[at : at + SECTOR]
            end = (page + 1) * PAGE
            if end > len(found):
                found.extend(bytes(end - len(found)))
            found[end - PAGE : end] = body
        size = _drawn(chance, [self.durable_size, *(size for _, size in self.sizes)], keep)
        return bytes(found[:size]), size

    def _changed(self, index: int, page: int) -> None:
        body = bytes(self.live[page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0")
        self.pages.setdefault(page, []).append((index, body))

    def _store(self, page: int, body: bytes) -> None:
        end = (page + 1) * PAGE
        if end > len(self.durable):
            self.durable.extend(bytes(end - len(self.durable)))
        self.durable[end - PAGE : end] = body


def _drawn(chance: random.Random, versions: list[_T], keep: float) -> _T:
    """The newest with this probability, else any of them."""
    return versions[-1] if chance.random() < keep else chance.choice(versions)


@dataclass
class _Change:
    """A name that no sync of its directory has made durable yet."""

    op: int
    path: str
    to: str
    file: "_File | None"


class Disk:
    """The directory ``root`` from how it is now, on through ``play``, to ``cut``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, _File | None] = {}  # durable; None: a directory
        self._files: dict[int, _File] = {}  # by inode, as the process sees them
        self._changes: dict[str, list[_Change]] = {}  # by directory
        self._directories: dict[int, str] = {}
        self._own(root)
        for path in sorted(root.rglob("*")):
            self._own(path)

    def play(self, record: Record) -> None:
        """What was done next."""
        file = self._files.get(record.inode)
        if record.op == CREATE:
            self._files[record.inode] = file = _File()
            self._directories.pop(record.inode, None)
            self._change(CREATE, record.path, "", file)
        elif record.op == MKDIR:
            self._directories[record.inode] = record.path
            self._change(MKDIR, record.path, "", None)
        elif record.op in {RENAME, UNLINK, LINK}:
            self._change(record.op, record.path, record.to, file)
        elif record.op == SYNC and record.inode in self._directories:
            if record.a:
                directory = self._directories[record.inode]
                self._names = _applied(self._names, self._changes.pop(directory, []))
        elif file is not None and record.op == WRITE:
            file.write(record.at, record.a, record.data)
        elif file is not None and record.op == SIZE:
            file.resize(record.at, record.a)
        elif file is not None and record.op == SYNC:
            file.sync(record.b, kept=bool(record.a))

    def cut(self, target: Path, chance: random.Random) -> None:
        """Leave in ``target`` (made anew) what may be found when the power is back."""
        names = self._names
        for changes in self._changes.values():
            names = _applied(names, _left(changes, chance))
        target.mkdir(mode=0o750, parents=True, exist_ok=True)
        for name in sorted(names):
            file, path = names[name], target / os.path.relpath(name, self._root)
            if file is None:
                path.mkdir(mode=0o750, exist_ok=True)
            elif not path.parent.is_dir():
                continue  # its directory was never durable
            elif name.endswith(SHARED):
                if chance.random() < 0.5:
                    path.write_bytes(chance.randbytes(8 * PAGE))
            else:
                body, size = file.left(chance)
                with path.open("wb") as out:
                    out.write(b"" if name.endswith(HOLLOW) else body)
                    out.truncate(size)

    def _own(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self._names[str(path)] = None
            self._directories[inode] = str(path)
            return
        file = _File()
        if not path.name.endswith(HOLLOW):
            file.durable, file.live = (bytearray(path.read_bytes()) for _ in range(2))
        file.size = file.durable_size = path.stat().st_size
        self._names[str(path)] = self._files[inode] = file

    def _change(self, op: int, path: str, to: str, file: "_File | None") -> None:
        change = _Change(op, path, to, file)
        self._changes.setdefault(os.path.dirname(to or path), []).append(change)


def _left(changes: list[_Change], chance: random.Random) -> list[_Change]:
    """A journal keeps the first of them; without one, any may be missing."""
    if chance.random() < 0.5:
        return changes[: chance.randint(0, len(changes))]
    keep = chance.choice((0.2, 0.8))
    return [each for each in changes if chance.random() < keep]


def _applied(names: "dict[str, _File | None]", changes: list[_Change]) -> "dict[str, _File | None]":
    names = dict(names)
    for change in changes:
        if change.op in {CREATE, MKDIR}:
            names[change.path] = change.file
        elif change.op == UNLINK:
            names.pop(change.path, None)
        else:
            if change.op == RENAME:
                names.pop(change.path, None)
            names[change.to] = change.file
    return names
