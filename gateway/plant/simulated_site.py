"""Any site -> the same site over simulated devices, and the plant that these need.

Every device becomes one of Modbus TCP on loopback, whatever it was. Modbus devices keep their
units, places, types and orders, also those of serial lines (there no port is opened and nobody
waits for another); every other device's points get places of their own, as float64 or as a bit, and
so does a point whose tag is made of a signal (4-20 mA, a table): it shows the tag's own value.
No address of the site file is left in what comes out.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import structs

from drivers.modbus_kinds import point_of
from drivers.plant import (
    HeartbeatText,
    OutputText,
    PlantText,
    RegisterText,
    ServerText,
    TagText,
)
from drivers.points import ADDRESS_MAX, Area, ModbusPoint, parse_address
from drivers.registry import DRIVERS
from fastpath import blob
from fastpath.codes import PointType
from fastpath.program import verify
from gateway.check import Checked
from gateway.logic.alarms import compile_alarms
from gateway.logic.compile import compile_site
from gateway.plant.rest_values import rest_signals
from gateway.site.model import Config, Device, Output, Point, Tag, View, by_id
from gateway.site.places import server_of
from gateway.site.references import readback_of

DRIVER: Final = "modbus-tcp"
HOST: Final = "127.0.0.1"
FOLLOW_NS_MAX: Final = 200_000_000  # from an output's write to its read-back
# What a device keeps; whatever else it has may be an address, or need one.
DEVICE_KEYS: Final = (
    "id", "poll", "timeout", "settle", "record", "record_within", "fast", "heartbeat",
    "watchdog_registers", "lease", "unit", "base", "order", "max_registers", "max_gap",
)  # fmt: skip
FLOAT64_REGISTERS: Final = 4


@dataclass(frozen=True, slots=True)
class SimulatedSite:
    """``config`` without its ports, which only the running plant knows."""

    config: Config
    plant: PlantText
    server_by_device: Mapping[str, str]


def simulated_site(config: Config, *, uplinks: bool = False) -> SimulatedSite:
    """Replace every device. Without ``uplinks`` the site has none."""
    names = {
        device.id: server_of(device.address) if _is_modbus(device) else device.id
        for device in config.device
    }
    signals = rest_signals(config, _booleans(config))
    replaced = _replaced(config)
    replaced = structs.replace(
        replaced,
        uplink=config.uplink if uplinks else (),
        view=View(listen=f"{HOST}:0"),
    )
    devices: dict[str, Device] = by_id(replaced.device)
    servers: dict[str, ServerText] = {}
    for device in replaced.device:
        server = servers.setdefault(names[device.id], ServerText(name=device.id))
        servers[names[device.id]] = structs.replace(
            server,
            tags=(
                *server.tags,
                *(
                    TagText(
                        id=tag.id,
                        unit=device.unit,
                        place=_place(tag, device),
                        signal=signals[tag.id],
                    )
                    for tag in replaced.tag
                    if tag.device == device.id
                ),
            ),
            outputs=(
                *server.outputs,
                *(_output(o, devices) for o in replaced.output if o.device == device.id),
            ),
            heartbeats=(*server.heartbeats, *_heartbeats(device)),
            registers=(*server.registers, *_registers(device)),
        )
    plant = PlantText(site=config.site.id, servers=tuple(servers.values()))
    by_device = {device.id: servers[names[device.id]].name for device in replaced.device}
    return SimulatedSite(replaced, plant, by_device)


def at_ports(site: SimulatedSite, ports: Mapping[str, int], checked: Checked) -> Checked:
    """The checked site with the plant's ports in it, compiled anew."""
    devices = tuple(
        structs.replace(device, address=f"{HOST}:{ports[site.server_by_device[device.id]]}")
        for device in site.config.device
    )
    config = structs.replace(site.config, device=devices)
    program = compile_site(config)
    verify(program)
    alarms = compile_alarms(config)
    digest = program[blob.HASH_AT : blob.HASH_AT + 32].hex()
    summary = dataclasses.replace(checked.summary, program=digest, uplinks=len(config.uplink))
    if not config.uplink:
        summary = dataclasses.replace(summary, acknowledged=())
    return dataclasses.replace(
        checked, config=config, program=program, alarms=alarms, warnings=[], summary=summary
    )


def joined(plant: PlantText, other: PlantText) -> PlantText:
    """Both at once: what both have is as in ``other``, but where a tag was it is shown too."""
    before = {server.name: server for server in plant.servers}
    servers = [_joined(before.pop(server.name, None), server) for server in other.servers]
    return structs.replace(other, servers=(*before.values(), *servers))


def encoded(plant: PlantText) -> bytes:
    """The description that ``python -m drivers.sim plant`` takes."""
    return msgspec.json.format(msgspec.json.encode(plant), indent=1) + b"\n"


# ---- devices --------------------------------------------------------------------------------


