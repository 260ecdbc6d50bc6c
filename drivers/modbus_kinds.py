"""The Modbus drivers as a site file names them, and which keys each takes."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from drivers.errors import PointError
from drivers.kind import (
    COMMON_DEVICE_KEYS,
    DriverKind,
    Endpoint,
    Limits,
    Place,
    PlanningDriver,
    Surroundings,
    parse_endpoint,
    parse_tty,
)
from drivers.modbus import ModbusUnit
from drivers.modbus_dial import Dial, RtuTcpDial, SerialDial, TcpDial, TlsDial
from drivers.modbus_line import LineWire
from drivers.modbus_wire import BackupWire, OwnWire, Wire
from drivers.plan import request_cap
from drivers.points import (
    Excluded,
    ModbusPoint,
    describe,
    parse_excluded,
    parse_order,
    parse_point,
)

RTU_UNIT_MAX: Final = 247  # 0 is a broadcast, the rest is reserved


class SerialLine(Protocol):
    """How a serial port is set."""

    @property
    def baud(self) -> int:
        """Bits per second."""

    @property
    def parity(self) -> str:
        """none, even or odd."""

    @property
    def stop(self) -> int:
        """Stop bits."""

    @property
    def rs485(self) -> bool:
        """The kernel's driver switches the direction."""


class LifeCounter(Protocol):
    """A register that proves its device live."""

    @property
    def point(self) -> str:
        """Its address."""

    @property
    def within(self) -> int:
        """It must have moved within so many ns."""


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

    @property
    def exclude(self) -> Sequence[str]:
        """Addresses that are never read."""

    @property
    def backup(self) -> str | None:
        """A second ``host:port``."""

    @property
    def alive(self) -> LifeCounter | None:
        """What must move."""

    @property
    def line(self) -> SerialLine | None:
        """Of a serial port; None: the defaults."""

    @property
    def credentials(self) -> str | None:
        """By name, of Modbus TLS."""


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

    @property
    def length(self) -> int | None:
        """Registers of a text."""


def dial_of(driver: str, device: ModbusDevice, around: Surroundings) -> Dial:
    """The way to the address of a Modbus device, for who asks any unit there. Raises PointError."""
    if driver == "modbus-rtu":
        return _serial_dial(device)
    endpoint = parse_endpoint(device.address)
    if driver == "modbus-tls":
        name = device.credentials or ""
        return TlsDial(endpoint.host, endpoint.port, lambda: around.secrets(name))
    kind = RtuTcpDial if driver == "modbus-rtu-tcp" else TcpDial
    return kind(endpoint.host, endpoint.port)


EndpointWire = Callable[[ModbusDevice, Endpoint, Surroundings], Wire]
Make = Callable[[ModbusDevice, Sequence[tuple[ModbusTag, Limits]], Surroundings], PlanningDriver]


def _own_wire(dial: Dial, device: ModbusDevice, around: Surroundings) -> Wire:
    del around
    return OwnWire(dial, device.unit, device.timeout / 1e9)


def _line_wire(dial: Dial, device: ModbusDevice, around: Surroundings) -> Wire:
    return LineWire(dial, device.unit, device.timeout / 1e9, around.shared)


def _tcp(device: ModbusDevice, endpoint: Endpoint, around: Surroundings) -> Wire:
    return _own_wire(TcpDial(endpoint.host, endpoint.port), device, around)


def _tls(device: ModbusDevice, endpoint: Endpoint, around: Surroundings) -> Wire:
    name = device.credentials or ""
    dial = TlsDial(endpoint.host, endpoint.port, lambda: around.secrets(name))
    return _own_wire(dial, device, around)


def _rtu_tcp(device: ModbusDevice, endpoint: Endpoint, around: Surroundings) -> Wire:
    return _line_wire(RtuTcpDial(endpoint.host, endpoint.port), device, around)


def _serial(device: ModbusDevice, around: Surroundings) -> Wire:
    return _line_wire(_serial_dial(device), device, around)


def _serial_dial(device: ModbusDevice) -> SerialDial:
    line = device.line
    if line is None:
        return SerialDial(device.address)
    return SerialDial(device.address, line.baud, line.parity, line.stop, line.rs485)


def _over_endpoint(wire: EndpointWire) -> Make:
    def make(
        device: ModbusDevice, points: Sequence[tuple[ModbusTag, Limits]], around: Surroundings
    ) -> PlanningDriver:
        first = wire(device, parse_endpoint(device.address), around)
        if device.backup is None:
            return _unit(first, device, points)
        second = wire(device, parse_endpoint(device.backup), around)
        return _unit(BackupWire(first, second), device, points)

    return make


def _over_tty(
    device: ModbusDevice, points: Sequence[tuple[ModbusTag, Limits]], around: Surroundings
) -> PlanningDriver:
    return _unit(_serial(device, around), device, points)


def _unit(
    wire: Wire, device: ModbusDevice, points: Sequence[tuple[ModbusTag, Limits]]
) -> PlanningDriver:
    return ModbusUnit(
        wire,
        [point_of(device, fields, limits) for fields, limits in points],
        request_delay_s=device.request_delay / 1e9,
        max_registers=device.max_registers,
        max_gap=device.max_gap,
        exclude=excluded_of(device),
        alive=_alive(device),
    )


