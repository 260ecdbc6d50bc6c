"""An id as a command names it -> its place in the program that runs, or why there is none."""

from collections.abc import Mapping

from gateway.guard.board import GuardBoard
from gateway.orders.confirm import Confirmation
from gateway.orders.outcome import Outcome, not_reached, unknown

Found = tuple[GuardBoard, int]  # the guard's state now, and the index


def interlock_of(confirmation: Confirmation, ident: str) -> Found | Outcome:
    """The interlock of this id."""
    state = confirmation.state()
    return _found(state, "interlock", ident, state.text.interlock_index if state else {})


def output_of(confirmation: Confirmation, ident: str) -> Found | Outcome:
    """The output of this id."""
    state = confirmation.state()
    return _found(state, "output", ident, state.text.output_index if state else {})


def _found(
    state: GuardBoard | None, kind: str, ident: str, places: Mapping[str, int]
) -> Found | Outcome:
    if state is None:
        return not_reached("the guard's state cannot be read")
    index = places.get(ident)
    return unknown(kind, ident, list(places)) if index is None else (state, index)