def _is_modbus(device: Device) -> bool:
    return device.driver.startswith("modbus")


def _booleans(config: Config) -> dict[str, bool]:
    """Which measured tags are booleans, as their own drivers say."""
    devices: dict[str, Device] = by_id(config.device)
    found = {}
    for tag in config.tag:
        if tag.value is None:
            device = devices[tag.device or ""]
            found[tag.id] = bool(DRIVERS[device.driver].boolean(device, tag.point))
    return found


def _replaced(config: Config) -> Config:
    devices: dict[str, Device] = by_id(config.device)
    booleans = _booleans(config)
    free = _free_registers(config)
    tags = []
    for number, tag in enumerate(config.tag):
        device = devices.get(tag.device or "")
        if device is None or (_is_modbus(device) and tag.signal is None):
            tags.append(tag)
            continue
        if booleans[tag.id]:
            point = Point(address=f"di:{number + device.base}")
        else:
            point = Point(address=f"ir:{next(free) + device.base}", type="float64", order="ABCD")
        tags.append(structs.replace(tag, point=point, signal=None))
    outputs = []
    for number, output in enumerate(config.output):
        if _is_modbus(devices[output.device]):
            outputs.append(output)
        else:
            area = Area.COIL if isinstance(output.trip, bool) else Area.HOLDING_REGISTER
            outputs.append(structs.replace(output, address=f"{area.value}:{number}", unit=None))
    return structs.replace(
        config,
        device=tuple(_device(device) for device in config.device),
        tag=tuple(tags),
        output=tuple(outputs),
    )


def _free_registers(config: Config) -> Iterator[int]:
    """Input registers that no device of the site uses, four at a time, from the top down."""
    devices: dict[str, Device] = by_id(config.device)
    used: set[int] = set()
    for tag in config.tag:
        device = devices.get(tag.device or "")
        if device is not None and _is_modbus(device):
            place = _place(tag, device)
            used.update(range(place.address, place.address + place.width))
    for number in range(ADDRESS_MAX + 1 - FLOAT64_REGISTERS, -1, -FLOAT64_REGISTERS):
        if used.isdisjoint(range(number, number + FLOAT64_REGISTERS)):
            yield number


def _device(device: Device) -> Device:
    kept = {key: getattr(device, key) for key in DEVICE_KEYS}
    kept["max_registers"] = max(device.max_registers, FLOAT64_REGISTERS)
    return Device(driver=DRIVER, address=f"{HOST}:1", **kept)


def _joined(own: ServerText | None, other: ServerText) -> ServerText:
    if own is None:
        return other
    places = {(tag.id, tag.unit, tag.place) for tag in other.tags}
    outputs = {output.id for output in other.outputs}
    beats = {(beat.unit, beat.address) for beat in other.heartbeats}
    tags = (tag for tag in own.tags if (tag.id, tag.unit, tag.place) not in places)
    own_beats = (beat for beat in own.heartbeats if (beat.unit, beat.address) not in beats)
    return structs.replace(
        other,
        port=own.port,
        tags=(*tags, *other.tags),
        outputs=(*(each for each in own.outputs if each.id not in outputs), *other.outputs),
        heartbeats=(*own_beats, *other.heartbeats),
        registers=(*own.registers, *other.registers),
    )


# ---- the plant ------------------------------------------------------------------------------


def _place(tag: Tag, device: Device) -> ModbusPoint:
    return point_of(device, tag.point or Point(), None if tag.signal else tag.range)


def _output(output: Output, devices: Mapping[str, Device]) -> OutputText:
    device = devices[output.device]
    address = parse_address(output.address, base=device.base)
    trip = int(output.trip)
    kind = PointType.BOOL if address.area is Area.COIL else PointType.UINT16
    readback = readback_of(output.readback) if output.readback is not None else None
    return OutputText(
        id=output.id,
        unit=device.unit if output.unit is None else output.unit,
        place=ModbusPoint(address.area, address.number, kind),
        trip=trip,
        normal=int(not trip) if output.normal is None else int(output.normal),
        readback=readback[0] if readback else None,
        inverted=readback is not None and readback[1],
        follow_ns=min(FOLLOW_NS_MAX, output.confirm_within // 4),
    )


def _heartbeats(device: Device) -> tuple[HeartbeatText, ...]:
    heartbeat = device.heartbeat
    if heartbeat is None:
        return ()
    number = parse_address(heartbeat.address, base=device.base).number
    return (HeartbeatText(unit=device.unit, address=number, watchdog_ns=int(heartbeat.watchdog)),)


def _registers(device: Device) -> tuple[RegisterText, ...]:
    """The registers of its watchdog, as the site file says that they are."""
    found = []
    for register in device.watchdog_registers:
        address = parse_address(register.address, base=device.base)
        place = ModbusPoint(address.area, address.number, PointType.UINT16)
        found.append(RegisterText(unit=device.unit, place=place, value=register.value))
    return tuple(found)
