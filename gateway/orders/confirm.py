"""Waiting for outputs: what guard.shm says of them, until it is so or ``confirm_within`` is over.

Confirmed is read, never said: the device's own reply and the read-back, as the guard recorded them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from fastpath.codes import OutputState
from gateway.guard.board import GuardBoard, output_confirmed, output_word
from gateway.guard.program_text import Programs

if TYPE_CHECKING:
    from fastpath.journal import GuardView

LOOK_S: Final = 0.01
SLACK_NS: Final = 250_000_000  # from the guard's own confirm time to its trace in guard.shm
GUARD_END_S_MAX: Final = 5.0


class OutputSeen(Struct, frozen=True, kw_only=True):
    """How an output stood when the waiting ended; ``held_by`` names who keeps it tripped."""

    id: str
    state: str  # GUARD.md's words
    confirmed: bool
    held_by: tuple[str, ...] = ()


class Confirmation:
    """Looks at outputs of the running program; ``view`` gives the mapped guard.shm or None."""

    def __init__(self, view: "Callable[[], GuardView | None]", programs: Programs) -> None:
        self._view = view
        self._programs = programs

    def state(self) -> GuardBoard | None:
        """The guard's state now, None while it cannot be read."""
        return GuardBoard.read(self._view(), self._programs)

    async def tripped(self, outputs: Sequence[str]) -> list[OutputSeen]:
        """Wait until each output is TRIPPED and confirmed."""
        return await self._until(outputs, _see_tripped)

    async def released(
        self, outputs: Sequence[str], *, besides: str = "", silence: bool = False
    ) -> list[OutputSeen]:
        """Wait until each output is RELEASED, or is held by an interlock ``besides`` this one.

        ``silence``: whoever holds them still may, they are to be silenced all the same.
        """

        def see(state: GuardBoard, index: int) -> OutputSeen:
            seen = _see_released(state, index, besides)
            return seen if not silence else msgspec.structs.replace(seen, held_by=())

        return await self._until(outputs, see)

    async def guard_ended(self, within_s: float) -> bool:
        """Wait until no guard holds guard.shm any more; False when it did not come."""
        deadline = time.monotonic() + within_s
        while True:
            view = self._view()
            if view is None or not view.guard_alive():
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(LOOK_S)

    def seen_tripped(self, outputs: Sequence[str]) -> list[OutputSeen]:
        """How the outputs stand now, without waiting."""
        return self._look(outputs, _see_tripped)

    def within_ns(self, outputs: Sequence[str]) -> int:
        """The longest ``confirm_within`` of these outputs."""
        state = self.state()
        if state is None:
            return 0
        index = state.text.output_index
        return max((state.text.outputs[index[o]].confirm_ns for o in outputs if o in index),
                   default=0)  # fmt: skip

    async def _until(
        self, outputs: Sequence[str], see: Callable[[GuardBoard, int], OutputSeen]
    ) -> list[OutputSeen]:
        deadline_ns = time.monotonic_ns() + self.within_ns(outputs) + SLACK_NS
        while True:
            seen = self._look(outputs, see)
            if all(output.confirmed or output.held_by for output in seen):
                return seen
            if time.monotonic_ns() >= deadline_ns:
                return seen
            await asyncio.sleep(LOOK_S)

    def _look(
        self, outputs: Sequence[str], see: Callable[[GuardBoard, int], OutputSeen]
    ) -> list[OutputSeen]:
        state = self.state()
        if state is None:
            return [OutputSeen(id=ident, state="UNKNOWN", confirmed=False) for ident in outputs]
        index = state.text.output_index
        return [
            see(state, index[ident])
            if ident in index
            else OutputSeen(id=ident, state="UNKNOWN", confirmed=False)
            for ident in outputs
        ]


def _see_tripped(state: GuardBoard, index: int) -> OutputSeen:
    latch = state.output(index)
    done = latch.state == OutputState.TRIPPED and output_confirmed(latch)
    return OutputSeen(
        id=state.text.outputs[index].id, state=output_word(latch.state), confirmed=done
    )


def _see_released(state: GuardBoard, index: int, besides: str) -> OutputSeen:
    text = state.text.outputs[index]
    latch = state.output(index)
    left = latch.state == OutputState.HELD and text.normal is None
    return OutputSeen(
        id=text.id,
        state=output_word(latch.state),
        confirmed=left or latch.state == OutputState.RELEASED,
        held_by=tuple(ident for ident in state.holders(index) if ident != besides),
    )
