"""What the guard's journal records say: payload layouts, read side.

The scan thread writes them (``journal.pyx``); the recorder turns them into alerts.
All ``*_ns`` stamps are CLOCK_MONOTONIC unless they say utc or boottime.
"""

import struct
from typing import Any, Final, NamedTuple

from fastpath.codes import EventType


class Event(NamedTuple):
    """One journal record; ``payload`` is 64 bytes, see :func:`payload_of`."""

    seq: int
    mono_ns: int
    utc_ns: int
    scan: int
    type: int  # EventType
    flags: int  # EventFlag
    index: int  # type: ignore[assignment]  # of the interlock, output, device or slot in the program that ran then
    key: int  # blob.key_of(kind, id)
    program: int  # first 8 bytes of the program's hash, little-endian
    payload: bytes


# (field names, layout). Fields named _ are padding kept zero.
_OUT = ("generation wanted seen code tries demand_ns wire_ns confirm_ns cause_key", "<IHHIIqqqQ16x")
_STATE = ("generation permissive legs left_ns", "<IIQq40x")
_RELEASED = ("generation under_bypass ledger_seq command_id", "<IIQ16s32x")
_BYPASS = (
    "kind cause until_ns left_ns ledger_seq command_id",
    "<IIqqQ16s16x",
)
_HEARTBEAT = ("device reason output_key", "<IIQ48x")
_DEVICE = ("reason errno down_ns requests refused", "<IIqQ24s16x")  # refused: 12 x u16
_PAUSE = ("took_ns budget_ns", "<qq48x")

PAYLOADS: Final[dict[EventType, tuple[str, str]]] = {
    EventType.GUARD_START: (
        "starts clean restored fifo locked gap_ns journal_id",
        "<QIIIIqQ24x",
    ),
    EventType.GUARD_STOP: ("reason signal", "<II56x"),
    EventType.PROGRAM: (
        "old new kept changed swap_ns weakened command_id",
        "<16s16sIIII16s",
    ),
    EventType.TRIP: (
        "generation reason first_out legs demand_mono_ns slot0 slot1 slot2 value0 value1 value2",
        "<IHHQqIIIxxxxddd",
    ),
    EventType.READY: _STATE,
    EventType.NOT_READY: _STATE,
    EventType.PENDING: _STATE,
    EventType.PENDING_END: _STATE,
    EventType.RESET: _RELEASED,
    EventType.RETURN: _RELEASED,
    EventType.BYPASS: _BYPASS,
    EventType.BYPASS_ENDING: _BYPASS,
    EventType.BYPASS_END: _BYPASS,
    EventType.COMMAND: ("type code detail command_id who", "<IIQ16s32s"),
    EventType.OUT_TRIP: _OUT,
    EventType.OUT_CONFIRMED: _OUT,
    EventType.OUT_FAILED: _OUT,
    EventType.OUT_MISMATCH: _OUT,
    EventType.OUT_UNVERIFIED: _OUT,
    EventType.OUT_RELEASE: _OUT,
    EventType.OUT_RELEASED: _OUT,
    EventType.OUT_HELD: _OUT,
    EventType.HEARTBEAT_STOP: _HEARTBEAT,
    EventType.HEARTBEAT_START: _HEARTBEAT,
    EventType.DEVICE_DOWN: _DEVICE,
    EventType.DEVICE_UP: _DEVICE,
    EventType.TAG_QUALITY: (
        "slot old_quality old_reason quality reason value",
        "<IBBBBd48x",
    ),
    EventType.OVERRUN: _PAUSE,
    EventType.PAUSE: _PAUSE,
    EventType.GATEWAY_UP: ("pid uid down_ns rejected", "<IIqQ40x"),
    EventType.GATEWAY_DOWN: ("pid uid down_ns rejected", "<IIqQ40x"),
    EventType.LOST: ("first count", "<QQ48x"),
    EventType.FAULT: ("code place value", "<IIq48x"),
    EventType.CONDITION_BLIND: ("since_ns slot quality", "<qII48x"),
}


def payload_of(event: Event) -> dict[str, Any]:
    """The payload's fields by name; empty for an unknown type (a newer guard's record)."""
    try:
        names, layout = PAYLOADS[EventType(event.type)]
    except ValueError:
        return {}
    return dict(zip(names.split(), struct.unpack(layout, event.payload), strict=True))


def legs_of(packed: int, count: int) -> list[int]:
    """The Truth of each of ``count`` legs out of the packed 2-bit form."""
    return [(packed >> (2 * i)) & 3 for i in range(count)]
