"""Who gives orders to two guards: trips, resets, bypasses, releases, programs, the end of it."""

from typing import Any

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import MessageType, ResultCode
from fastpath.reference_commands import Command
from gateway.site import model
from tests.helpers.pairs import EMPTY, Pair

WAITING_MAX = 12
LOAD = messages.LOAD.pack(bytes(32), bytes(32), 1, 2, 0)


class People:
    """What they do are the ``op_*``; what they wait for is ``waiting``."""

    def __init__(self, pair: Pair, configs: list[model.Config]) -> None:
        self.pair = pair
        self.configs = configs
        self.number = 0
        self.newest: Command | None = None
        self.waiting: dict[bytes, Command] = {}
        self.sorts: dict[bytes, tuple[MessageType, str]] = {}
        self.load: tuple[Command, model.Config, int] | None = None  # in this session
        self.load_code: ResultCode | None = None

    def forget(self) -> None:
        """The guard they spoke to is gone."""
        self.load = self.load_code = None
        self.waiting.clear()

    def results(self) -> dict[bytes, tuple[int, int, int]]:
        """What the reference has answered to those who still listen."""
        found = {
            ident: (int(r.code), r.generation, r.detail)
            for ident, r in self.pair.reference.results.items()
            if ident in self.waiting
        }
        self.pair.reference.results.clear()
        return found

    def answer_load(self) -> None:
        """The scan after a swap tells what came of it."""
        if self.load_code is not None and self.load is not None:
            self.pair.reference.answer(self.load[0], self.load_code)
            if self.load[2] == self.pair.sessions:
                self.waiting[self.load[0].ident] = self.load[0]
            self.load = self.load_code = None

    # ---- events of a history

    def op_gateway(self, present: bool) -> None:
        self.pair.gateway(present=present)
        if not present:
            self.waiting.clear()  # nobody is there to hear their results

    def op_trip(self, ident: str) -> None:
        self._command("TRIP", MessageType.TRIP, "interlock", ident)

    def op_reset(self, ident: str, off_by: int, seq: int) -> None:
        for one in list(self.pair.reference.interlocks.items):
            if ident in ("all", one.id):
                self._command(
                    "RESET", MessageType.RESET, "interlock", one.id,
                    generation=one.generation + off_by, ledger_seq=seq,
                )  # fmt: skip

    def op_bypass(self, of: str, ident: str, duration_ns: int, seq: int) -> None:
        self._command(
            "BYPASS_START", MessageType.BYPASS_START, of, ident,
            duration_ns=duration_ns, ledger_seq=seq, of_tag=of == "tag",
        )  # fmt: skip

    def op_bypass_end(self, of: str, ident: str) -> None:
        self._command(
            "BYPASS_END", MessageType.BYPASS_END, of, ident, ledger_seq=0, of_tag=of == "tag"
        )

    def op_release(self, ident: str, seq: int, late: int) -> None:
        not_after_ns = self.pair.now.boot_ns + late if late else 0
        for name in list(self.pair.reference.outputs.items):
            if ident in ("all", name):
                self._command(
                    "RELEASE", MessageType.RELEASE, "output", name,
                    ledger_seq=seq, not_after_ns=not_after_ns,
                )  # fmt: skip

    def op_stop(self, seq: int) -> None:
        if self.pair.running is not EMPTY:
            self._command("STOP", MessageType.STOP, "", "", ledger_seq=seq)

    def op_again(self) -> None:
        """The newest command once more, under its own id."""
        newest = self.newest
        if newest is not None and newest.kind != "LOAD" and len(self.waiting) < WAITING_MAX:
            self._send(newest)

    def op_swap(self, which: int) -> None:
        """A LOAD of another program, one at a time."""
        if self.pair.running is EMPTY or self.load is not None:
            return
        config = self.configs[which % len(self.configs)]
        self._command("LOAD", MessageType.LOAD, "", "")
        if self.newest is not None and self.newest.kind == "LOAD":
            self.load = (self.newest, config, self.pair.sessions)

    def _command(self, kind: str, message: MessageType, of: str, ident: str, **fields: Any) -> None:
        if len(self.waiting) >= WAITING_MAX:
            return
        self.number += 1
        command = Command(kind, self.number.to_bytes(16, "little"), ident, **fields)
        self.sorts[command.ident] = (message, of)
        self._send(command)
        self.newest = command

    def _send(self, command: Command) -> None:
        self.pair.gateway(present=True)
        message, of = self.sorts[command.ident]
        if command.kind == "LOAD":
            self.pair.stepper.send(message, LOAD, command.ident)
            return
        body = messages.command(
            blobs.key_of(of, command.target) if of else 0, who="uid:test",
            generation=command.generation, not_after_ns=command.not_after_ns,
            ledger_seq=command.ledger_seq, duration_ns=command.duration_ns,
            kind=1 + command.of_tag,
        )  # fmt: skip
        self.pair.stepper.send(message, body, command.ident)
        self.pair.reference.command(command)
        self.waiting[command.ident] = command

    def ops(self) -> dict[str, Any]:
        """What they may do, by name."""
        return {name[3:]: getattr(self, name) for name in dir(self) if name.startswith("op_")}
