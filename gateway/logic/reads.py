"""The guard's reads of its own devices: the fewest requests, and what is decoded of each."""

from collections.abc import Sequence

from drivers.modbus_kinds import excluded_of, point_of
from drivers.plan import plan
from drivers.points import ModbusPoint
from fastpath import blob
from gateway.logic.layout import Layout
from gateway.site.load import WATCHDOG_POLL_NS
from gateway.site.model import Device, Point


def add_requests(layout: Layout, program: blob.Program) -> None:
    """By device and period, with what is decoded of their replies."""
    for number, ident in enumerate(layout.device_order.ids):
        device = layout.devices[ident]
        tags = [tag for tag in layout.config.tag if tag.device == ident] if device.fast else []
        read = [(int(tag.poll or device.poll), tag.id, tag.point, tag.range) for tag in tags]
        read += [
            (WATCHDOG_POLL_NS, name, Point(address=register.address), None)
            for name, (owner, register) in layout.watched.items()
            if owner is device
        ]
        for period in sorted({each[0] for each in read}):
            members = [
                (name, point_of(device, point, limits))
                for own, name, point, limits in read
                if own == period and point is not None
            ]
            _add_period(layout, program, number, device, period, members)


def _add_period(
    layout: Layout,
    program: blob.Program,
    number: int,
    device: Device,
    period: int,
    members: Sequence[tuple[str, ModbusPoint]],
) -> None:
    points = [point for _, point in members]
    planned = plan(
        points,
        max_registers=device.max_registers,
        max_gap=device.max_gap,
        exclude=excluded_of(device),
    )
    for request in planned:
        index = len(program.requests)
        program.requests.append(
            blob.Request(
                device=number,
                decode_first=len(program.decode),
                decode_count=len(request.points),
                period_ns=period,
                address=request.address,
                count=request.count,
                function=request.function,
                unit=device.unit,
            )
        )
        for place, at in request.points:
            program.decode.append(_decode(layout, index, at, *members[place]))


def _decode(layout: Layout, request: int, at: int, ident: str, point: ModbusPoint) -> blob.Decode:
    return blob.Decode(
        slot=layout.tag_order.index[ident],
        request=request,
        at=at,
        type=int(point.type),
        order=int(point.order),
        bit=point.bit,
        scale=point.scale,
        offset=point.offset,
    )
