"""What a refusal by the guard means, in words: what stands against it and what to do next."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from fastpath.codes import BypassKind, Quality, ResultCode, Truth
from gateway.guard.board import GuardBoard, interlock_word, value_words
from gateway.times import boot_ns, moment_words, span_words

if TYPE_CHECKING:
    from fastpath.messages import Result

LEGS_TOLD_MAX: Final = 8

_PLAIN: Final[dict[int, str]] = {
    ResultCode.EXPIRED: "the command came to the guard too late (30 s); send it again",
    ResultCode.NOT_ALLOWED: "the guard does not allow it to this gateway or user",
    ResultCode.LIMIT: "a limit of the guard is reached",
    ResultCode.UNKNOWN_KEY: "the program that the guard runs does not have it",
    ResultCode.WRONG_PROGRAM: "the guard runs another program by now; look again",
    ResultCode.REFUSED_BLOB: "the guard refused the program",
    ResultCode.WOULD_REMOVE_TRIP: "it would remove a trip or a bypass; reset it first",
    ResultCode.MINIMUM_TRIP_TIME: "the minimum trip time is not over; wait and send it again",
}


def reset_refusal(state: GuardBoard, index: int, result: "Result", generation: int) -> str:
    """Why a reset of this interlock was refused, naming the leg, its value and what is missing."""
    item = state.text.interlocks[index]
    latch = state.interlock(index)
    if result.code == ResultCode.ALREADY:
        return f"{item.id} is {interlock_word(latch.state)}: there is nothing to reset"
    if result.code == ResultCode.WRONG_GENERATION:
        return (
            f"{item.id} has tripped again: generation {latch.generation}, the reset saw "
            f"{generation}; look at it, then reset with --generation {latch.generation}"
        )
    if result.code == ResultCode.CAUSE_PRESENT:
        return _cause_present(state, index)
    if result.code == ResultCode.CAUSE_UNKNOWN:
        return _cause_unknown(state, index)
    if result.code == ResultCode.PERMISSIVE:
        return _permissive(state, index)
    return plain_refusal(result)


def bypass_refusal(
    state: GuardBoard, kind: BypassKind, ident: str, result: "Result", duration_ns: int
) -> str:
    """Why a bypass was refused: the limit, who uses it up, or what forbids it."""
    if kind == BypassKind.TAG:
        slot = state.text.tag_index[ident]
        readers, bypass = state.text.readers.get(slot, ()), state.tag_bypasses().get(slot)
    else:
        index = state.text.interlock_index[ident]
        readers, bypass = (index,), state.bypass(index)
    if result.code == ResultCode.ALREADY and bypass is not None:
        until = f"{moment_words(bypass.until_ns)} ({span_words(bypass.until_ns - boot_ns())} left)"
        return f"{ident} is bypassed already, until {until}; end it first, then begin anew"
    if result.code == ResultCode.NOT_ALLOWED:
        return _bypass_forbidden(state, ident, readers)
    if result.code == ResultCode.LIMIT:
        return _bypass_limit(state, ident, readers, duration_ns)
    return plain_refusal(result)


def plain_refusal(result: "Result") -> str:
    """The words of a result code that need no look at the guard's state."""
    words = _PLAIN.get(result.code, f"the guard refused with code {result.code}")
    return f"{words} ({result.text})" if result.text else words


def _bypass_forbidden(state: GuardBoard, ident: str, readers: Sequence[int]) -> str:
    if not readers:
        return f"no interlock reads {ident}: there is nothing to bypass"
    named = [state.text.interlocks[i].id for i in readers if state.text.interlocks[i].no_bypass]
    if not named:
        return f"the guard does not allow a bypass of {ident}"
    who = "it" if named == [ident] else ", ".join(named)
    return f"the site file forbids a bypass of {ident} ({who}: no_bypass = true)"


def _bypass_limit(state: GuardBoard, ident: str, readers: Sequence[int], duration_ns: int) -> str:
    longest = min((state.text.interlocks[i].bypass_max_ns for i in readers), default=0)
    if not 0 < duration_ns <= longest:
        found, most = span_words(duration_ns), span_words(longest)
        return f"{found} is not possible for {ident}: its longest bypass is {most} (bypass_max)"
    for i in readers:
        where, allowed = state.bypass_limit(i)
        used = [other for other in state.bypassed_with(i) if other != ident]
        if len(used) >= allowed:
            named = ", ".join(used) or "none is live"
            return (
                f"{allowed} bypasses {where} may be live at a time (max_bypassed), and that is "
                f"used up: {named}; end one first"
            )
    return f"the limit of bypasses is reached; {ident} was not bypassed"


def _cause_present(state: GuardBoard, index: int) -> str:
    ident = state.text.interlocks[index].id
    legs = [leg for leg in state.legs(index) if leg.truth == Truth.TRUE][:LEGS_TOLD_MAX]
    if not legs:
        return f"the cause of {ident} is still present or waits for its time to pass"
    named = ", ".join(f"leg {leg.words()} is true" for leg in legs)
    return f"the cause of {ident} is still present: {named}; missing: that it becomes false"


def _cause_unknown(state: GuardBoard, index: int) -> str:
    ident = state.text.interlocks[index].id
    legs = [leg for leg in state.legs(index) if leg.truth == Truth.UNKNOWN][:LEGS_TOLD_MAX]
    if not legs:
        return f"the cause of {ident} is not known: its inputs were not all read yet"
    named = ", ".join(f"leg {leg.words()} is unknown" for leg in legs)
    return f"the cause of {ident} is not known: {named}; missing: good values for it"


def _permissive(state: GuardBoard, index: int) -> str:
    item = state.text.interlocks[index]
    words = f"the cause of {item.id} has gone, but its permissive is not known to be true"
    if not item.permissive:
        return words
    values = ", ".join(_values_in(state, item.permissive))
    missing = f"; missing: '{item.permissive}'"
    return f"{words}{missing} (now {values})" if values else f"{words}{missing}"


def _values_in(state: GuardBoard, expression: str) -> list[str]:
    """``tag is value`` for each tag that the text of an expression names, in its order."""
    told: dict[str, str] = {}
    for word in re.findall(r"[a-z][a-z0-9_.-]*", expression):
        slot = state.text.tag_index.get(word)
        if slot is not None and len(told) < LEGS_TOLD_MAX:
            seen = state.view.slot(slot)
            note = "" if seen.quality == Quality.GOOD else ", which is not good"
            told[word] = f"{word} is {value_words(seen, state.text.units[slot])}{note}"
    return list(told.values())
