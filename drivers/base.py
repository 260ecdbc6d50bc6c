"""What every driver is: connect, read a plan, write a point, close.

A driver talks to one device. It knows points, never tags: the caller keeps the mapping. It raises
only :class:`drivers.errors.DriverError`; whoever runs it (``session.py``) decides what ends the
connection. While a call runs no second one is made.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable


class Reading(NamedTuple):
    """One point as read. ``value`` is NaN where there is none."""

    point: int  # index into the device's points
    value: float  # engineering units; booleans 0.0 and 1.0
    quality: int  # fastpath.codes.Quality
    reason: int  # fastpath.codes.Reason
    source_utc_ns: int  # the device's own stamp, 0 where it has none


class Driver(Protocol):
    """One device's protocol. Every call has its own deadline (the device's ``timeout``)."""

    async def connect(self) -> None:
        """Open the link. Raises LinkError."""

    async def read(self, plan: Any) -> Sequence[Reading]:
        """Read one poll class once; ``plan`` is what this driver's ``plan()`` made of its points.

        A point that the device refuses is a BAD reading, not an exception; one that could not be
        read this time is missing. Raises LinkError or ProtocolError when nothing can be said of
        the whole, DeviceError when the device answered only that it cannot now (link intact).
        """

    async def write(self, point: int, value: float) -> None:
        """Write one point and check the device's own reply. Raises DriverError."""

    async def close(self) -> None:
        """Close the link; never raises, never waits longer than the timeout."""

    def stats(self) -> Mapping[str, int]:
        """Requests so far by result: good, exception, timeout, refused, lost, connect."""

    def faults(self) -> Mapping[int, str]:
        """The points that the device refuses now, with a text for people; mostly empty."""


@runtime_checkable
class Subscribing(Protocol):
    """What a driver has besides when its device sends by itself (streaming instruments)."""

    def readings(self) -> AsyncIterator[Sequence[Reading]]:
        """Batches as they arrive, until the link ends (then LinkError)."""


class Condition(NamedTuple):
    """A condition of the device's own, as it told of it: an alarm of a control system, say."""

    ident: str  # the device's own, the same for as long as it has the condition
    text: str  # for people
    active: bool
    severity: int  # 1 to 1000, as OPC UA has it
    source_utc_ns: int  # the device's own stamp, 0 where it has none


class Batch(NamedTuple):
    """What a device that is monitored told at once."""

    readings: Sequence[Reading]
    proven: Sequence[int] = ()  # points that are as they were told last, or are told here
    gaps: int = 0  # values that the device had no room for, as far as it says so
    conditions: Sequence[Condition] = ()  # what became active or ceased, in order
    standing: frozenset[str] | None = None  # all that are active; None: not listed here


@runtime_checkable
class Monitoring(Protocol):
    """What a driver has besides when its device tells changes alone (OPC UA)."""

    async def subscribe(self, classes: Sequence[tuple[int, Any]]) -> None:
        """Ask for (period ns, plan) each; after ``connect``, once. Raises DriverError."""

    async def pushed(self) -> Batch:
        """What came next; may be empty. Raises LinkError or ProtocolError when the link ended.

        Returns or raises within the silence that the device's own proof of life allows.
        """


@runtime_checkable
class Worded(Protocol):
    """A driver with points that are texts; their readings are GOOD without a value."""

    def texts(self) -> Mapping[int, str]:
        """The newest text of each such point."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a driver knows of its device beside the readings."""

    address: str = ""  # in use, for people; empty: the site file's
    not_after_utc_ns: int = 0  # when the device's certificate ends; 0: it shows none
    troubles: Mapping[str, str] = field(default_factory=dict)  # kind of problem -> text for people
    clock_ahead_ns: int | None = None  # its clock minus ours, as it was told last; None: never


@runtime_checkable
class Telling(Protocol):
    """A driver that has such facts; asked after each connect and each poll."""

    def facts(self) -> Facts:
        """As of now."""