def excluded_of(device: ModbusDevice) -> tuple[Excluded, ...]:
    """What of the device is never read. Raises PointError."""
    return tuple(parse_excluded(text, base=device.base) for text in device.exclude)


def _alive(device: ModbusDevice) -> tuple[ModbusPoint, int] | None:
    if device.alive is None:
        return None
    try:
        point = parse_point(device.alive.point, base=device.base, default_order=device.order)
    except PointError as error:
        raise PointError(key="alive", text=str(error)) from None
    return point, device.alive.within


def point_of(device: ModbusDevice, point: ModbusTag, limits: Limits) -> ModbusPoint:
    """The driver's point of a tag. Raises PointError."""
    return parse_point(
        point.address,
        point.type,
        point.order,
        scale=point.scale,
        offset=point.offset,
        limits=limits,
        base=device.base,
        default_order=device.order,
        length=point.length,
    )


def _check_modbus_point(device: ModbusDevice, point: ModbusTag, limits: Limits) -> None:
    if not point.address:
        raise PointError(key="address", text='found nothing, expected "ir:100" or the like')
    parsed = point_of(device, point, limits)
    if any(each.holds(parsed) for each in _excluded_or_none(device)):
        text = f"{describe(parsed)} is excluded from every read of its device"
        raise PointError(key="address", text=text)
    cap = request_cap(parsed.area, device.max_registers)
    if parsed.width > cap:
        text = f"{describe(parsed)} takes {parsed.width} registers, max_registers is {cap}"
        raise PointError(key="address", text=text)


def _excluded_or_none(device: ModbusDevice) -> tuple[Excluded, ...]:
    """What is excluded; none where the device's own table is wrong."""
    try:
        return excluded_of(device)
    except PointError:
        return ()


def _boolean(device: ModbusDevice, point: ModbusTag) -> bool | None:
    try:
        return point_of(device, point, None).boolean
    except PointError:
        return None


def _describe(device: ModbusDevice, point: ModbusTag) -> str:
    parsed = point_of(device, point, None)
    return f"{describe(parsed)} {parsed.type.name.lower()} {parsed.order.name}"


def _check_modbus_tcp(device: ModbusDevice) -> None:
    parse_endpoint(device.address)
    if device.backup is not None:
        _check_backup(device.backup, device.address)
    _check_unit_keys(device)


def _check_backup(backup: str, address: str) -> None:
    try:
        same = parse_endpoint(backup) == parse_endpoint(address)
    except PointError as error:
        raise PointError(key="backup", text=str(error)) from None
    if same:
        text = f'found "{backup}", which is its address, expected another one'
        raise PointError(key="backup", text=text)


def _check_unit_keys(device: ModbusDevice) -> None:
    """What every Modbus device takes."""
    parse_order(device.order)
    excluded = excluded_of(device)
    alive = _alive(device)
    if alive is not None and any(each.holds(alive[0]) for each in excluded):
        text = f"{describe(alive[0])} is excluded from every read"
        raise PointError(key="alive", text=text)


def _check_modbus_tls(device: ModbusDevice) -> None:
    _check_modbus_tcp(device)
    if not device.credentials:
        text = "found nothing, expected the name of credentials with ca.pem, cert.pem and key.pem"
        raise PointError(key="credentials", text=text)


def _check_rtu_tcp(device: ModbusDevice) -> None:
    _check_modbus_tcp(device)
    _check_unit(device)


def _check_modbus_rtu(device: ModbusDevice) -> None:
    parse_tty(device.address)
    _check_unit_keys(device)
    _check_unit(device)


def _check_unit(device: ModbusDevice) -> None:
    if not 1 <= device.unit <= RTU_UNIT_MAX:
        text = f"found {device.unit}, expected 1 to {RTU_UNIT_MAX} on a serial line"
        raise PointError(key="unit", text=text)


UNIT_KEYS: Final = frozenset(
    (
        "unit", "base", "order", "max_registers", "max_gap", "request_delay", "exclude", "alive",
        "template",
    )
)  # fmt: skip
GUARD_KEYS: Final = frozenset(("fast", "heartbeat", "watchdog_registers"))
POINT_KEYS: Final = frozenset(("address", "type", "order", "scale", "offset", "length"))


def _kind(
    name: str,
    place: Place,
    keys: frozenset[str],
    make: Make,
    check_device: Callable[[ModbusDevice], None],
) -> DriverKind:
    return DriverKind(
        name=name,
        place=place,
        device_keys=COMMON_DEVICE_KEYS | UNIT_KEYS | keys,
        point_keys=POINT_KEYS,
        make=make,
        check_point=_check_modbus_point,
        check_device=check_device,
        boolean=_boolean,
        describe=_describe,
    )


KINDS: Final = (
    _kind(
        "modbus-tcp",
        Place.ENDPOINT,
        GUARD_KEYS | {"lease", "backup"},
        _over_endpoint(_tcp),
        _check_modbus_tcp,
    ),
    _kind("modbus-rtu", Place.TTY, GUARD_KEYS | {"line"}, _over_tty, _check_modbus_rtu),
    _kind(
        "modbus-tls",
        Place.ENDPOINT,
        frozenset(("credentials", "backup")),
        _over_endpoint(_tls),
        _check_modbus_tls,
    ),
    _kind(
        "modbus-rtu-tcp",
        Place.ENDPOINT,
        frozenset(("backup",)),
        _over_endpoint(_rtu_tcp),
        _check_rtu_tcp,
    ),
)
