"""The alert: the draft that its makers fill in, the message that leaves, the item of its lane.

Makers know what happened; the ledger alone knows the sequence number, and with it the id, and which
earlier raise a clear ends. So a draft names its ``subject`` instead of an id.
"""

from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

Kind = Literal[
    "trip",
    "trip_end",
    "alarm",
    "alarm_end",
    "device",
    "output",
    "bypass",
    "command",
    "program",
    "gateway",
    "guard",
    "gap",
]
State = Literal["raised", "cleared", "event"]
Priority = Literal["critical", "high", "medium", "low"]
Result = Literal["true", "false", "unknown", "abstains"]
Level = Literal["red", "orange", "yellow", "blue"]

_NS_PER_S: Final = 1_000_000_000


class Source(Struct, frozen=True):
    """What an alert is about: an interlock, an output, a tag, a device, an uplink ..."""

    kind: str
    id: str


class LegNote(Struct, frozen=True, omit_defaults=True):
    """One leg of a cause at the moment of the trip."""

    text: str
    result: Result
    value: float | None = None


class OutputNote(Struct, frozen=True, omit_defaults=True):
    """One output that the alert is about; ``confirm_ns`` from its first write to its proof."""

    id: str
    state: str
    confirm_ns: int | None = None


class Correction(Struct, frozen=True, omit_defaults=True):
    """Times that a clock gave before it was synchronised, and by how much they are off.

    Meant are alerts of these sequences that say ``clock_synced`` false, and samples, whose time
    lies in the span.
    """

    epoch: Annotated[int, Meta(description="of the alerts; samples are told by their times")]
    first_seq: Annotated[int, Meta(description="the first alert with such times")]
    from_utc_ns: Annotated[int, Meta(description="begin of the span, by the clock as it was")]
    last_seq: Annotated[
        int | None, Meta(description="the last; below first_seq: none; left out: the epoch's last")
    ] = None
    to_utc_ns: Annotated[int | None, Meta(description="its end, by the clock as it was")] = None
    offset_ns: Annotated[
        int | None, Meta(description="to be added to them; left out: nobody knows")
    ] = None


class AlertDraft(Struct, frozen=True, kw_only=True):
    """Everything about an alert but what the ledger adds: sequence, id, ref, recorded, site.

    ``utc_ns`` 0 and ``clock_synced`` None: the ledger's own clock. The last five fields steer the
    ledger and are never sent.
    """

    kind: Kind
    state: State
    source: Source
    utc_ns: int = 0
    clock_synced: bool | None = None
    priority: Priority = "medium"
    level: str | None = None
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    quality: str | None = None
    cause: str = ""
    legs: tuple[LegNote, ...] = ()
    first_out: bool | None = None
    reaction_ns: int | None = None
    outputs: tuple[OutputNote, ...] = ()
    guidance: str = ""
    correction: Correction | None = None
    armed: bool | None = None
    exercise: bool = False
    program: str | None = None  # hash of the program that ran then, hexadecimal
    ref: str | None = None  # only where the maker knows better than the subject does
    subject: str = ""  # what a raise and its clear have in common; "": neither
    repeat: bool = False  # raised: said again, with a ref, while the subject is raised already
    unmatched: State | None = None  # cleared: its state where nothing was raised; None: not said
    journal_seq: int = 0  # the guard's record that it was made of, 0: none


class Alert(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An alert as it leaves. Fields are added, never changed; unknown ones are to be ignored."""

    id: Annotated[str, Meta(description="<gateway>/<epoch>/<seq>: the same whenever it is sent")]
    gateway: str
    epoch: Annotated[int, Meta(description="UTC ns of the creation of the ledger")]
    seq: Annotated[int, Meta(ge=1, description="gap-free per gateway and epoch")]
    kind: Kind
    state: State
    site: str
    source: Source
    time: Annotated[str, Meta(description="when it happened: RFC 3339, UTC, 9 digits")]
    recorded: Annotated[str, Meta(description="when the ledger took it: RFC 3339, UTC, 9 digits")]
    clock_synced: bool
    priority: Priority
    ref: Annotated[
        str | None, Meta(description="id of the raise that this one ends, follows or repeats")
    ] = None
    level: str | None = None
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    quality: str | None = None
    cause: str = ""
    legs: tuple[LegNote, ...] = ()
    first_out: Annotated[
        bool | None, Meta(description="true: the first of its group to trip in this episode")
    ] = None
    reaction_ns: Annotated[
        int | None, Meta(description="from the deciding sample's arrival to the first write")
    ] = None
    outputs: tuple[OutputNote, ...] = ()
    guidance: str = ""
    correction: Annotated[
        Correction | None, Meta(description="times of earlier alerts and samples that are off")
    ] = None
    armed: Annotated[bool | None, Meta(description="false: no output was moved")] = None
    unarmed_count: Annotated[
        int | None, Meta(description="interlocks of the site that move no output")
    ] = None
    exercise: bool = False
    program: Annotated[str | None, Meta(description="hash of the program that ran then")] = None
    was: Annotated[str | None, Meta(description="id that it had in a ledger that was damaged")] = (
        None
    )
    historical: Annotated[
        bool, Meta(description="true: it was not sent when it happened; differs when re-sent")
    ] = False
    audit_head: Annotated[
        str, Meta(description="head of the audit's hash chain at sending; differs when re-sent")
    ] = ""


class AlertItem(Struct, frozen=True):
    """One alert of the ledger; ``body`` is its JSON without ``audit_head`` and ``historical``."""

    seq: int
    body: bytes


class ActiveAlert(Struct, frozen=True):
    """A raise that nothing has ended yet. ``body`` is the alert's JSON."""

    subject: str
    id: str
    body: bytes


def rfc3339(utc_ns: int) -> str:
    """RFC 3339 in UTC with 9 digits."""
    seconds, ns = divmod(utc_ns, _NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"
