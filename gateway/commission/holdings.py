"""What of a plant a site holds: its devices, and every place that its guard or gateway writes.

Nobody else writes such a place. It is told by the running gateway; where that is dead, it is read
out of the guard's own program.
"""

import base64
import ipaddress
import socket
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct, structs

from drivers.errors import PointError
from drivers.kind import Endpoint, parse_endpoint
from drivers.opcua_points import parse_node
from drivers.points import Area, parse_address
from fastpath import blob
from fastpath.codes import NONE_U32, DeviceFlag, DeviceKind, OutputKind, OutputPath, TagFlag
from gateway.site.model import Config, Device
from gateway.site.places import HEARTBEAT_REGISTERS, LEASE_REGISTERS

ANY_UNITS: Final = frozenset({0, 255})  # a Modbus TCP device answers these whatever its own is
_FUNCTION_AREAS: Final = {1: Area.COIL, 2: Area.DISCRETE_INPUT,
                          3: Area.HOLDING_REGISTER, 4: Area.INPUT_REGISTER}  # fmt: skip


class HeldDevice(Struct, frozen=True):
    """A device of a site; ``address`` as the site file has it."""

    id: str
    address: str
    unit: int


class HeldPlace(Struct, frozen=True):
    """A place that a site writes. ``area`` "": ``node`` is the place, in the driver's words."""

    address: str  # of the device: host:port, a serial port's path, a URL
    unit: int
    area: str
    first: int  # zero-based
    count: int
    what: str  # for people: output power.face
    node: str = ""


class Holdings(Struct, frozen=True):
    """All of one site. ``unplaced`` are outputs of which nobody can tell here where they are."""

    site: str
    devices: tuple[HeldDevice, ...]
    places: tuple[HeldPlace, ...]
    unplaced: tuple[str, ...] = ()


class Aim(Struct, frozen=True):
    """What somebody wants to write: ``count`` registers or coils, or a node."""

    address: str
    unit: int
    area: str
    first: int
    count: int
    node: str = ""


def holdings_of(config: Config) -> Holdings:
    """Those of a site file."""
    devices = {device.id: device for device in config.device}
    places: list[HeldPlace] = []
    for device in config.device:
        places += _own_places(device)
    for output in config.output:
        device = devices[output.device]
        unit = device.unit if output.unit is None else output.unit
        places.append(_place(device, unit, output.address, 1, f"output {output.id}"))
    held = [HeldDevice(one.id, one.address, one.unit) for one in config.device]
    for device in config.device:
        if device.backup is not None:  # the same device, at another address
            held.append(HeldDevice(device.id, device.backup, device.unit))
            places += [
                structs.replace(one, address=device.backup)
                for one in places
                if one.address == device.address
            ]
    return Holdings(config.site.id, tuple(held), tuple(places))


def holdings_of_program(program: bytes) -> Holdings:
    """Those of a verified program: what the guard itself holds, and names of the rest.

    Places without a name, in a program that carries none, are held all the same. Raises ValueError
    for a program of another version.
    """
    if blob.HEADER.unpack_from(program)[:2] != (blob.MAGIC, blob.FORMAT):
        msg = "its program is of another version of Sitewarden"
        raise ValueError(msg)
    names = blob.names(program)
    devices: list[blob.Device] = blob.section(program, "devices")
    addresses = [_program_address(device, names.get("ttys", [])) for device in devices]
    idents = _named(names.get("devices", []), len(devices))
    held = [
        HeldDevice(ident, address, device.unit)
        for ident, address, device in zip(idents, addresses, devices, strict=True)
    ]
    places: list[HeldPlace] = []
    hr = Area.HOLDING_REGISTER.value
    for ident, address, device in zip(idents, addresses, devices, strict=True):
        for flag, first, count, what in (
            (DeviceFlag.HAS_HEARTBEAT, device.heartbeat_address, HEARTBEAT_REGISTERS, "heartbeat"),
            (DeviceFlag.HAS_LEASE, device.lease_address, LEASE_REGISTERS, "lease"),
        ):
            if device.flags & flag:
                said = f"{what} of {ident}"
                places.append(HeldPlace(address, device.unit, hr, first, count, said))
    unplaced = []
    outputs: list[blob.Output] = blob.section(program, "outputs")
    output_idents = _named(names.get("outputs", []), len(outputs))
    for ident, output in zip(output_idents, outputs, strict=True):
        if output.path == OutputPath.GATEWAY or output.device == NONE_U32:
            unplaced.append(ident)
            continue
        area = Area.COIL if output.kind == OutputKind.COIL else Area.HOLDING_REGISTER
        address = addresses[output.device]
        said = f"output {ident}"
        places.append(HeldPlace(address, output.unit, area.value, output.address, 1, said))
    places += _watched(program, addresses, idents)
    site = [*names.get("site", []), "?"][0]
    return Holdings(site, tuple(held), tuple(places), tuple(unplaced))


def _named(names: list[str], count: int) -> list[str]:
    """The ids of so many entries; their numbers, where the program does not say."""
    return names if len(names) == count else [f"#{i}" for i in range(count)]


