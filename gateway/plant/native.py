"""The devices of a site as they are reached for real: Modbus TCP, serial lines, OPC UA servers.

For masters that are to be tried themselves. Modbus RTU and serial instruments get a pty each, by
the ports of the site file, OPC UA devices a server each, without security. Modbus over TLS, and RTU
over TCP, are simulated as Modbus TCP.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import structs

from drivers.instrument import InstrumentTag, InstrumentText
from drivers.modbus_kinds import point_of
from drivers.opcua_points import parse_opcua_point
from drivers.plant import NodeText, PlantText, ServerText, TagText
from drivers.serial_kind import SERIAL
from drivers.signals import PERIOD_NS, Signal
from gateway.plant.simulated_site import simulated_site
from gateway.site.model import SERIAL_DRIVER, Config, Device, Output, Point, Tag, by_id

OPCUA: Final = "opcua"
MIDDLE_MA: Final = (11.9, 12.1)


def native_plant(config: Config) -> PlantText:
    """The plant of a checked site."""
    site = simulated_site(config)
    devices: dict[str, Device] = by_id(config.device)
    tags: dict[str, Tag] = by_id(config.tag)
    drivers = {name: devices[ident].driver for ident, name in site.server_by_device.items()}
    servers: dict[str, ServerText] = {}
    for server in site.plant.servers:
        driver = drivers[server.name]
        server = structs.replace(
            server, tags=tuple(_as_read(tag, tags[tag.id], devices) for tag in server.tags)
        )
        if driver == SERIAL_DRIVER:
            servers[server.name] = structs.replace(server, kind="rtu")
        elif driver == SERIAL:
            device = devices[server.name]
            instrument = _instrument(device, [tags[tag.id] for tag in server.tags])
            before = servers.get(device.address, ServerText(name=server.name, kind="serial"))
            servers[device.address] = structs.replace(
                before,
                tags=(*before.tags, *server.tags),
                instruments=(*before.instruments, instrument),
            )
        elif driver == OPCUA:
            nodes = _nodes(server, tags, by_id(config.output))
            servers[server.name] = structs.replace(server, kind="opcua", nodes=nodes)
        else:
            servers[server.name] = server
    return structs.replace(site.plant, servers=tuple(servers.values()))


def _nodes(
    server: ServerText, tags: Mapping[str, Tag], outputs: Mapping[str, Output]
) -> tuple[NodeText, ...]:
    """The nodes of an OPC UA device's tags and outputs."""
    found = [
        NodeText(id=tag.id, place=parse_opcua_point(tags[tag.id].point or Point(), None))
        for tag in server.tags
    ]
    for output in server.outputs:
        kind = "bool" if isinstance(outputs[output.id].trip, bool) else ""
        point = Point(address=outputs[output.id].address, type=kind)
        place = parse_opcua_point(point, None)
        found.append(NodeText(id=output.id, place=place, output=True, first=output.normal))
    return tuple(found)


def _as_read(text: TagText, tag: Tag, devices: Mapping[str, Device]) -> TagText:
    """A tag that is made of a signal: its point has the signal, not the tag's value."""
    if tag.signal is None:
        return text
    device = devices[tag.device or ""]
    if device.driver.startswith("modbus"):
        text = structs.replace(text, place=point_of(device, tag.point or Point(), None))
    if tag.signal.kind == "4-20mA":
        text = structs.replace(text, signal=Signal("walk", *MIDDLE_MA, PERIOD_NS["walk"]))
    return text


def _instrument(device: Device, tags: list[Tag]) -> InstrumentText:
    found = [(tag.id, tag.point or Point()) for tag in tags]
    if device.protocol is None:
        raise ValueError(device.id)
    return InstrumentText(
        protocol=device.protocol,
        fields=device.fields,
        station=device.station,
        order=device.order,
        period_s=device.poll / 1e9,
        tags=tuple(
            InstrumentTag(
                id=ident,
                field=point.field,
                at=point.at,
                type=point.type,
                order=point.order,
                scale=point.scale,
                offset=point.offset,
            )
            for ident, point in found
        ),
    )
