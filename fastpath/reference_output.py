"""One output in plain Python: what its latch keeps, what is on the wire, what was answered.

Part of the reference (``reference``): written for reading, never run on site. A definition is a
``gateway.site.model.Output``. Times are of the monotonic clock, but for a silence's: boottime.
"""

from dataclasses import dataclass
from typing import Any, Final

from fastpath.codes import OutputDemand, OutputState

Definition = Any  # gateway.site.model.Output
TRIP_STATES: Final = (OutputState.TRIPPING, OutputState.TRIPPED, OutputState.TRIP_FAILED)
QUIET: Final = (OutputState.RELEASED, OutputState.HELD)
RETRY_NS: Final = (100_000_000, 1_000_000_000)  # first, longest
NOTHING, TRIP, NORMAL = 0, 1, 2  # wishes


@dataclass(frozen=True, slots=True)
class Silence:
    """Of a siren: until when, and which trips whoever silenced it had heard."""

    until_boot_ns: int
    heard: dict[str, int]  # interlock -> generation


@dataclass(slots=True)
class Output:
    """One output: what its latch keeps, what is on the wire, what the device has said."""

    definition: Definition
    readback: tuple[str, bool] | None  # (tag, inverted)
    # The latch.
    state: int = OutputState.HELD
    generation: int = 0
    demanded: bool = False  # by an interlock or STOP
    stands_in: bool = False  # for one that failed
    failed: bool = False  # and was not let go since: its fallbacks stand in for it
    silence: Silence | None = None
    beat_stopped: bool = False  # heartbeats are withheld until it is confirmed
    first_hold: bool = False  # HELD by a first start: an agreeing read-back releases it
    confirmed: bool = False
    # Lost with the process.
    awaited: bool = False  # what names it holds, but the effect's delay still runs
    sounds_again: bool = False  # its silence ended with the demand still there
    wish: int = NOTHING
    in_flight: bool = False
    replied: bool = False
    refused: bool = False
    tries: int = 0
    unverified: bool = False
    restored: bool = False  # tripped before a restart: its confirmation is late
    wire_ns: int | None = None  # first write of this trip
    entered_ns: int = 0
    next_write_ns: int = 0
    confirm_by_ns: int | None = None
    retry_ns: int = RETRY_NS[0]
    differs_since_ns: int | None = None
    uncommanded: bool = False  # the read-back contradicts though nothing was commanded

    @property
    def id(self) -> str:
        """As in the site file."""
        return str(self.definition.id)

    @property
    def by_gateway(self) -> bool:
        """The gateway writes it."""
        return bool(self.definition.via == "gateway")

    @property
    def trips(self) -> bool:
        """It is, or is being, commanded to its trip value."""
        return self.state in TRIP_STATES

    @property
    def held(self) -> bool:
        """Something demands it, silenced or not."""
        return self.demanded or self.stands_in

    @property
    def commanded(self) -> float | None:
        """The value that the gateway is asked for, None: none."""
        if self.trips:
            return float(self.definition.trip)
        return float(self.definition.normal) if self.state == OutputState.RELEASING else None

    @property
    def demand(self) -> OutputDemand:
        """Why it is commanded, as its latch says it."""
        bits = (
            (self.demanded, OutputDemand.CAUSE),
            (self.stands_in, OutputDemand.FALLBACK),
            (self.failed, OutputDemand.FAILED),
            (self.silence is not None, OutputDemand.SILENCED),
            (self.beat_stopped, OutputDemand.BEAT_STOPPED),
        )
        return OutputDemand(sum(bit for there, bit in bits if there))

    def forget(self, entered_ns: int) -> None:
        """HELD, and nothing known of it but its number."""
        fresh = Output(self.definition, self.readback, generation=self.generation)
        fresh.entered_ns = entered_ns
        for name in Output.__slots__:
            setattr(self, name, getattr(fresh, name))
