"""What the registry knows of a driver: its keys, how its devices and points are checked and made.

The caller hands over its own device and points; each kind names what it reads of them as protocols
of its own, so that no driver needs the gateway.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, Protocol

from drivers.base import Driver
from drivers.errors import PointError
from drivers.resolve import is_address

PORT_MAX: Final = 65_535
COMMON_DEVICE_KEYS: Final = frozenset(
    ("id", "driver", "address", "poll", "timeout", "settle", "record", "record_within", "burst")
)
_ENDPOINT: Final = re.compile(
    r"(?:\[(?P<bracketed>[0-9a-fA-F:.%\w]+)\]|(?P<plain>[^\s:\[\]/@]+)):(?P<port>[0-9]{1,5})"
)
_TTY: Final = re.compile("/[\x21-\x7e]{1,254}")

Limits = tuple[float, float] | None  # the instrument's range, inclusive


class Secret(Protocol):
    """A text that nothing prints."""

    def reveal(self) -> str:
        """The text itself, for the one library call that needs it."""


class Secrets(Protocol):
    """What one name of a credential stands for; None for what is not there."""

    @property
    def username(self) -> str | None:
        """Plain."""

    @property
    def password(self) -> Secret | None:
        """Never shown."""

    @property
    def ca_path(self) -> Path | None:
        """Whom to trust, PEM."""

    @property
    def cert_path(self) -> Path | None:
        """Our own certificate, PEM."""

    @property
    def key_path(self) -> Path | None:
        """Its key, PEM."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a driver finds around itself."""

    secrets: Callable[[str], Secrets]  # by the site file's name; raises LinkError
    state_dir: Path | None = None  # for what outlives a process (own certificates, trusted ones)
    # What the drivers of one port share, by their own keys; one event loop's.
    shared: dict[Any, Any] = field(default_factory=dict, compare=False)


class PlanningDriver(Driver, Protocol):
    """A driver that plans the reads of its own points."""

    def plan(self, indices: Iterable[int]) -> Any:
        """What ``read`` takes, for the points at ``indices``. Raises RequestError."""


class Place(Enum):
    """What a device's ``address`` is."""

    ENDPOINT = auto()  # host:port
    TTY = auto()  # the path of a serial port
    URL = auto()  # opc.tcp://host:port/path
    NOWHERE = auto()  # simulated: none at all


@dataclass(frozen=True, slots=True)
class DriverKind:
    """One entry of the registry. Devices and points are the site file's own objects."""

    name: str
    place: Place
    device_keys: frozenset[str]
    point_keys: frozenset[str]
    # None: the guard alone speaks to such a device.
    make: Callable[[Any, Sequence[tuple[Any, Limits]], Surroundings], PlanningDriver] | None
    check_point: Callable[[Any, Any, Limits], None]  # (device, point, range); raises PointError
    check_device: Callable[[Any], None]  # raises PointError, or an ExceptionGroup of them
    boolean: Callable[[Any, Any], bool | None]  # (device, point); None: cannot be told
    describe: Callable[[Any, Any], str]  # (device, point), both checked; for people, and exact
    retry_max_ns: int = 5_000_000_000  # between two attempts to connect
    writes: bool = True  # whether its devices can carry outputs


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``host:port`` taken apart. ``host`` is a name or an address without brackets."""

    host: str
    port: int

    @property
    def numeric(self) -> bool:
        """Whether the host is an IP address, so that nothing has to be resolved."""
        return is_address(self.host)


def parse_endpoint(text: str) -> Endpoint:
    """Read ``host:port`` or ``[IPv6]:port``; names in small letters. Raises PointError."""
    match = _ENDPOINT.fullmatch(text.strip())
    port = int(match["port"]) if match else 0
    if match is None or not 0 < port <= PORT_MAX:
        expected = 'expected host:port such as "192.168.10.20:502"'
        raise PointError(key="address", text=f'found "{text}", {expected}')
    host = match["bracketed"] or match["plain"]
    return Endpoint(host if "%" in host else host.lower(), port)  # an interface's name is exact


def parse_tty(text: str) -> str:
    """Read the path of a serial port. Raises PointError."""
    if _TTY.fullmatch(text) is None:
        expected = 'expected a serial port such as "/dev/serial/by-id/usb-…"'
        raise PointError(key="address", text=f'found "{text}", {expected}')
    return text
