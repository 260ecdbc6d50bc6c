"""The driver ``serial`` as a site file names it: instruments on lines and in frames."""

import hashlib
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from drivers.errors import PointError
from drivers.kind import (
    COMMON_DEVICE_KEYS,
    DriverKind,
    Limits,
    Place,
    PlanningDriver,
    Surroundings,
    parse_tty,
)
from drivers.serial_bus import SharedPort
from drivers.serial_line import SerialAsker, SerialStream
from drivers.serial_port import LineSettings, Settings
from drivers.serial_protocol import WRONG, parse_protocol
from drivers.serial_protocol import SerialDevice as Speaker
from drivers.serial_values import SerialPoint, check_fields, is_boolean, make_values

SERIAL: Final = "serial"


class SerialDevice(Speaker, Protocol):
    """What the driver reads of a device; durations in nanoseconds."""

    @property
    def address(self) -> str:
        """The port's path."""

    @property
    def poll(self) -> int:
        """How often it is asked, or sends at least, ns."""

    @property
    def timeout(self) -> int:
        """Of opening and of an answer, ns."""

    @property
    def line(self) -> LineSettings | None:
        """How the line is set; resolved it is never None."""


def streams(device: Speaker) -> bool:
    """Whether the instrument sends by itself."""
    return device.protocol is not None and device.protocol.request is None


def _make(
    device: SerialDevice, points: Sequence[tuple[SerialPoint, Limits]], around: Surroundings
) -> PlanningDriver:
    if device.line is None:
        raise PointError(key="line", text="found nothing, expected how the line is set")
    values = make_values(device, parse_protocol(device), points)
    return (SerialStream if streams(device) else SerialAsker)(
        SharedPort(parse_tty(device.address), Settings.of(device.line), around.shared),
        values,
        timeout_s=device.timeout / 1e9,
        silence_s=(3 * device.poll + device.timeout) / 1e9,
    )


def _check_device(device: SerialDevice) -> None:
    errors: list[PointError] = []
    try:
        parse_tty(device.address)
    except PointError as error:
        errors.append(error)
    try:
        protocol = parse_protocol(device)
    except ExceptionGroup as group:
        errors += [error for error in group.exceptions if isinstance(error, PointError)]
    else:
        errors += check_fields(device, protocol)
    if errors:
        raise ExceptionGroup(WRONG, errors)


def _check_point(device: SerialDevice, point: SerialPoint, limits: Limits) -> None:
    try:
        protocol = parse_protocol(device)
    except ExceptionGroup:
        return  # told of the device
    if not check_fields(device, protocol):
        make_values(device, protocol, [(point, limits)])


def _describe(device: SerialDevice, point: SerialPoint) -> str:
    """The place, and a hash of everything that makes a value of it."""
    made = msgspec.json.encode((device.protocol, device.fields, device.station, device.order))
    place = f"at {point.at}" if point.field is None else f"field {point.field}"
    digest = hashlib.blake2b(made, digest_size=8).hexdigest()
    return " ".join(filter(None, (place, point.type, point.order, f"protocol {digest}")))


KINDS: Final = (
    DriverKind(
        name=SERIAL,
        place=Place.TTY,
        device_keys=COMMON_DEVICE_KEYS
        | {"line", "order", "protocol", "template", "fields", "station"},
        point_keys=frozenset(("field", "at", "type", "order", "scale", "offset")),
        make=_make,
        check_point=_check_point,
        check_device=_check_device,
        boolean=is_boolean,
        describe=_describe,
        writes=False,
    ),
)
