"""The guard's records of devices and of the outputs that it drives through them."""

from typing import Final

from drivers.kind import parse_endpoint
from drivers.points import Area, parse_address
from fastpath import blob
from fastpath.codes import (
    NONE_U32,
    DeviceFlag,
    DeviceKind,
    OutputFlag,
    OutputKind,
    OutputPath,
    Parity,
)
from gateway.logic.layout import Layout
from gateway.site.model import Device, Heartbeat, Lease, Output
from gateway.site.places import packed_address
from gateway.site.references import readback_of

CONNECT_TIMEOUT_NS_MAX: Final = 1_000_000_000
_PARITY: Final = {"none": Parity.NONE, "even": Parity.EVEN, "odd": Parity.ODD}


def devices(layout: Layout) -> list[blob.Device]:
    """In the order of the layout."""
    return [_device(layout, layout.devices[ident]) for ident in layout.device_order.ids]


def outputs(layout: Layout) -> list[blob.Output]:
    """In the order of the layout."""
    return [_output(layout, layout.outputs[ident]) for ident in layout.output_order.ids]


def fallbacks(layout: Layout) -> list[blob.Fallback]:
    """In the order of the outputs, each one's in the order of the site file."""
    index = layout.output_order.index
    return [
        blob.Fallback(index[ident], index[name])
        for ident in layout.output_order.ids
        for name in layout.outputs[ident].fallback
    ]


def _device(layout: Layout, device: Device) -> blob.Device:
    heartbeat, lease, line = device.heartbeat, device.lease, device.line
    host, port = bytes(16), 0
    if line is None:
        endpoint = parse_endpoint(device.address)
        host, port = packed_address(endpoint.host), endpoint.port
    return blob.Device(
        key=layout.device_order.keys[device.id],
        address=host,
        connect_timeout_ns=min(int(device.timeout), CONNECT_TIMEOUT_NS_MAX),
        timeout_ns=int(device.timeout),
        settle_ns=int(device.settle),
        every_ns=int(heartbeat.every or 0) if heartbeat else 0,
        watchdog_ns=int(heartbeat.watchdog) if heartbeat else 0,
        request_delay_ns=int(device.request_delay),
        connected_within_ns=3 * int(device.poll) + int(device.timeout),
        port=port,
        heartbeat_address=_number(device, heartbeat),
        flags=int(_device_flags(device)),
        unit=device.unit,
        kind=int(DeviceKind.MODBUS_TCP if line is None else DeviceKind.MODBUS_RTU),
        tty=NONE_U32 if line is None else layout.tty_of(device),
        baud=0 if line is None else line.baud,
        lease_address=_number(device, lease),
        data_bits=0 if line is None else line.bits,
        parity=0 if line is None else int(_PARITY[line.parity]),
        stop_bits=0 if line is None else line.stop,
        lease_ns=int(lease.within) if lease else 0,
    )


def _output(layout: Layout, output: Output) -> blob.Output:
    """Of one through the gateway the guard knows the values alone, not the place."""
    device = layout.devices[output.device]
    own = output.via is None
    address = parse_address(output.address, base=device.base) if own else None
    coil = isinstance(output.trip, bool) if address is None else address.area is Area.COIL
    readback = readback_of(output.readback) if output.readback is not None else None
    flags = OutputFlag(0)
    if output.normal is not None:
        flags |= OutputFlag.HAS_NORMAL
    if readback is not None and readback[1]:
        flags |= OutputFlag.READBACK_INVERTED
    return blob.Output(
        key=layout.output_order.keys[output.id],
        confirm_ns=int(output.confirm_within),
        reassert_ns=int(output.reassert),
        silence_ns=int(output.silence),
        device=layout.device_order.index[device.id] if own else NONE_U32,
        readback=layout.tag_order.index[readback[0]] if readback is not None else NONE_U32,
        address=address.number if address is not None else 0,
        trip=int(output.trip),
        normal=int(output.normal or 0),
        unit=(device.unit if output.unit is None else output.unit) if own else 0,
        path=int(OutputPath.MODBUS if own else OutputPath.GATEWAY),
        kind=int(OutputKind.COIL if coil else OutputKind.REGISTER),
        flags=int(flags),
    )


def _number(device: Device, place: Heartbeat | Lease | None) -> int:
    """The first register of what the guard keeps in a device, 0: nothing."""
    return 0 if place is None else parse_address(place.address, base=device.base).number


def _device_flags(device: Device) -> DeviceFlag:
    flags = DeviceFlag(0)
    if device.heartbeat is not None:
        flags |= DeviceFlag.HAS_HEARTBEAT
    if device.lease is not None:
        flags |= DeviceFlag.HAS_LEASE
    if device.line is not None and device.line.rs485:
        flags |= DeviceFlag.RS485
    return flags
