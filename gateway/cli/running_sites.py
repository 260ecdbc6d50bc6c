"""The sites that run on this machine, and what of the plant each holds.

Found by the directories that are usual or named, and by every guard's own command line. A site
whose guard lives but cannot be asked is reported as such: what it holds is not known, so nothing
may be written past it.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fastpath.journal import GuardView, JournalError
from gateway.cli.client import get
from gateway.commission.holdings import Aim, Holdings, device_of, holder, holdings_of_program
from gateway.errors import GatewayError
from gateway.guard.apply import program_blob
from gateway.paths import Paths, state_dir

LOOKS: Final = 10
LOOK_S: Final = 0.1
GUARD_MODULE: Final = "fastpath.guard"
_ROOTS: Final = ("/run", "/dev/shm")  # noqa: S108 - only looked at
_USUAL: Final = re.compile(r"sitewarden(-[0-9]+)?(-demo)?")


@dataclass(frozen=True, slots=True)
class RunningSite:
    """One site. ``holdings`` is None where they cannot be learned; ``why`` says why."""

    paths: Paths
    holdings: Holdings | None
    answers: bool = False  # its gateway does
    why: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return self.holdings.site if self.holdings else str(self.paths.runtime)


def running_sites(named: Paths) -> list[RunningSite]:
    """Every site that runs here; ``named`` are the directories of the command line."""
    guards = dict(_guards())
    states = {path: state for path, state in guards.items() if state is not None}
    found = []
    for runtime in dict.fromkeys([named.runtime, *_usual(), *guards]):
        state = states.get(runtime, named.state if runtime == named.runtime else state_dir())
        site = _look(Paths(runtime, state), runs=runtime in guards)
        if site is not None:
            found.append(site)
    return found


def refusal(aim: Aim, sites: Sequence[RunningSite]) -> str:
    """Why nobody may write there, for people; "" where nothing stands against it."""
    for site in sites:
        if site.holdings is None:
            return (
                f"a guard runs in {site.paths.runtime}, and what it writes cannot be learned "
                f"({site.why}); ask as a member of the group sitewarden-operators, or stop it first"
            )
        what = holder(aim, site.holdings)
        if what is not None:
            return f"it is the {what} of the running site {site.name}; nobody else writes it"
        if site.holdings.unplaced:
            names = ", ".join(site.holdings.unplaced)
            return (
                f"the site {site.name} has outputs through its gateway ({names}), which does not "
                f"answer: where they are cannot be learned; start it again first"
            )
    return ""


def owners(address: str, sites: Sequence[RunningSite]) -> list[RunningSite]:
    """The running sites that have a device at this address."""
    return [site for site in sites if site.holdings and device_of(address, site.holdings)]


def _look(paths: Paths, *, runs: bool) -> RunningSite | None:
    """The site of these directories; None where none runs."""
    try:
        if not runs and not paths.guard_shm.exists():
            return None
    except OSError:  # not ours to look at, and no guard says that it is there
        if os.access("/proc/1/cmdline", os.R_OK):
            return None
        # hidepid: a guard could not be seen
        return RunningSite(paths, None, why="neither it nor the processes of others may be read")
    try:
        answer = get(paths, "/holdings")
        return RunningSite(paths, msgspec.json.decode(answer, type=Holdings), answers=True)
    except (GatewayError, msgspec.MsgspecError):
        site = None
    for _ in range(LOOKS):
        site = _by_guard(paths, runs=runs)
        if site is None or site.holdings is not None:
            break
        time.sleep(LOOK_S)  # a guard that starts makes its file and reads its program first
    return site


def _by_guard(paths: Paths, *, runs: bool) -> RunningSite | None:
    try:
        view = GuardView(os.fspath(paths.guard_shm))
    except JournalError as error:
        gone = not runs or not any(runtime == paths.runtime for runtime, _ in _guards())
        return None if gone else RunningSite(paths, None, why=str(error))
    try:
        if not view.guard_alive():
            return None
        program = view.header().program
    finally:
        view.close()
    found = program_blob(paths, program)
    if found is None:
        why = f"its program is not in {paths.state}; name its --state-dir"
        return RunningSite(paths, None, why=why)
    try:
        return RunningSite(paths, holdings_of_program(found))
    except ValueError as error:
        return RunningSite(paths, None, why=str(error))


def _usual() -> Iterator[Path]:
    for root in _ROOTS:
        yield from (path for path in sorted(Path(root).iterdir()) if _USUAL.fullmatch(path.name))


def _guards() -> Iterator[tuple[Path, Path | None]]:
    """(runtime, state directory) of every guard process."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended
            continue
        if GUARD_MODULE not in words:
            continue
        here = _working_directory(entry)
        runtime, state = _option(words, "--runtime-dir"), _option(words, "--state-dir")
        if runtime:
            yield here / runtime, here / state if state else None


def _working_directory(process: Path) -> Path:
    try:
        return Path(os.readlink(process / "cwd"))
    except OSError:  # another user's: its paths are absolute under systemd
        return Path("/")


def _option(words: Sequence[str], name: str) -> str:
    for at, word in enumerate(words):
        if word == name and at + 1 < len(words):
            return words[at + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""
