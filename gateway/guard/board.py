"""The guard's state as it stands in guard.shm, under the names of the program that runs there.

Read by the commands, which must name what is missing, and by the view. Nothing here waits.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from fastpath.codes import (
    NONE_U32,
    InterlockLatchFlag,
    InterlockState,
    OutputDemand,
    OutputState,
    Quality,
    Reason,
    Truth,
)
from fastpath.records import legs_of
from gateway.guard.program_text import OutputText, Programs, ProgramText, has_slot

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


class BypassState(NamedTuple):
    """A live bypass of an interlock or of a tag; times are boot time."""

    until_ns: int
    from_ns: int
    ident: bytes  # of the command that began it


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
        if self.silenced_until_ns(output):
            return []
        held = []
        for index in self.text.holders[output]:
            latch = self.view.interlock(index)
            if latch.state in LATCHED and latch.flags & InterlockLatchFlag.ARMED:
                if latch.flags & InterlockLatchFlag.WITHHELD:
                    continue
                held.append(self.text.interlocks[index].id)
        return held

    def stands_in_for(self, output: int) -> list[str]:
        """Ids of the outputs whose fallback this is, and that have failed since they were demanded.

        Their demand ends with their own.
        """
        if not self.view.output(output).demands & OutputDemand.FALLBACK:
            return []
        return [
            other.id
            for i, other in enumerate(self.text.outputs)
            if output in other.fallbacks and self.view.output(i).demands & OutputDemand.FAILED
        ]

    def silenced_until_ns(self, output: int) -> int:
        """Boot time at which a silenced output sounds again; 0: it is not silenced."""
        latch = self.view.output(output)
        return latch.silence_until_ns if latch.demands & OutputDemand.SILENCED else 0

    def bypass(self, index: int) -> BypassState | None:
        """The bypass of an interlock, None where there is none."""
        latch = self.view.interlock(index)
        if not latch.flags & InterlockLatchFlag.BYPASSED or not latch.bypass_until_ns:
            return None
        return BypassState(latch.bypass_until_ns, latch.bypass_from_ns, latch.bypass_id)

    def tag_bypasses(self) -> dict[int, BypassState]:
        """The bypassed tags of the running program, by slot."""
        slots = self.text.tag_keys
        return {
            slots[found.key]: BypassState(found.until_ns, found.from_ns, found.id)
            for found in self.view.tag_bypasses()
            if found.key in slots
        }

    def bypassed_with(self, index: int) -> list[str]:
        """Ids of what is bypassed in the group of an interlock: interlocks, and tags they read."""
        group = self.text.interlocks[index].group
        members = (index,) if group == NONE_U32 else self.text.groups[group].members
        interlocks = [self.text.interlocks[i].id for i in members if self.bypass(i)]
        read = {slot for i in members for slot in self.text.interlocks[i].reads}
        return interlocks + [self.text.tags[slot] for slot in self.tag_bypasses() if slot in read]

    def bypass_limit(self, index: int) -> tuple[str, int]:
        """Where an interlock's bypasses are counted, in words, and how many may be live there."""
        group = self.text.interlocks[index].group
        if group == NONE_U32:
            return f"of {self.text.interlocks[index].id}", 1
        return f"of group {self.text.groups[group].id}", self.text.groups[group].max_bypassed

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
