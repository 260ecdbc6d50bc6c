"""The Modbus drivers as a site file names them, and which keys each takes."""

from collections.abc import Sequence
from typing import Final, Protocol

from drivers.errors import PointError
from drivers.kind import (
    COMMON_DEVICE_KEYS,
    DriverKind,
    Limits,
    Place,
    PlanningDriver,
    Surroundings,
    parse_endpoint,
    parse_tty,
)
from drivers.modbus import ModbusTcp
from drivers.plan import request_cap
from drivers.points import ModbusPoint, describe, parse_order, parse_point

RTU_UNIT_MAX: Final = 247  # 0 is a broadcast, the rest is reserved


class ModbusDevice(Protocol):
    """What the Modbus drivers read of a device; durations in nanoseconds."""

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


class ModbusTag(Protocol):
    """What the Modbus drivers read of a tag's point."""

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


def _make_modbus_tcp(
    device: ModbusDevice, points: Sequence[tuple[ModbusTag, Limits]], around: Surroundings
) -> PlanningDriver:
    del around
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


def _modbus_point(device: ModbusDevice, point: ModbusTag, limits: Limits) -> ModbusPoint:
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


def _check_modbus_point(device: ModbusDevice, point: ModbusTag, limits: Limits) -> None:
    if not point.address:
        raise PointError(key="address", text='found nothing, expected "ir:100" or the like')
    parsed = _modbus_point(device, point, limits)
    cap = request_cap(parsed.area, device.max_registers)
    if parsed.width > cap:
        text = f"{describe(parsed)} takes {parsed.width} registers, max_registers is {cap}"
        raise PointError(key="address", text=text)


def _boolean(device: ModbusDevice, point: ModbusTag) -> bool | None:
    try:
        return _modbus_point(device, point, None).boolean
    except PointError:
        return None


def _check_modbus_tcp(device: ModbusDevice) -> None:
    parse_endpoint(device.address)
    parse_order(device.order)


def _check_modbus_rtu(device: ModbusDevice) -> None:
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

KINDS: Final = (
    DriverKind(
        name="modbus-tcp",
        place=Place.ENDPOINT,
        device_keys=COMMON_DEVICE_KEYS | MODBUS_DEVICE_KEYS | {"lease"},
        point_keys=MODBUS_POINT_KEYS,
        make=_make_modbus_tcp,
        check_point=_check_modbus_point,
        check_device=_check_modbus_tcp,
        boolean=_boolean,
    ),
    DriverKind(
        name="modbus-rtu",
        place=Place.TTY,
        device_keys=COMMON_DEVICE_KEYS | MODBUS_DEVICE_KEYS | {"line"},
        point_keys=MODBUS_POINT_KEYS,
        make=None,
        check_point=_check_modbus_point,
        check_device=_check_modbus_rtu,
        boolean=_boolean,
    ),
)
