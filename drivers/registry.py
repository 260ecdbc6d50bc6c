"""The drivers by the name that a site file gives, and which keys each takes.

The caller hands over its own device and points; what is read of them is named here as protocols,
so that no driver needs the gateway.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from drivers.base import Driver
from drivers.errors import RequestError
from drivers.modbus import ModbusTcp
from drivers.plan import request_cap
from drivers.points import ModbusPoint, PointError, describe, parse_order, parse_point
from drivers.resolve import is_address

PORT_MAX: Final = 65_535
RTU_UNIT_MAX: Final = 247  # 0 is a broadcast, the rest is reserved
_ENDPOINT: Final = re.compile(
    r"(?:\[(?P<bracketed>[0-9a-fA-F:.%\w]+)\]|(?P<plain>[^\s:\[\]/@]+)):(?P<port>[0-9]{1,5})"
)
_TTY: Final = re.compile("/[\\x21-\\x7e]{1,254}")
COMMON_DEVICE_KEYS: Final = frozenset(
    ("id", "driver", "address", "poll", "timeout", "settle", "record")
)


class DeviceFields(Protocol):
    """What a driver reads of a device; durations in nanoseconds."""

    @property
    def address(self) -> str:
        """``host:port``."""

    @property
    def timeout(self) -> int:
        """Of connecting and of each request, ns."""

    @property
    def unit(self) -> int:
        """Modbus unit, 0 to 255."""

    @property
    def base(self) -> int:
        """Number of the first register in addresses, 0 or 1."""

    @property
    def order(self) -> str:
        """Byte order of points that name none."""

    @property
    def max_registers(self) -> int:
        """Most registers per read."""

    @property
    def max_gap(self) -> int:
        """Most unused addresses read along between two points."""

    @property
    def request_delay(self) -> int:
        """Rest between a reply and the next request, ns."""


class PointFields(Protocol):
    """What a driver reads of a tag's point."""

    @property
    def address(self) -> str:
        """Such as ``hr:100``."""

    @property
    def type(self) -> str:
        """Empty: the default of its address."""

    @property
    def order(self) -> str:
        """Empty: the device's."""

    @property
    def scale(self) -> float:
        """Value = raw x scale + offset."""

    @property
    def offset(self) -> float:
        """In engineering units."""


Limits = tuple[float, float] | None  # the instrument's range, inclusive


class PlanningDriver(Driver, Protocol):
    """A driver that plans the reads of its own points."""

    def plan(self, indices: Iterable[int]) -> Any:
        """What ``read`` takes, for the points at ``indices``. Raises RequestError."""


@dataclass(frozen=True, slots=True)
class DriverKind:
    """One entry of the registry."""

    name: str
    device_keys: frozenset[str]
    point_keys: frozenset[str]
    # None: the guard alone speaks to such a device.
    make: Callable[[DeviceFields, Sequence[tuple[PointFields, Limits]]], PlanningDriver] | None
    check_point: Callable[[DeviceFields, PointFields, Limits], None]  # raises PointError
    check_device: Callable[[DeviceFields], None]  # raises PointError


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
    """Read ``host:port`` or ``[IPv6]:port``. Raises PointError."""
    match = _ENDPOINT.fullmatch(text.strip())
    port = int(match["port"]) if match else 0
    if match is None or not 0 < port <= PORT_MAX:
        expected = 'expected host:port such as "192.168.10.20:502"'
        raise PointError(key="address", text=f'found "{text}", {expected}')
    return Endpoint(match["bracketed"] or match["plain"], port)


def make_driver(
    name: str, device: DeviceFields, points: Sequence[tuple[PointFields, Limits]]
) -> PlanningDriver:
    """The driver of this name. Raises RequestError where the guard alone speaks to the device."""
    make = DRIVERS[name].make
    if make is None:
        msg = f"{name} devices are polled by the guard alone"
        raise RequestError(msg)
    return make(device, points)


def parse_tty(text: str) -> str:
    """Read the path of a serial port. Raises PointError."""
    if _TTY.fullmatch(text) is None:
        expected = 'expected a serial port such as "/dev/serial/by-id/usb-…"'
        raise PointError(key="address", text=f'found "{text}", {expected}')
    return text


def _make_modbus_tcp(
    device: DeviceFields, points: Sequence[tuple[PointFields, Limits]]
) -> PlanningDriver:
    endpoint = parse_endpoint(device.address)
    return ModbusTcp(
        endpoint.host,
        endpoint.port,
        [_modbus_point(device, fields, limits) for fields, limits in points],
        unit=device.unit,
        timeout_s=device.timeout / 1e9,
        request_delay_s=device.request_delay / 1e9,
        max_registers=device.max_registers,
        max_gap=device.max_gap,
    )


def _modbus_point(device: DeviceFields, point: PointFields, limits: Limits) -> ModbusPoint:
    return parse_point(
        point.address,
        point.type,
        point.order,
        scale=point.scale,
        offset=point.offset,
        limits=limits,
        base=device.base,
        default_order=device.order,
    )


def _check_modbus_point(device: DeviceFields, point: PointFields, limits: Limits) -> None:
    parsed = _modbus_point(device, point, limits)
    cap = request_cap(parsed.area, device.max_registers)
    if parsed.width > cap:
        text = f"{describe(parsed)} takes {parsed.width} registers, max_registers is {cap}"
        raise PointError(key="address", text=text)


def _check_modbus_tcp(device: DeviceFields) -> None:
    parse_endpoint(device.address)
    parse_order(device.order)


def _check_modbus_rtu(device: DeviceFields) -> None:
    parse_tty(device.address)
    parse_order(device.order)
    if not 1 <= device.unit <= RTU_UNIT_MAX:
        text = f"found {device.unit}, expected 1 to {RTU_UNIT_MAX} on a serial line"
        raise PointError(key="unit", text=text)


MODBUS_DEVICE_KEYS: Final = frozenset(
    (
        "unit", "base", "order", "max_registers", "max_gap", "request_delay", "fast", "heartbeat",
        "watchdog_registers",
    )
)  # fmt: skip
MODBUS_POINT_KEYS: Final = frozenset(("address", "type", "order", "scale", "offset"))

DRIVERS: Final[Mapping[str, DriverKind]] = {
    "modbus-tcp": DriverKind(
        name="modbus-tcp",
        device_keys=COMMON_DEVICE_KEYS | MODBUS_DEVICE_KEYS | {"lease"},
        point_keys=MODBUS_POINT_KEYS,
        make=_make_modbus_tcp,
        check_point=_check_modbus_point,
        check_device=_check_modbus_tcp,
    ),
    "modbus-rtu": DriverKind(
        name="modbus-rtu",
        device_keys=COMMON_DEVICE_KEYS | MODBUS_DEVICE_KEYS | {"line"},
        point_keys=MODBUS_POINT_KEYS,
        make=None,
        check_point=_check_modbus_point,
        check_device=_check_modbus_rtu,
    ),
}
