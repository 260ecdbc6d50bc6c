"""Where devices, points and outputs are: what the drivers and the guard's wire say about them."""

import ipaddress
import os
from typing import Any, Final, NamedTuple

from drivers.errors import PointError, RequestError
from drivers.kind import DriverKind, Place, parse_endpoint
from drivers.modbus_kinds import RTU_UNIT_MAX
from drivers.points import (
    ADDRESS_MAX,
    Address,
    Area,
    parse_address,
)
from drivers.registry import DRIVERS
from drivers.serial_kind import SERIAL, streams
from gateway.site.complaints import Complaints, did_you_mean, shown
from gateway.site.convert import Entry
from gateway.site.draft import Draft
from gateway.site.later import LATER_DRIVERS
from gateway.site.model import (
    SERIAL_DRIVER,
    Device,
    Heartbeat,
    Lease,
    Line,
    Output,
    Point,
    Tag,
    View,
    WatchdogRegister,
)

HEARTBEAT_REGISTERS: Final = 2
LEASE_REGISTERS: Final = 3
RTU_BITS: Final = 8
REGISTER_MAX: Final = 65_535


class Wire(NamedTuple):
    """One place that the guard writes: server, unit, coil or register, number."""

    server: str
    unit: int
    area: Area
    number: int


def is_boolean(device: Device, point: Point) -> bool:
    """Whether a point of a checked site is a boolean, as its driver says."""
    return DRIVERS[device.driver].boolean(device, point) is True


