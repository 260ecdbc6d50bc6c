"""What is to be written of an output, and what became of it, in plain Python.

Part of the reference (``reference``): written for reading, never run on site. An output via the
gateway has its wish in its latch; a gateway that is not heard is a link that is down.
"""

from typing import Final

from fastpath.codes import OutputState
from fastpath.reference_interlocks import Now
from fastpath.reference_output import NORMAL, NOTHING, RETRY_NS, TRIP, Output

WRITE_TIMEOUT_NS: Final = 200_000_000
RELEASE_TRIES: Final = 3


def wish(one: Output, now: Now) -> None:
    """What is to be written now, if anything."""
    one.wish = NOTHING
    if one.by_gateway:
        if one.trips and one.wire_ns is None:
            one.wire_ns = now.mono_ns
        return
    if one.in_flight or now.mono_ns < one.next_write_ns:
        return
    if one.trips:
        one.wish = TRIP
    elif one.state == OutputState.RELEASING and one.tries < RELEASE_TRIES:
        one.wish = NORMAL


def sent(one: Output, now: Now) -> None:
    """The wish is on the wire."""
    one.in_flight = True
    one.wish = NOTHING
    if one.state == OutputState.RELEASING:
        one.tries += 1
        one.next_write_ns = now.mono_ns + WRITE_TIMEOUT_NS
        return
    if one.wire_ns is None:
        one.wire_ns = now.mono_ns
    if one.state == OutputState.TRIPPED and not one.unverified:
        one.next_write_ns = now.mono_ns + int(one.definition.reassert)
    elif one.state == OutputState.TRIP_FAILED:
        one.next_write_ns = now.mono_ns + one.retry_ns
        one.retry_ns = min(2 * one.retry_ns, RETRY_NS[1])
    else:
        one.next_write_ns = now.mono_ns + WRITE_TIMEOUT_NS


def replied(one: Output, *, refused: bool) -> None:
    """The device's own reply to the outstanding write."""
    if one.in_flight:
        one.in_flight = False
        _answered(one, refused=refused)


def expired(one: Output) -> None:
    """No reply in its time."""
    one.in_flight = False


def result(one: Output, generation: int, code: int) -> None:
    """OUTPUT_RESULT: the gateway's word for what is commanded now, and for nothing else."""
    if not one.by_gateway or generation != one.generation or code == 0 or one.commanded is None:
        return
    if code != 1 and one.state == OutputState.RELEASING:
        one.tries += 1
    _answered(one, refused=code != 1)


def _answered(one: Output, *, refused: bool) -> None:
    one.refused = refused
    one.replied = one.replied or not refused


def link_up(one: Output, now: Now) -> None:
    """A new connection: a pending trip value is the first thing on it, and confirmed anew."""
    if not one.trips:
        return
    one.replied = False
    one.next_write_ns = now.mono_ns
    if one.state == OutputState.TRIPPED:
        one.unverified = True
        one.confirm_by_ns = now.mono_ns + int(one.definition.confirm_within)
    wish(one, now)


def gateway_up(one: Output, now: Now) -> None:
    """The gateway is heard again; what it says in that very message counts."""
    if one.unverified:
        one.confirm_by_ns = now.mono_ns + int(one.definition.confirm_within)
