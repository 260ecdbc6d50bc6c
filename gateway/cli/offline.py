"""What can be known and done without a gateway: guard.shm, the program's names, guard.sock."""

import asyncio
import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from fastpath import blob
from fastpath.codes import BypassKind, MessageType, ResultCode
from gateway.cli.client import NotReached
from gateway.errors import GuardError
from gateway.guard.apply import program_blob
from gateway.guard.board import GuardBoard
from gateway.guard.program_text import Programs
from gateway.orders.bypasses import ended_outcome
from gateway.orders.commands import tripped_outcome, who_of
from gateway.orders.confirm import Confirmation
from gateway.orders.direct import send_directly
from gateway.orders.outcome import Outcome, not_reached, unknown
from gateway.paths import Paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastpath.journal import GuardView
    from fastpath.messages import Result

DIRECT_S: Final = 2.0


@contextlib.contextmanager
def guard_view(paths: Paths) -> "Iterator[GuardView]":
    """The mapped guard.shm. Raises NotReached where there is none that can be read."""
    from fastpath.journal import GuardView, JournalError

    try:
        view = GuardView(os.fspath(paths.guard_shm))
    except JournalError as error:
        raise NotReached(_why(paths, error)) from error
    try:
        yield view
    finally:
        view.close()


def programs_of(paths: Paths) -> Programs:
    """The texts of programs that lie in the state directory."""
    return Programs(lambda program: program_blob(paths, program))


def generation_of(paths: Paths, ident: str) -> int | None:
    """The latch generation of an interlock now, None where it cannot be read."""
    with contextlib.suppress(NotReached), guard_view(paths) as view:
        board = GuardBoard.read(view, programs_of(paths))
        index = board.text.interlock_index.get(ident) if board else None
        if board and index is not None:
            return board.interlock(index).generation
    return None


def trip_directly(paths: Paths, ident: str, before: int | None) -> Outcome:
    """TRIP straight to the guard, then its outputs as guard.shm shows them.

    ``before`` is the generation that was seen before anything was sent: if the gateway did take
    the command meanwhile, "already" means done.
    """
    programs = programs_of(paths)
    try:
        with guard_view(paths) as view:
            return _trip(paths, ident, before, Confirmation(lambda: view, programs))
    except NotReached:
        return _trip(paths, ident, before, Confirmation(lambda: None, programs))


def _trip(paths: Paths, ident: str, before: int | None, confirmation: Confirmation) -> Outcome:
    key = blob.key_of("interlock", ident)
    try:
        result = _send(paths, MessageType.TRIP, key)
    except GuardError as error:
        return not_reached(str(error))
    if result.code == ResultCode.UNKNOWN_KEY:
        state = confirmation.state()
        return unknown("interlock", ident, [i.id for i in state.text.interlocks] if state else [])
    if result.code == ResultCode.ALREADY and before is not None and result.generation > before:
        result = result._replace(code=ResultCode.DONE)
    return asyncio.run(tripped_outcome(confirmation, ident, result))


def end_bypass_directly(paths: Paths, ident: str, *, tag: bool) -> Outcome:
    """BYPASS_END straight to the guard, then what guard.shm shows of it."""
    programs = programs_of(paths)
    try:
        with guard_view(paths) as view:
            return _end_bypass(paths, ident, Confirmation(lambda: view, programs), tag=tag)
    except NotReached:
        return _end_bypass(paths, ident, Confirmation(lambda: None, programs), tag=tag)


def _end_bypass(paths: Paths, ident: str, confirmation: Confirmation, *, tag: bool) -> Outcome:
    key = blob.key_of("tag" if tag else "interlock", ident)
    kind = BypassKind.TAG if tag else BypassKind.INTERLOCK
    try:
        result = _send(paths, MessageType.BYPASS_END, key, kind)
    except GuardError as error:
        return not_reached(str(error))
    if result.code == ResultCode.UNKNOWN_KEY:
        state = confirmation.state()
        known = (state.text.tag_index if tag else state.text.interlock_index) if state else {}
        return unknown("tag" if tag else "interlock", ident, list(known))
    return asyncio.run(ended_outcome(confirmation, ident, result, tag=tag))


def _send(paths: Paths, message: MessageType, key: int, kind: int = 1) -> "Result":
    who = who_of(os.getuid())
    return send_directly(paths.guard_sock, message, key, who, kind=kind, timeout_s=DIRECT_S)


def _why(paths: Paths, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"no guard has run in {paths.runtime}: there is no {paths.guard_shm.name}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not read {paths.guard_shm}"
    return f"{paths.guard_shm} cannot be read: {error.args[1] if len(error.args) > 1 else error}"