def packed_address(host: str) -> bytes:
    """16 bytes: IPv6, or IPv4 mapped into it. Raises ValueError for a name."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed


class Places:
    """Checks places table by table; remembers who writes where."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._complaints: Complaints = draft.complaints
        self._devices: dict[str, Entry[Device]] = draft.by_id("device")
        self._guard = draft.guard_devices()
        self._written: dict[tuple[object, ...], str] = {}
        self._ports: dict[str, tuple[str, str]] = {}  # by port: the first device, how it speaks
        self._lines: dict[str, tuple[str, Line]] = {}  # by port: the first device on it

    def is_boolean(self, entry: Entry[Tag]) -> bool | None:
        """Whether a tag is a boolean; None where its table is too wrong to tell."""
        device, point = self._device_of(entry), entry.item.point
        if device is None or point is None or not entry.ok("point.address", "point.type"):
            return None
        return DRIVERS[device.driver].boolean(device, point)

    def check_device(self, entry: Entry[Device]) -> None:
        """The driver, the keys that it takes, and the address."""
        device = entry.item
        driver = DRIVERS.get(device.driver)
        nowhere = driver is not None and driver.place is Place.NOWHERE
        if "address" not in entry.raw and not nowhere and not entry.damaged:
            expected = 'a text in quotes such as "192.168.10.20:502"'
            self._complain(entry, ("address",), f"found nothing, expected {expected}")
        if not entry.ok("driver"):
            return
        if driver is None:
            offered = " or ".join(shown(name) for name in DRIVERS)
            near = did_you_mean(device.driver, DRIVERS)
            later = (
                "; this version does not offer it yet" if device.driver in LATER_DRIVERS else near
            )
            self._complain(
                entry, ("driver",), f"found {shown(device.driver)}, expected {offered}{later}"
            )
            return
        self._check_keys(entry, driver)
        if entry.ok("address"):
            self._check_address(entry)
        if device.heartbeat is not None and entry.ok("heartbeat.address", "base", "unit"):
            self._check_heartbeat(entry, device.heartbeat)
        if device.lease is not None and entry.ok("lease.address", "base", "unit"):
            self._check_lease(entry, device.lease)
        if entry.ok("watchdog_registers", "base"):
            for number, register in enumerate(device.watchdog_registers):
                self._check_watchdog_register(entry, number, register)

    def check_tag(self, entry: Entry[Tag]) -> None:
        """The point of a tag in its device."""
        device = self._device_of(entry)
        point = entry.item.point
        if device is None or point is None or not entry.ok("point.address"):
            return
        self._check_point_keys(entry, DRIVERS[device.driver])
        limits = entry.item.range if entry.ok("range") else None
        if limits is not None and (not limits[0] < limits[1] or entry.item.signal is not None):
            limits = None  # told by itself; what a signal makes of the point is
        try:
            DRIVERS[device.driver].check_point(device, point, limits)
        except PointError as error:
            keys = (error.key,) if error.key == "range" else ("point", error.key)
            if entry.ok(".".join(keys)):
                self._complain(entry, keys, str(error))
        except ExceptionGroup:
            pass  # told of the device
        except RequestError as error:
            self._complain(entry, ("point",), str(error))

    def check_output(self, entry: Entry[Output]) -> None:
        """The address of an output, and whether its values fit it."""
        device = self._device_of(entry)
        if device is None or not entry.ok("address"):
            return
        output = entry.item
        if not DRIVERS[device.driver].writes:
            text = f"found {shown(output.device)}, expected a device that can be written"
            self._complain(entry, ("device",), text)
            return
        self._check_via(entry, device)
        if DRIVERS[device.driver].place is Place.URL:
            self._check_node_output(entry, device)
            return
        address = self._writable(entry, ("address",), output.address, device)
        if address is None:
            return
        coil = address.area is Area.COIL
        for key in ("trip", "normal"):
            value = getattr(output, key)
            if value is not None and entry.ok(key):
                self._check_value(entry, key, value, coil=coil)
        if entry.ok("trip", "normal") and output.normal == output.trip:
            text = f"found {shown(output.normal)}, expected another value than trip"
            self._complain(entry, ("normal",), text)
        unit = device.unit if output.unit is None else output.unit
        if device.driver == SERIAL_DRIVER and not 1 <= unit <= RTU_UNIT_MAX:
            text = f"found {unit}, expected 1 to {RTU_UNIT_MAX} on a serial line"
            self._complain(entry, ("unit",), text)
        self._claim(entry, ("address",), device, unit, address)

    def _check_via(self, entry: Entry[Output], device: Device) -> None:
        """What the guard does not speak, the gateway alone can write."""
        if not _native(device) and entry.item.via is None and entry.ok("via"):
            text = (
                f'found nothing on an output of {device.id}, expected via = "gateway": the guard '
                f"does not speak {device.driver}"
            )
            self._complain(entry, ("via",), text)

    def _check_node_output(self, entry: Entry[Output], device: Device) -> None:
        """A node of a server, which knows its type."""
        output = entry.item
        try:
            DRIVERS[device.driver].check_point(device, Point(address=output.address), None)
        except PointError as error:
            self._complain(entry, ("address",), str(error))
            return
        if entry.ok("trip", "normal") and output.normal is not None:
            if isinstance(output.normal, bool) is not isinstance(output.trip, bool):
                text = f"found {shown(output.normal)}, expected the same type as trip"
                self._complain(entry, ("normal",), text)
            elif output.normal == output.trip:
                text = f"found {shown(output.normal)}, expected another value than trip"
                self._complain(entry, ("normal",), text)
        wire = (server_of(device.address or device.id), output.address)
        self._claim_place(entry, ("address",), wire, output.address)

    def check_listen(self, entry: Entry[View]) -> None:
        """``[view] listen``: host and port, port 0 for any."""
        text = entry.item.listen
        host, _, port = text.rpartition(":")
        if port == "0" and host:
            text = f"{host}:1"
        try:
            parse_endpoint(text)
        except PointError:
            said = f'found {shown(entry.item.listen)}, expected host:port such as "127.0.0.1:9750"'
            self._complain(entry, ("listen",), said)

    # ---- helpers

    def _complain(self, entry: Entry[Any], keys: tuple[str | int, ...], text: str) -> None:
        names = [str(key) for key in keys]
        entry.bad.update(".".join(names[:length]) for length in range(1, len(names) + 1))
        self._complaints.add(entry.origin, keys, text)

    def _device_of(self, entry: Entry[Any]) -> Device | None:
        if not entry.ok("device"):
            return None
        device = self._devices.get(entry.item.device or "")
        if device is None or not device.ok(
            "driver", "base", "order", "unit", "max_registers", "exclude"
        ):
            return None
        return device.item if device.item.driver in DRIVERS else None

    def _check_address(self, entry: Entry[Device]) -> None:
        device = entry.item
        errors = _errors_of(DRIVERS[device.driver], device)
        for error in errors:
            if entry.ok(error.key):
                self._complain(entry, _keys_of(error), str(error))
        if errors:
            return
        place = DRIVERS[device.driver].place
        if place is Place.TTY:
            self._check_port(entry)
            self._check_serial(entry)
        if place is not Place.ENDPOINT:
            return
        endpoint = parse_endpoint(device.address)
        if entry.id in self._guard and _native(device) and not endpoint.numeric:
            text = (
                f"found {shown(device.address)}, expected a numeric address such as "
                f'"192.168.10.20:{endpoint.port}": the guard speaks to it and looks up no names'
            )
            self._complain(entry, ("address",), text)

    def _check_keys(self, entry: Entry[Device], driver: DriverKind) -> None:
        """Keys that other drivers take, and this one does not."""
        for key in Device.__struct_fields__:
            if key in entry.raw and key not in driver.device_keys and entry.ok(key):
                text = f"found it with driver = {shown(driver.name)}, which does not take it"
                self._complain(entry, (key,), text)

    def _check_point_keys(self, entry: Entry[Tag], driver: DriverKind) -> None:
        """Keys of a point that other drivers take."""
        point = entry.raw.get("point")
        if not isinstance(point, dict):
            return
        for key in Point.__struct_fields__:
            taken = key in driver.point_keys or (entry.origin.row and key == "address")
            if key in point and not taken and entry.ok(f"point.{key}"):
                text = f"found it with driver = {shown(driver.name)}, which does not take it"
                self._complain(entry, ("point", key), text)

    def _check_port(self, entry: Entry[Device]) -> None:
        """A port has one protocol: instruments that send by themselves, or such that are asked."""
        how = "modbus" if entry.item.driver != SERIAL else "asked"
        if entry.item.driver == SERIAL and streams(entry.item):
            how = "streaming"
        first, other = self._ports.setdefault(server_of(entry.item.address), (entry.id, how))
        if how != other:
            words = {
                "modbus": "a Modbus device",
                "asked": "an instrument that is asked",
                "streaming": "an instrument that sends by itself",
            }
            text = f"found {words[how]} beside {words[other]} (device[{first}]), expected one kind"
            self._complain(entry, ("address",), text)

    def _check_serial(self, entry: Entry[Device]) -> None:
        """A serial port has one master, and is set in one way for all devices on it."""
        device = entry.item
        if entry.ok("fast"):
            self._check_master(entry)
        if not entry.ok("line"):
            return
        line = device.line or Line()
        if line.bits != RTU_BITS and device.driver != SERIAL:
            text = f"found {line.bits}, expected {RTU_BITS} of Modbus RTU"
            self._complain(entry, ("line", "bits"), text)
        first, other = self._lines.setdefault(server_of(device.address), (entry.id, line))
        for key in Line.__struct_fields__:
            own, others = getattr(line, key), getattr(other, key)
            if own != others:
                text = (
                    f"found {shown(own)}, expected {shown(others)} as device[{first}] on this line"
                )
                self._complain(entry, ("line", key), text)

    def _check_master(self, entry: Entry[Device]) -> None:
        """The guard or the gateway: two masters would talk into each other's requests."""
        device = entry.item
        port = server_of(device.address)
        others = (
            other.id
            for other in self._draft.device
            if other.id in self._guard and other.ok("address", "driver", "fast")
            if server_of(other.item.address) == port
        )
        owner = next(others, None)
        if owner is None or device.fast:
            return
        whose = "it writes outputs of it" if owner == entry.id else f"as of device[{owner}] there"
        text = (
            f"found a device that the gateway polls on the guard's port ({whose}), expected "
            f'fast = true, or via = "gateway" on every output of this port'
        )
        self._complain(entry, ("fast",), text)

    def _check_lease(self, entry: Entry[Device], lease: Lease) -> None:
        device, keys = entry.item, ("lease", "address")
        address = self._writable(entry, keys, lease.address, device)
        if address is None:
            return
        last = address.number + LEASE_REGISTERS - 1
        if address.area is not Area.HOLDING_REGISTER or last > ADDRESS_MAX:
            text = f'found {shown(lease.address)}, expected three registers such as "hr:200"'
            self._complain(entry, keys, text)
            return
        for number in range(address.number, last + 1):
            self._claim(entry, keys, device, device.unit, Address(address.area, number))

    def _check_watchdog_register(
        self, entry: Entry[Device], number: int, register: WatchdogRegister
    ) -> None:
        keys = ("watchdog_registers", number, "address")
        text = f'found {shown(register.address)}, expected a register such as "hr:4098"'
        try:
            address = parse_address(register.address, base=entry.item.base)
        except PointError as error:
            self._complain(entry, keys, str(error))
            return
        if address.area.of_bits or address.bit is not None:
            self._complain(entry, keys, text)

    def _check_heartbeat(self, entry: Entry[Device], heartbeat: Heartbeat) -> None:
        device = entry.item
        keys = ("heartbeat", "address")
        address = self._writable(entry, keys, heartbeat.address, device)
        if address is None:
            return
        if address.area is not Area.HOLDING_REGISTER or address.number >= ADDRESS_MAX:
            text = f'found {shown(heartbeat.address)}, expected two registers such as "hr:90"'
            self._complain(entry, keys, text)
            return
        for number in range(address.number, address.number + HEARTBEAT_REGISTERS):
            self._claim(entry, keys, device, device.unit, Address(address.area, number))

    def _writable(
        self, entry: Entry[Any], keys: tuple[str, ...], text: str, device: Device
    ) -> Address | None:
        try:
            address = parse_address(text, base=device.base)
        except PointError as error:
            self._complain(entry, keys, str(error))
            return None
        if not address.area.writable or address.bit is not None:
            said = f'found {shown(text)}, expected a coil "c:16" or a register "hr:16" to write'
            self._complain(entry, keys, said)
            return None
        return address

    def _check_value(
        self, entry: Entry[Output], key: str, value: bool | int, *, coil: bool
    ) -> None:
        if coil and not isinstance(value, bool):
            self._complain(entry, (key,), f"found {value}, expected true or false for a coil")
        elif not coil and isinstance(value, bool):
            text = f"found {shown(value)}, expected a whole number for a register"
            self._complain(entry, (key,), text)
        elif not coil and not 0 <= value <= REGISTER_MAX:
            self._complain(entry, (key,), f"found {value}, expected 0 to {REGISTER_MAX}")

    def _claim(
        self, entry: Entry[Any], keys: tuple[str, ...], device: Device, unit: int, address: Address
    ) -> None:
        """Each place that is written belongs to one output, heartbeat or lease alone."""
        server = server_of(device.address or device.id)
        wire = Wire(server, unit, address.area, address.number)
        place = f"{address.area.value}:{address.number + device.base}"
        self._claim_place(entry, keys, wire, place)

    def _claim_place(
        self, entry: Entry[Any], keys: tuple[str, ...], wire: tuple[object, ...], place: str
    ) -> None:
        name = entry.origin.name(keys[:-1])
        other = self._written.setdefault(wire, name)
        if other != name:
            text = f"found {shown(place)}, which {other} writes, expected an address of its own"
            self._complain(entry, keys, text)


