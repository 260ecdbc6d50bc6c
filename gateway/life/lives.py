"""The gateway's lives, one after the other: how many ended unasked, and how close together.

The record is in the runtime directory, which should be memory: it outlives every kill and waits for
no disk; a machine that was started anew begins anew. A gateway that ends again and again must be
seen, and must not use up the machine with one start after another.
"""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gateway.paths import replace_file

_LOGGER = logging.getLogger(__name__)

STEADY_S: Final = 600.0  # a life that is longer belongs to no crash loop
LOOP_LIVES: Final = 3  # so many short ones in a row are one
# From one begin of heavy work to the next, by the short lives in a row before. The first restart is
# at once: inputs that the gateway feeds are stale after 15 s at the earliest.
SPACES_S: Final = (0.0, 0.0, 0.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class _Record(msgspec.Struct, frozen=True):
    """The file. ``boot``: of the machine; another one has nothing to say here."""

    boot: str
    pid: int = 0  # of a life that began and has not ended in order
    unclean: int = 0  # lives that ended unasked since the last that was told to end
    short: int = 0  # the newest of them that were short, in a row
    worked_boot_ns: int = 0  # when heavy work began last


class Lives:
    """Counts in ``path``. A file that cannot be written is logged once and stops nothing."""

    def __init__(
        self,
        path: Path,
        *,
        boot_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        boot_id: Callable[[], str] = lambda: _BOOT_ID.read_text().strip(),
    ) -> None:
        self._path = path
        self._boot_ns = boot_ns
        self._failed = False
        self._record = _Record(boot_id())
        self.after_unclean = False  # the life before this one ended unasked

    @property
    def unclean(self) -> int:
        """Lives that ended unasked since the last ordered stop, or since the machine's start."""
        return self._record.unclean

    @property
    def looping(self) -> bool:
        """Whether the last lives ended unasked and soon, one after the other."""
        return self._record.short >= LOOP_LIVES

    def begin(self) -> None:
        """A life begins. Called once, with the instance's lock held."""
        found = _read(self._path)
        if found is not None and found.boot == self._record.boot:
            self._record = found
        before = self._record
        self.after_unclean = before.pid != 0
        ended = int(self.after_unclean)
        self._write(pid=os.getpid(), unclean=before.unclean + ended, short=before.short + ended)

    def space_s(self) -> float:
        """How long heavy work is still to wait, by what the last lives came to."""
        wanted_s = SPACES_S[min(self._record.short, len(SPACES_S) - 1)]
        since_s = (self._boot_ns() - self._record.worked_boot_ns) / 1e9
        return max(0.0, wanted_s - since_s)

    def work(self) -> None:
        """Heavy work begins: stores are opened, programs built."""
        self._write(worked_boot_ns=self._boot_ns())

    def steady(self) -> None:
        """This life has lasted for ``STEADY_S``."""
        self._write(short=0)

    def end(self) -> None:
        """The ordered stop of a gateway that was told to end."""
        self._write(pid=0, unclean=0, short=0)

    def _write(self, **changes: int) -> None:
        self._record = msgspec.structs.replace(self._record, **changes)
        try:
            replace_file(self._path, msgspec.json.encode(self._record) + b"\n", sync=False)
        except OSError as error:
            if not self._failed:
                _LOGGER.warning("%s cannot be written: %s", self._path, error.strerror)
            self._failed = True
        else:
            self._failed = False


class Seen(NamedTuple):
    """What the record says to another process. ``pid``: of a gateway that runs, if any."""

    unclean: int | None = None
    pid: int | None = None


def look(path: Path, runs: Callable[[int], bool]) -> Seen:
    """Read the record of others; ``runs`` tells whether a process does."""
    found = _read(path)
    if found is None:
        return Seen()
    if found.pid and runs(found.pid):
        return Seen(found.unclean, found.pid)
    return Seen(found.unclean + int(found.pid != 0))


def _read(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError):
        return None