def all_holdings(config: Config, program: bytes | None) -> Holdings:
    """Those of the site file and of the program that runs, which may be another one."""
    stated = holdings_of(config)
    if program is None:
        return stated
    running = holdings_of_program(program)
    return Holdings(
        stated.site,
        tuple(dict.fromkeys((*stated.devices, *running.devices))),
        tuple(dict.fromkeys((*stated.places, *running.places))),
    )


def holder(aim: Aim, holdings: Holdings) -> str | None:
    """What of a site stands at the aim, for people; None: nothing. May look names up."""
    for place in holdings.places:
        if place.area != aim.area or not _units_meet(place.unit, aim.unit):
            continue
        if place.area:
            meets = place.first < aim.first + aim.count and aim.first < place.first + place.count
        else:
            meets = _nodes_meet(place.node, aim.node)
        if meets and same_device(place.address, aim.address):
            return place.what
    return None


def _nodes_meet(one: str, other: str) -> bool:
    """Whether two OPC UA nodes may be one: what a path or a URI means the server alone knows."""
    plain = [_plain_node(text) for text in (one, other)]
    return None in plain or plain[0] == plain[1]


def _plain_node(text: str) -> tuple[int, str, object] | None:
    """A node id however it is spelled; None for what only the server can tell."""
    try:
        name = parse_node(text)
    except PointError:
        return None
    if name.uri:
        return None
    kind, value = name.identifier[0], name.identifier[2:]
    read: dict[str, Callable[[str], object]] = {"i": int, "g": uuid.UUID, "b": base64.b64decode}
    return name.namespace, kind, read.get(kind, str)(value)


def device_of(address: str, holdings: Holdings) -> HeldDevice | None:
    """A device of the site at this address; None: none. May look names up."""
    return next((one for one in holdings.devices if same_device(one.address, address)), None)


def same_device(one: str, other: str) -> bool:
    """Whether two addresses of devices may be the same device, however they are written.

    Another port of a host is the same device (Modbus TCP and TLS of one PLC); on this machine
    itself every port is another one.
    """
    ends = [_endpoint(text) for text in (one, other)]
    if ends[0] is None or ends[1] is None:
        return ends == [None, None] and _real(one) == _real(other)
    hosts = [_hosts(end.host) for end in ends if end is not None]
    if not hosts[0] & hosts[1]:
        return False
    return hosts[0] & hosts[1] != {_HERE} or ends[0].port == ends[1].port


_HERE: Final = "this machine"


def _hosts(host: str) -> set[str]:
    """Every address of a host, those of this machine as one; the name itself where it has none."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):
        return {host.lower()}
    return {_plain(address) for address in found}


def _plain(address: str) -> str:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if parsed.is_loopback or parsed.is_unspecified or _is_ours(str(parsed)):
        return _HERE
    return str(parsed)


def _is_ours(address: str) -> bool:
    """Whether an interface of this machine has the address: only then a socket can have it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _endpoint(text: str) -> Endpoint | None:
    plain = text.partition("://")[2] or text
    try:
        return parse_endpoint(plain.partition("/")[0] if "://" in text else plain)
    except PointError:
        return None


def _real(text: str) -> str:
    """A serial port by its device, so that names under by-id and by-path are the same."""
    return str(Path(text).resolve()) if text.startswith("/") else text


def _units_meet(one: int, other: int) -> bool:
    return one == other or bool(ANY_UNITS & {one, other})


def _own_places(device: Device) -> Iterable[HeldPlace]:
    """Heartbeat, lease and watchdog registers."""
    unit = device.unit
    if device.heartbeat is not None:
        what = f"heartbeat of {device.id}"
        yield _place(device, unit, device.heartbeat.address, HEARTBEAT_REGISTERS, what)
    if device.lease is not None:
        what = f"lease of {device.id}"
        yield _place(device, unit, device.lease.address, LEASE_REGISTERS, what)
    for register in device.watchdog_registers:
        yield _place(device, unit, register.address, 1, f"watchdog register of {device.id}")


def _place(device: Device, unit: int, address: str, count: int, what: str) -> HeldPlace:
    try:
        at = parse_address(address, base=device.base)
    except PointError:  # a node of OPC UA, say
        return HeldPlace(device.address, unit, "", 0, 0, what, address)
    return HeldPlace(device.address, unit, at.area.value, at.number, count, what)


def _program_address(device: blob.Device, ttys: list[str]) -> str:
    if device.kind != DeviceKind.MODBUS_TCP and device.tty < len(ttys):
        return ttys[device.tty]
    address = ipaddress.IPv6Address(device.address)
    host = address.ipv4_mapped
    return f"[{address}]:{device.port}" if host is None else f"{host}:{device.port}"


def _watched(program: bytes, addresses: list[str], idents: list[str]) -> list[HeldPlace]:
    """Watchdog registers: tags of the guard that only it reads."""
    tags: list[blob.Tag] = blob.section(program, "tags")
    requests: list[blob.Request] = blob.section(program, "requests")
    places = []
    decodes: list[blob.Decode] = blob.section(program, "decode")
    for decode in decodes:
        if tags[decode.slot].flags & TagFlag.WATCHDOG:
            request = requests[decode.request]
            area = _FUNCTION_AREAS[request.function].value
            what = f"watchdog register of {idents[request.device]}"
            at = request.address + decode.at
            places.append(HeldPlace(addresses[request.device], request.unit, area, at, 1, what))
    return places