def _native(device: Device) -> bool:
    """Whether the guard speaks to such devices."""
    return "fast" in DRIVERS[device.driver].device_keys


def _errors_of(driver: DriverKind, device: Device) -> list[PointError]:
    """What the driver says against the device."""
    errors: list[PointError] = []
    try:
        driver.check_device(device)
    except* PointError as group:
        errors += [error for error in group.exceptions if isinstance(error, PointError)]
    return errors


def _keys_of(error: PointError) -> tuple[str | int, ...]:
    """protocol.status.field, fields.2.when: each part a key, or a place in a list."""
    parts: list[str | int] = [
        int(part) if part.isdigit() else part for part in error.key.split(".") if part
    ]
    return tuple(parts)


def server_of(address: str) -> str:
    """One name for one server or port, however its address is written.

    Of a serial port it is the device node that its name stands for on this machine, now.
    """
    _, scheme, rest = address.partition("://")
    try:
        endpoint = parse_endpoint(rest.partition("/")[0] if scheme else address)
    except PointError:  # a serial port: adapters have names beside their numbers
        return os.path.realpath(address) if address.startswith("/") else address
    try:
        return f"{packed_address(endpoint.host).hex()}:{endpoint.port}"
    except ValueError:  # a name
        return f"{endpoint.host}:{endpoint.port}"


def box_of(address: str) -> str:
    """One name for the machine that an address leads to: every port of a host is the same box.

    On this machine itself, where simulators listen, each port is another one.
    """
    server = server_of(address)
    host, _, _ = server.rpartition(":")
    return server if server.startswith("/") or _here(host) else host


def _here(host: str) -> bool:
    """Whether a host, as ``server_of`` names it, is this machine itself."""
    if host == "localhost":
        return True
    try:
        packed = ipaddress.ip_address(bytes.fromhex(host))
    except ValueError:  # a name
        return False
    mapped = getattr(packed, "ipv4_mapped", None)
    return (mapped or packed).is_loopback


def host_of(address: str) -> str:
    """The host of an address as written, for people."""
    _, scheme, rest = address.partition("://")
    return (rest.partition("/")[0] if scheme else address).rpartition(":")[0]
