"""Bringing the site's program to the guard, and knowing which program the guard runs.

The guard starts with its last good program; the site file's reaches it only by LOAD, under the swap
rules. A program is on disk under its hash before the guard is asked to load it.
"""

import asyncio
import contextlib
import logging
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from fastpath import blob
from fastpath.codes import NONE_U32, InterlockFlag, ResultCode, ResultDetail
from gateway.errors import GuardError, StoreError
from gateway.paths import Paths, replace_file

if TYPE_CHECKING:
    from pathlib import Path

    from fastpath.journal import GuardView
    from fastpath.messages import Result, Welcome
    from gateway.guard.link import GuardLink
    from gateway.life.problems import Problems

_LOGGER = logging.getLogger(__name__)

RETRY_S: Final = 5.0
PROGRAMS_KEPT: Final = 20
_DIFFERS: Final = "running program differs from the site file"
_EMPTY_HASH: Final = blob.blob_hash(blob.EMPTY)


class Audit(Protocol):
    """What keeps commands durably: the ledger."""

    async def command(self, who: str, action: str, target: str, detail: Mapping[str, Any]) -> int:
        """Store a command before it acts; its ledger seq. Raises StoreError."""

    async def command_result(self, seq: int, code: int, text: str) -> None:
        """Store what came of it. Raises StoreError."""


@dataclass(frozen=True, slots=True)
class Running:
    """A program that the guard runs: its hash, its texts, and how its slots meet our tags."""

    program: bytes = bytes(32)
    names: dict[str, list[str]] = field(default_factory=dict)
    table: "array[int]" = field(default_factory=lambda: array("I"))  # guard slot: tag or NONE_U32
    slots: "array[int]" = field(default_factory=lambda: array("I"))  # tag: guard slot or NONE_U32
    unarmed: int = 0  # interlocks that move no output

    @property
    def number(self) -> int:
        """The short form of the hash that messages and records carry."""
        return int.from_bytes(self.program[:8], "little")

    def slot_of(self, tag: int) -> int:
        """The guard slot of tag ``tag``, NONE_U32 where the program does not know it."""
        return self.slots[tag] if tag < len(self.slots) else NONE_U32


def store_program(paths: Paths, program: bytes) -> bytes:
    """Put a blob durably where the guard finds it; its hash. Raises OSError."""
    digest = blob.blob_hash(program)
    path = _path(paths, digest)
    with contextlib.suppress(OSError):
        if path.read_bytes() == program:
            return digest
    replace_file(path, program, sync=True)
    return digest


def program_blob(paths: Paths, program: bytes) -> bytes | None:
    """The blob of that hash, from the programs directory or the guard's last good one."""
    if program == _EMPTY_HASH:
        return blob.EMPTY
    for path in (_path(paths, program), paths.last_good):
        with contextlib.suppress(OSError):
            found = path.read_bytes()
            if blob.blob_hash(found) == program:
                return found
    return None


def running_of(paths: Paths, program: bytes, tag_index: Mapping[str, int]) -> Running:
    """The program of that hash over the tags of ``tag_index``; no texts where it is not found."""
    found = program_blob(paths, program)
    if found is None:
        return Running(program=program)
    names = blob.names(found)
    table = array("I", [tag_index.get(ident, NONE_U32) for ident in names.get("tags", [])])
    slots = array("I", [NONE_U32]) * len(tag_index)
    for slot, tag in enumerate(table):
        if tag != NONE_U32:
            slots[tag] = slot
    armed = [item.flags & InterlockFlag.ARMED for item in blob.section(found, "interlocks")]
    return Running(program, names, table, slots, unarmed=armed.count(0))


