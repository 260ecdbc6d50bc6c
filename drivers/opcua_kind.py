"""The OPC UA driver as a site file names it, and which keys it takes.

The library (60 MB) is imported when a driver is made, never for a site without such a device.
"""

from collections.abc import Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

from drivers.errors import PointError
from drivers.kind import (
    COMMON_DEVICE_KEYS,
    PORT_MAX,
    DriverKind,
    Limits,
    Place,
    PlanningDriver,
    Surroundings,
)
from drivers.opcua_points import OpcUaTag, parse_node, parse_opcua_point


class OpcUaConditions(Protocol):
    """Whose conditions are told, and which."""

    @property
    def source(self) -> str:
        """Node id of the notifier."""

    @property
    def severity(self) -> int:
        """From this on, 1 to 1000."""


class OpcUaDevice(Protocol):
    """What the OPC UA driver reads of a device; durations in nanoseconds."""

    @property
    def id(self) -> str:
        """Names its trust list."""

    @property
    def address(self) -> str:
        """``opc.tcp://host:port/path``."""

    @property
    def timeout(self) -> int:
        """Of each request, ns."""

    @property
    def poll(self) -> int:
        """Of publishing, or of reads, ns."""

    @property
    def security(self) -> str:
        """The policy, or None."""

    @property
    def mode(self) -> str:
        """Sign or SignAndEncrypt."""

    @property
    def insecure(self) -> bool:
        """The site's word that no security is meant."""

    @property
    def server_certificate(self) -> str | None:
        """The path of the one certificate that the server may show."""

    @property
    def credentials(self) -> str | None:
        """Name or certificate of the user."""

    @property
    def read(self) -> str:
        """How: ``subscribe`` or ``poll``."""

    @property
    def sampling(self) -> int | None:
        """Of the server, ns; None: the poll period."""

    @property
    def conditions(self) -> "OpcUaConditions | None":
        """Whose alarms and conditions are told; None: nobody's."""

    @property
    def queue(self) -> int | None:
        """Values that the server keeps per item; None: as many as sampling needs."""


def _make(
    device: OpcUaDevice, points: Sequence[tuple[OpcUaTag, Limits]], around: Surroundings
) -> PlanningDriver:
    from drivers.opcua import OpcUa
    from drivers.opcua_link import settings_of
    from drivers.opcua_subscribing import OpcUaSubscribing, Pace

    settings = settings_of(device)
    parsed = [parse_opcua_point(point, limits) for point, limits in points]
    if device.read == "poll":
        return OpcUa(settings, parsed, around)
    told = device.conditions
    conditions = (told.source, told.severity) if told is not None else None
    pace = Pace(int(device.sampling or 0), device.queue or 0, conditions)
    return OpcUaSubscribing(settings, parsed, around, pace)


def _check_point(device: OpcUaDevice, point: OpcUaTag, limits: Limits) -> None:
    parsed = parse_opcua_point(point, limits)
    if parsed.deadband is not None and device.read == "poll":
        text = 'found it with read = "poll", expected it with read = "subscribe"'
        raise PointError(key="deadband", text=text)


def _check_device(device: OpcUaDevice) -> None:
    check_url(device.address)
    _check_conditions(device)
    for key, value in (("sampling", device.sampling), ("queue", device.queue)):
        if value is not None and device.read == "poll":
            text = 'found it with read = "poll", expected it with read = "subscribe"'
            raise PointError(key=key, text=text)
    if device.security == "None" and not device.insecure:
        text = (
            'found "None" without insecure = true: everybody on the network could read and write '
            "there, or stand in for the server"
        )
        raise PointError(key="security", text=text)
    if device.insecure and device.security != "None":
        text = 'found true beside a secure connection, expected it with security = "None" alone'
        raise PointError(key="insecure", text=text)
    if device.security == "None" and device.server_certificate is not None:
        text = 'found it with security = "None", which checks no certificate'
        raise PointError(key="server_certificate", text=text)


def _check_conditions(device: OpcUaDevice) -> None:
    if device.conditions is None:
        return
    if device.read == "poll":
        text = 'found it with read = "poll", expected it with read = "subscribe"'
        raise PointError(key="conditions", text=text)
    try:
        named = parse_node(device.conditions.source)
    except PointError as error:
        raise PointError(key="conditions", text=f"source: {error}") from None
    if named.uri:
        text = "source: found a namespace by its URI, expected it by its number"
        raise PointError(key="conditions", text=text)


def check_url(text: str) -> None:
    """Whether ``text`` is an OPC UA server's address without a name in it. Raises PointError."""
    expected = 'expected a server such as "opc.tcp://192.168.10.20:4840"'
    try:
        parts = urlsplit(text)
        good = parts.scheme == "opc.tcp" and bool(parts.hostname)
        good = good and parts.port is not None and 0 < parts.port <= PORT_MAX
    except ValueError:
        good = False
    if not good or any(letter.isspace() for letter in text):
        raise PointError(key="address", text=f'found "{text}", {expected}')
    if parts.username is not None:
        said = "found a name in the URL, expected credentials by name"
        raise PointError(key="address", text=said)


def _boolean(device: OpcUaDevice, point: OpcUaTag) -> bool | None:
    del device
    return point.type == "bool"


def _describe(device: OpcUaDevice, point: OpcUaTag) -> str:
    del device
    parsed = parse_opcua_point(point, None)
    kind = "bool" if parsed.boolean else "number"
    deadband = "" if point.deadband is None else f" deadband {point.deadband!r}"
    return f"{parsed} {kind}{deadband}"


KINDS: Final = (
    DriverKind(
        name="opcua",
        place=Place.URL,
        device_keys=COMMON_DEVICE_KEYS
        | {
            "security",
            "mode",
            "insecure",
            "server_certificate",
            "credentials",
            "read",
            "sampling",
            "queue",
            "conditions",
        },
        point_keys=frozenset(
            ("address", "node", "path", "index", "deadband", "type", "scale", "offset")
        ),
        make=_make,
        check_point=_check_point,
        check_device=_check_device,
        boolean=_boolean,
        describe=_describe,
        retry_max_ns=15_000_000_000,  # a session costs a small server more than a connection
    ),
)
