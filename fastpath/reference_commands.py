"""Commands in plain Python: who may what, and what came of it.

Part of the reference (``reference``): written for reading, never run on site. Strengthening ones
run before a scan's evaluation, weakening ones after it, and only where the ledger has them.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from fastpath.codes import BypassEnd, ResultCode, TripReason
from fastpath.reference_bypasses import Bypasses
from fastpath.reference_interlocks import Interlocks, Now
from fastpath.reference_outputs import Outputs

COMMANDS_KEPT: Final = 64
STRENGTHENING: Final = ("TRIP", "BYPASS_END")


@dataclass(frozen=True, slots=True)
class Command:
    """What the mailbox brings."""

    kind: str  # TRIP RESET RELEASE STOP LOAD BYPASS_START BYPASS_END
    ident: bytes
    target: str = ""
    generation: int = 0
    ledger_seq: int = 1
    not_after_ns: int = 0  # boottime, 0: never
    other_program: bool = False
    duration_ns: int = 0
    of_tag: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a command."""

    code: int
    generation: int = 0
    detail: int = 0


@dataclass(slots=True)
class Commands:
    """Those of one scan, and the newest results for whoever asks again."""

    interlocks: Interlocks
    outputs: Outputs
    bypasses: Bypasses
    tags: Collection[str]
    record: Callable[..., None]
    stop_trips: bool = True  # on_stop
    results: dict[bytes, Result] = field(default_factory=dict)
    known: dict[bytes, Result] = field(default_factory=dict)
    queue: list[Command] = field(default_factory=list)
    stop: bytes = b""  # id of the STOP under way

    def run(self, now: Now, number: int, *, strengthening: bool) -> None:
        """The strengthening ones of this scan, or the others."""
        for command in self.queue:
            if (command.kind in STRENGTHENING) != strengthening:
                continue
            if command.ident in self.known:  # the same id again: the same result, no action
                self.results[command.ident] = self.known[command.ident]
                continue
            if command.kind == "TRIP":
                result: Result | None = self._trip(command, now, number)
            elif command.kind == "BYPASS_END":
                result = self._bypass(command, now)
            else:
                result = self._weaken(command, now)
            if result is not None:
                self.answer(command, result)

    def answer(self, command: Command, result: Result) -> None:
        """To the sender; a record where it was refused or already so."""
        self.results[command.ident] = self.known[command.ident] = result
        if len(self.known) > COMMANDS_KEPT:
            del self.known[next(iter(self.known))]
        if result.code != ResultCode.DONE:
            self.record(
                "COMMAND", command.target, kind=command.kind, code=int(result.code),
                detail=result.detail,
            )  # fmt: skip

    def _trip(self, command: Command, now: Now, number: int) -> Result:
        one = self.interlocks.find(command.target)
        if one is None:
            return Result(ResultCode.UNKNOWN_KEY)
        code = self.interlocks.command_trip(one, TripReason.MANUAL, now, number)
        return Result(code, one.generation, 0 if one.armed else 65536)

    def _weaken(self, command: Command, now: Now) -> Result | None:
        """Durable in the ledger, not too old, for this program."""
        if command.ledger_seq == 0:
            return Result(ResultCode.NOT_ALLOWED)
        if command.not_after_ns and now.boot_ns > command.not_after_ns:
            return Result(ResultCode.EXPIRED)
        if command.other_program:
            return Result(ResultCode.WRONG_PROGRAM)
        match command.kind:
            case "STOP":
                return self._stop(command, now)
            case "BYPASS_START":
                return self._bypass(command, now)
            case "RESET":
                return self._reset(command, now)
            case "RELEASE":
                return self._release(command, now)
        return None  # a LOAD is answered when it is done

    def _stop(self, command: Command, now: Now) -> Result | None:
        """Answered at its end; another one meanwhile is not needed."""
        if self.outputs.command_stop(now, trips=self.stop_trips):
            self.stop = command.ident
        elif self.stop != command.ident:
            return Result(ResultCode.ALREADY)
        return None

    def _reset(self, command: Command, now: Now) -> Result:
        one = self.interlocks.find(command.target)
        if one is None:
            return Result(ResultCode.UNKNOWN_KEY)
        code, detail = self.interlocks.command_reset(
            one, command.generation, command.ledger_seq, now
        )
        return Result(code, one.generation, detail)

    def _release(self, command: Command, now: Now) -> Result:
        output = self.outputs.items.get(command.target)
        if output is None:
            return Result(ResultCode.UNKNOWN_KEY)
        forbidden = self.interlocks.forbids(output.id)
        heard = self.interlocks.generations(output.id, before=now)
        code, detail = self.outputs.command_release(output, forbidden, heard, now)
        return Result(code, output.generation, detail)

    def _bypass(self, command: Command, now: Now) -> Result:
        """Begin or end of a bypass."""
        target, seq, start = command.target, command.ledger_seq, command.kind == "BYPASS_START"
        if command.of_tag:
            if target not in self.tags:
                return Result(ResultCode.UNKNOWN_KEY)
            if start:
                return Result(self.bypasses.start_tag(target, command.duration_ns, seq, now))
            return Result(self.bypasses.end_tag(target, BypassEnd.COMMAND, now, seq))
        one = self.interlocks.find(target)
        if one is None:
            return Result(ResultCode.UNKNOWN_KEY)
        if start:
            code = self.bypasses.start(one, command.duration_ns, seq, now)
        else:
            code = self.interlocks.end_bypass(one, BypassEnd.COMMAND, now, seq)
        return Result(code, one.generation)