class Applier:
    """Keeps the guard at the site's program, and ``running`` at what the guard really runs.

    ``view`` is what the guard shows now: a session's WELCOME is older than what was loaded since.
    ``on_running`` is called with each new :class:`Running`, also after every reconnect.
    """

    def __init__(
        self,
        paths: Paths,
        program: bytes,
        tag_index: Mapping[str, int],
        link: "GuardLink",
        view: "Callable[[], GuardView | None]",
        audit: Audit,
        problems: "Problems",
        on_running: Callable[[Running], None],
    ) -> None:
        self._paths = paths
        self._program = program
        self._hash = blob.blob_hash(program)
        self._tag_index = tag_index
        self._link = link
        self._view = view
        self._audit = audit
        self._problems = problems
        self._on_running = on_running
        self._refused: bytes | None = None  # what ran when the guard refused the site's program
        self._loaded: Welcome | None = None  # the session that has loaded the site's program
        self._wake = asyncio.Event()
        self.settled = asyncio.Event()  # the guard has answered for the first time

    def wake(self) -> None:
        """The link's state has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Apply at every new session with the guard; returns only by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._link.state().connected and not await self._apply():
                asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)

    async def _apply(self) -> bool:
        """True when there is nothing more to try in this session."""
        welcome = self._link.state().welcome
        if welcome is None or welcome is self._loaded:
            return True
        running = self._runs(welcome)
        self._publish(running)
        if running == self._hash:
            self._problems.cleared("program", "program", "the site file's program runs")
            self.settled.set()
            return True
        if self._refused == running:
            return True  # asked before, on the same ground: people decide now
        try:
            result = await self._load(running)
        except (GuardError, StoreError, OSError) as error:
            self._differs(str(error))
            return False
        finally:
            self.settled.set()
        if result.code not in (ResultCode.DONE, ResultCode.ALREADY):
            self._refused = running
            self._differs(refusal_text(result))
            return True
        self._refused, self._loaded = None, welcome
        self._publish(self._hash)
        self._problems.cleared("program", "program", "the site file's program runs")
        self._prune()
        return True

    def _runs(self, welcome: "Welcome") -> bytes:
        """What the guard of this session runs by now, as far as it can be seen."""
        view = self._view()
        header = view.header() if view is not None else None
        if header is None or (header.journal_id, header.guard_starts) != (
            welcome.journal_id,
            welcome.guard_starts,
        ):
            return welcome.program
        return header.program

    async def _load(self, current: bytes) -> "Result":
        store_program(self._paths, self._program)
        seq = await self._audit.command(
            "gateway", "load", self._hash.hex(), {"from": current.hex()}
        )
        result = await self._link.load(self._hash, current, seq)
        with contextlib.suppress(StoreError):
            await self._audit.command_result(seq, result.code, result.text)
        return result

    def _publish(self, program: bytes) -> None:
        running = running_of(self._paths, program, self._tag_index)
        if not running.names and program != _EMPTY_HASH:
            _LOGGER.warning("no blob found for the running program %s", program.hex()[:16])
        self._on_running(running)

    def _differs(self, why: str) -> None:
        self._problems.raised("program", "program", f"{_DIFFERS}: {why}")

    def _prune(self) -> None:
        """Keep the newest programs only; alerts name a program by its hash."""
        with contextlib.suppress(OSError):
            entries = sorted(
                (path for path in self._paths.programs.iterdir() if len(path.name) == 64),
                key=lambda path: path.stat().st_mtime_ns,
                reverse=True,
            )
            for path in entries[PROGRAMS_KEPT:]:
                path.unlink()


def refusal_text(result: "Result") -> str:
    """Why the guard refused a LOAD, for people."""
    try:
        name = ResultCode(result.code).name.lower().replace("_", " ")
    except ValueError:
        name = f"code {result.code}"
    if result.code == ResultCode.NOT_ALLOWED and result.detail >= ResultDetail.WEAKENS:
        count = result.detail - ResultDetail.WEAKENS
        return (
            f"it weakens {count} armed interlock{'s' if count > 1 else ''}; say why with "
            "'sitewarden reload --weakens REASON' (a guard with --confirm-weakening also wants an "
            "operator's confirmation)"
        )
    rule = f" (rule {result.detail})" if result.code == ResultCode.REFUSED_BLOB else ""
    return f"the guard refused it: {name}{rule}" + (f", {result.text}" if result.text else "")


def _path(paths: Paths, digest: bytes) -> "Path":
    return paths.programs / digest.hex()
