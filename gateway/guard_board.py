"""The guard's state as it stands in guard.shm, under the names of the program that runs there.

Read by the commands, which must name what is missing, and by the view. Nothing here waits.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from fastpath.codes import (
    InterlockLatchFlag,
    InterlockState,
    OutputState,
    Quality,
    Reason,
    Truth,
)
from fastpath.records import legs_of
from gateway.program_text import OutputText, Programs, ProgramText, has_slot

if TYPE_CHECKING:
    from fastpath.journal import GuardView, Header, InterlockView, OutputView, SlotView

LATCHED: Final = frozenset({InterlockState.TRIPPED, InterlockState.READY_TO_RESET})


class LegState(NamedTuple):
    """One leg now. ``tag`` and ``unit`` are "" and ``slot`` None where it has no leading tag."""

    text: str
    truth: Truth
    tag: str
    unit: str
    slot: "SlotView | None"

    def words(self) -> str:
        """``leg (value)`` for people, with the reason where the value cannot be used."""
        if self.slot is None:
            return f"'{self.text}'"
        return f"'{self.text}' ({self.tag} is {value_words(self.slot, self.unit)})"


@dataclass(frozen=True, slots=True)
class GuardBoard:
    """A map of guard.shm with the text of the program that runs there."""

    view: "GuardView"
    header: "Header"
    text: ProgramText

    @classmethod
    def read(cls, view: "GuardView | None", programs: Programs) -> Self | None:
        """None where there is no guard.shm or the running program's blob cannot be read."""
        if view is None:
            return None
        header = view.header()
        text = programs.text(header.program)
        return cls(view, header, text) if text else None

    def interlock(self, index: int) -> "InterlockView":
        """The latch of an interlock of the running program."""
        return self.view.interlock(index)

    def output(self, index: int) -> "OutputView":
        """The latch of an output of the running program."""
        return self.view.output(index)

    def legs(self, index: int) -> list[LegState]:
        """Every leg of an interlock as it stands in this scan."""
        item = self.text.interlocks[index]
        truths = legs_of(self.view.interlock(index).legs, len(item.legs))
        legs = []
        for leg, truth in zip(item.legs, truths, strict=True):
            known = has_slot(leg.slot)
            legs.append(
                LegState(
                    leg.text,
                    Truth(truth),
                    self.text.tags[leg.slot] if known else "",
                    self.text.units[leg.slot] if known else "",
                    self.view.slot(leg.slot) if known else None,
                )
            )
        return legs

    def holders(self, output: int) -> list[str]:
        """Ids of the interlocks that hold this output at its trip value now."""
        held = []
        for index in self.text.holders[output]:
            latch = self.view.interlock(index)
            if latch.state in LATCHED and latch.flags & InterlockLatchFlag.ARMED:
                if latch.flags & InterlockLatchFlag.WITHHELD:
                    continue
                held.append(self.text.interlocks[index].id)
        return held

    def readback(self, output: OutputText) -> bool | None:
        """What the read-back says of the output itself, None where it says nothing."""
        if not has_slot(output.readback):
            return None
        slot = self.view.slot(output.readback)
        if slot.quality != Quality.GOOD:
            return None
        return (slot.value != 0.0) is not output.readback_inverted


def output_confirmed(latch: "OutputView") -> bool:
    """True where the device's own reply, and the read-back if there is one, agree with the wish."""
    if latch.state == OutputState.TRIPPED:
        return bool(latch.confirmed)
    return latch.state == OutputState.RELEASED


def interlock_word(state: int) -> str:
    """The state's word; what is no state counts as TRIPPED."""
    try:
        return InterlockState(state).name
    except ValueError:
        return InterlockState.TRIPPED.name


def output_word(state: int) -> str:
    """The state's word; what is no state counts as TRIPPING."""
    try:
        return OutputState(state).name
    except ValueError:
        return OutputState.TRIPPING.name


def quality_word(quality: int) -> str:
    """GOOD, UNCERTAIN or BAD; an unknown code is BAD."""
    try:
        return Quality(quality).name
    except ValueError:
        return Quality.BAD.name


def reason_word(quality: int, reason: int) -> str | None:
    """Why a value is not GOOD, in lower case; None for a GOOD one."""
    if quality == Quality.GOOD:
        return None
    try:
        return Reason(reason).name.lower()
    except ValueError:
        return f"reason_{reason}"


def value_words(slot: "SlotView", unit: str) -> str:
    """``1.62 %CH4`` or ``BAD (stale), last 1.62 %CH4``."""
    number = f"{slot.value:.6g} {unit}".rstrip()
    if slot.quality == Quality.GOOD:
        return number
    words = f"{quality_word(slot.quality)} ({reason_word(slot.quality, slot.reason)})"
    return words if math.isnan(slot.value) else f"{words}, last {number}"
