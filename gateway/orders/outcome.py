"""What became of an operator's command: exit code, the guard's code, words for people."""

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from fastpath.codes import ResultCode
from gateway.guard.program_text import near_names
from gateway.orders.confirm import OutputSeen

if TYPE_CHECKING:
    from fastpath.messages import Result

KNOWN_TOLD_MAX: Final = 8


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_REACHED = 3
    REFUSED = 4
    ALREADY = 5
    UNCONFIRMED = 6
    INTERRUPTED = 130


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of a command. ``code`` is the guard's ResultCode, 0 where it did not answer."""

    exit_code: int
    code: int
    text: str
    confirmed: bool = False
    details: dict[str, Any] = {}


def unknown(kind: str, ident: str, known: Sequence[str]) -> Outcome:
    """The outcome for an id that the running program does not have."""
    near = near_names(ident, tuple(known))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if not near and known:
        hint = f"; there are: {', '.join(sorted(known)[:KNOWN_TOLD_MAX])}"
    text = f"the running program has no {kind} '{ident}'{hint}"
    return Outcome(exit_code=Exit.USAGE, code=0, text=text, details={"near": near})


def not_reached(text: str) -> Outcome:
    """The outcome when the guard gave no answer."""
    hint = "look with 'sitewarden status'"
    return Outcome(exit_code=Exit.NOT_REACHED, code=0, text=f"guard not reached: {text}; {hint}")


def refused(result: "Result", text: str, details: dict[str, Any]) -> Outcome:
    """The outcome of a refusal: 5 where it is so already, else 4."""
    code = Exit.ALREADY if result.code == ResultCode.ALREADY else Exit.REFUSED
    return Outcome(exit_code=code, code=result.code, text=text, details=details)


def settled(
    result: "Result", text: str, shown: Sequence[OutputSeen], details: dict[str, Any]
) -> Outcome:
    """The outcome of what the guard has done, by what its outputs were seen to do after."""
    confirmed = all(output.confirmed or output.held_by for output in shown)
    return Outcome(
        exit_code=Exit.DONE if confirmed else Exit.UNCONFIRMED,
        code=result.code,
        text=with_outputs(text, shown),
        confirmed=confirmed,
        details=details | listed(shown),
    )


def listed(shown: Sequence[OutputSeen]) -> dict[str, Any]:
    """The outputs as details."""
    return {"outputs": [{"id": o.id, "state": o.state, "confirmed": o.confirmed,
                         "held_by": list(o.held_by)} for o in shown]}  # fmt: skip


def with_outputs(text: str, shown: Sequence[OutputSeen]) -> str:
    """The text with one phrase per output."""
    words = []
    for output in shown:
        if output.held_by:
            words.append(f"{output.id} stays tripped: held by {', '.join(output.held_by)}")
        elif output.confirmed:
            words.append(f"{output.id} {output.state}, confirmed")
        else:
            words.append(f"{output.id} {output.state}, NOT confirmed in time")
    return "; ".join([text, *words])
