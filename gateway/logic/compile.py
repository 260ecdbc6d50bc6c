"""A checked site -> the guard's program: a pure function of the site files.

Sections are sorted by key and every index is one of the sorted order. What the guard holds: every
tag of its fast devices, the gateway's tags that an interlock or a read-back needs, system tags.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from drivers.kind import parse_endpoint
from drivers.modbus_kinds import excluded_of, point_of
from drivers.plan import plan
from drivers.points import Area, ModbusPoint, parse_address
from fastpath import blob, codes
from fastpath.codes import (
    NONE_U16,
    NONE_U32,
    DeviceFlag,
    DeviceKind,
    InterlockFlag,
    OnBad,
    OutputFlag,
    OutputKind,
    OutputPath,
    Owner,
    Parity,
    RecordMode,
    SystemTag,
    TagFlag,
)
from gateway.errors import GatewayError
from gateway.logic import fingerprint
from gateway.logic.canonical import canonical
from gateway.logic.conditions import GATEWAY_ALIVE, conditions_of
from gateway.logic.emit import Emitter, lead_of, legs_of
from gateway.logic.kinds import Kind
from gateway.logic.tree import Expr, tags_of
from gateway.site.load import WATCHDOG_POLL_NS
from gateway.site.model import (
    Config,
    Device,
    Heartbeat,
    Interlock,
    Lease,
    Output,
    Point,
    Tag,
    WatchdogRegister,
    by_id,
)
from gateway.site.places import is_boolean, packed_address, server_of
from gateway.site.recording import told_mode
from gateway.site.references import SYSTEM_PREFIX, readback_of

FED_STALE_NS: Final = 15_000_000_000  # of what the gateway makes: it tells it every second
CONNECT_TIMEOUT_NS_MAX: Final = 1_000_000_000
_ON_BAD: Final = {"trip": OnBad.TRIP, "hold": OnBad.HOLD, "ignore": OnBad.IGNORE}
_PARITY: Final = {"none": Parity.NONE, "even": Parity.EVEN, "odd": Parity.ODD}
_ON: Final = {"trip": blob.ON_TRIP, "stop_heartbeat": blob.ON_TRIP, "nothing": blob.ON_NOTHING}


def compile_site(config: Config) -> bytes:
    """The guard's program for a site that ``check`` found good. Raises TooLargeError."""
    return blob.build(_Compiler(config).program())


class TooLargeError(GatewayError):
    """A site is beyond what one guard holds; the text is for people."""


def check_sizes(program: blob.Program) -> None:
    """Raise TooLargeError where a section is larger than the guard's."""
    for name, _, _ in blob.SECTIONS:
        count, bound = len(getattr(program, name)), getattr(codes, f"{name.upper()}_MAX")
        if count > bound:
            msg = f"found {count} {name} in the program, expected at most {bound}"
            raise TooLargeError(msg)


class Keyed:
    """Ids of one kind in the order of their keys: what the guard's tables are sorted by."""

    def __init__(self, kind: str, ids: Iterable[str]) -> None:
        keys = {ident: blob.key_of(kind, ident) for ident in ids}
        self.ids: Final = sorted(keys, key=lambda ident: keys[ident])
        self.index: Final = {ident: place for place, ident in enumerate(self.ids)}
        self.keys: Final = keys
        if len(set(keys.values())) != len(keys):
            msg = f"found two ids of kind {kind} with one key, expected another id for the newer"
            raise TooLargeError(msg)


class _Compiler:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.tags: dict[str, Tag] = by_id(config.tag)
        self.devices: dict[str, Device] = by_id(config.device)
        self.interlocks: dict[str, Interlock] = by_id(config.interlock)
        self.outputs: dict[str, Output] = by_id(config.output)
        conditions = conditions_of(config)
        self.computed = conditions.computed
        self.causes = conditions.causes
        self.permissives: dict[str, Expr | None] = {
            item.id: conditions.permissives.get(item.id) for item in config.interlock
        }
        self.read = self._read_by_interlocks()
        self.device_order = Keyed("device", self._guard_devices())
        self.watched = self._watchdog_tags()
        serial = (self.devices[ident] for ident in self.device_order.ids)
        paths = sorted(
            {device.address for device in serial if device.line is not None}, reverse=True
        )
        self._tty_by_port = {server_of(path): path for path in paths}  # one name of each
        self.ttys = sorted(self._tty_by_port.values())
        self.tag_order = Keyed("tag", self._guard_tags())
        self.output_order = Keyed("output", self.outputs)
        self.interlock_order = Keyed("interlock", self.interlocks)
        self.group_order = Keyed("group", (group.id for group in config.group))

    def program(self) -> blob.Program:
        site = self.config.site
        program = blob.Program(
            site_key=blob.key_of("site", site.id),
            tick_ns=site.tick,
            start_within_ns=site.start_within,
            on_overrun=_ON[site.on_overrun],
            on_stop=_ON[site.on_stop],
            on_output_failure=_ON[site.on_output_failure],
            tags=[self._tag(ident) for ident in self.tag_order.ids],
            outputs=[self._output(self.outputs[ident]) for ident in self.output_order.ids],
            fallbacks=self._fallbacks(),
            groups=self._groups(),
            devices=[self._device(self.devices[ident]) for ident in self.device_order.ids],
        )
        self._add_interlocks(program)
        self._add_requests(program)
        program.names |= {
            "tags": self.tag_order.ids,
            "units": [self._unit(ident) for ident in self.tag_order.ids],
            "definitions": [self._definition(ident) for ident in self.tag_order.ids],
            "interlocks": self.interlock_order.ids,
            "outputs": self.output_order.ids,
            "groups": self.group_order.ids,
            "devices": self.device_order.ids,
            "ttys": self.ttys,
            "site": [site.id, site.gateway or site.id],
        }
        check_sizes(program)
        return program

    # ---- what the guard holds

    def _read_by_interlocks(self) -> set[str]:
        trees = [*self.causes.values(), *(tree for tree in self.permissives.values() if tree)]
        return {ident for tree in trees for ident in tags_of(tree)}

    def _guard_devices(self) -> list[str]:
        written = {output.device for output in self.config.output if output.via is None}
        return [
            device.id
            for device in self.config.device
            if device.fast or device.heartbeat is not None or device.id in written
        ]

    def _guard_tags(self) -> list[str]:
        needed = set(self.read)
        for output in self.config.output:
            readback = readback_of(output.readback) if output.readback is not None else None
            if readback is not None:
                needed.add(readback[0])
        fast = {tag.id for tag in self.config.tag if self._is_fast(tag)}
        return sorted(needed | fast | self.watched.keys())

    def _watchdog_tags(self) -> dict[str, tuple[Device, WatchdogRegister]]:
        """The registers that set a device's own watchdog, as tags of the guard."""
        return {
            f"{SYSTEM_PREFIX}{device.id}.watchdog.{number}": (device, register)
            for device in self.config.device
            for number, register in enumerate(device.watchdog_registers, start=1)
        }

    def _is_fast(self, tag: Tag) -> bool:
        return tag.device is not None and self.devices[tag.device].fast

    def _definition(self, ident: str) -> str:
        """How a tag of the interlocks is made, for whoever compares two programs."""
        if ident not in self.read:
            return ""
        computed = self.computed.tags.get(ident)
        if computed is None:
            return fingerprint.definition(ident, self.tags, self.devices)
        inputs = (
            fingerprint.of_tag(name, self.tags, self.devices).replace("; ", ", ")
            for name in tags_of(computed.tree)
        )
        return f"value: {canonical(computed.tree)}; of: {' and '.join(inputs)}"

    def _unit(self, ident: str) -> str:
        return self.tags[ident].unit if ident in self.tags else ""

    # ---- records

    def _tag(self, ident: str) -> blob.Tag:
        key = self.tag_order.keys[ident]
        tag = self.tags.get(ident)
        flags = TagFlag.IN_INTERLOCK if ident in self.read else TagFlag(0)
        if ident in self.watched:
            return self._watchdog_tag(key, *self.watched[ident])
        if tag is None:
            return self._system_tag(ident, key, flags | TagFlag.BOOLEAN)
        if tag.value is not None:
            return self._computed_tag(tag, key, flags)
        device = self.devices[tag.device or ""]
        if tag.point is not None and is_boolean(device, tag.point):
            flags |= TagFlag.BOOLEAN
        if tag.uncertain == "use":
            flags |= TagFlag.UNCERTAIN_USE
        low, high = tag.range or (0.0, 0.0)
        if tag.range is not None:
            flags |= TagFlag.HAS_RANGE
        fast = self._is_fast(tag)
        return blob.Tag(
            key=key,
            low=low,
            high=high,
            stale_after_ns=int(tag.stale_after or 0),
            settle_ns=int(device.settle),
            stuck_ns=int(tag.stuck_after or 0) if fast else 0,
            owner=int(Owner.GUARD if fast else Owner.GATEWAY),
            record=int(told_mode(tag, device)),
            flags=int(flags),
            device=self.device_order.index[device.id] if fast else NONE_U16,
        )

    def _system_tag(self, ident: str, key: int, flags: TagFlag) -> blob.Tag:
        alive = ident == GATEWAY_ALIVE
        device = ident.removeprefix(SYSTEM_PREFIX).removesuffix(".connected")
        if not alive and not self.devices[device].fast:
            return self._fed_tag(key, flags, RecordMode.CHANGE)
        return blob.Tag(
            key=key,
            owner=int(Owner.SYSTEM),
            record=int(RecordMode.CHANGE),
            flags=int(flags),
            device=NONE_U16 if alive else self.device_order.index[device],
            system=int(SystemTag.GATEWAY_ALIVE if alive else SystemTag.DEVICE_CONNECTED),
        )

    def _watchdog_tag(self, key: int, device: Device, register: WatchdogRegister) -> blob.Tag:
        """Good with its one value; anything else keeps the device from being released."""
        return blob.Tag(
            key=key,
            low=float(register.value),
            high=float(register.value),
            stale_after_ns=3 * WATCHDOG_POLL_NS + int(device.timeout),
            settle_ns=int(device.settle),
            owner=int(Owner.GUARD),
            record=int(RecordMode.CHANGE),
            flags=int(TagFlag.HAS_RANGE | TagFlag.WATCHDOG),
            device=self.device_order.index[device.id],
        )

    def _computed_tag(self, tag: Tag, key: int, flags: TagFlag) -> blob.Tag:
        """One that looks back further than the guard does."""
        if self.computed.tags[tag.id].kind is Kind.BOOLEAN:
            flags |= TagFlag.BOOLEAN
        if tag.uncertain == "use":
            flags |= TagFlag.UNCERTAIN_USE
        return self._fed_tag(key, flags, told_mode(tag, None))

    def _fed_tag(self, key: int, flags: TagFlag, record: RecordMode) -> blob.Tag:
        """What the gateway makes itself and tells the guard once a second."""
        return blob.Tag(
            key=key,
            stale_after_ns=FED_STALE_NS,
            owner=int(Owner.GATEWAY),
            record=int(record),
            flags=int(flags),
        )

    def _output(self, output: Output) -> blob.Output:
        """Of one through the gateway the guard knows the values alone, not the place."""
        device = self.devices[output.device]
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
            key=self.output_order.keys[output.id],
            confirm_ns=int(output.confirm_within),
            reassert_ns=int(output.reassert),
            silence_ns=int(output.silence),
            device=self.device_order.index[device.id] if own else NONE_U32,
            readback=self.tag_order.index[readback[0]] if readback is not None else NONE_U32,
            address=address.number if address is not None else 0,
            trip=int(output.trip),
            normal=int(output.normal or 0),
            unit=(device.unit if output.unit is None else output.unit) if own else 0,
            path=int(OutputPath.MODBUS if own else OutputPath.GATEWAY),
            kind=int(OutputKind.COIL if coil else OutputKind.REGISTER),
            flags=int(flags),
        )

    def _groups(self) -> list[blob.Group]:
        bounds = {group.id: group.max_bypassed for group in self.config.group}
        return [
            blob.Group(self.group_order.keys[ident], bounds[ident])
            for ident in self.group_order.ids
        ]

    def _tty_of(self, device: Device) -> int:
        return self.ttys.index(self._tty_by_port[server_of(device.address)])

    def _device(self, device: Device) -> blob.Device:
        heartbeat, lease, line = device.heartbeat, device.lease, device.line
        host, port = bytes(16), 0
        if line is None:
            endpoint = parse_endpoint(device.address)
            host, port = packed_address(endpoint.host), endpoint.port
        return blob.Device(
            key=self.device_order.keys[device.id],
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
            tty=NONE_U32 if line is None else self._tty_of(device),
            baud=0 if line is None else line.baud,
            lease_address=_number(device, lease),
            data_bits=0 if line is None else line.bits,
            parity=0 if line is None else int(_PARITY[line.parity]),
            stop_bits=0 if line is None else line.stop,
            lease_ns=int(lease.within) if lease else 0,
        )

    def _fallbacks(self) -> list[blob.Fallback]:
        """In the order of the outputs, each one's in the order of the site file."""
        index = self.output_order.index
        return [
            blob.Fallback(index[ident], index[name])
            for ident in self.output_order.ids
            for name in self.outputs[ident].fallback
        ]

    # ---- interlocks

    def _add_interlocks(self, program: blob.Program) -> None:
        emitter = Emitter(self.tag_order.index, program.code, program.nodes, program.windows)
        order = {interlock.id: place for place, interlock in enumerate(self.config.interlock)}
        texts: dict[str, list[str]] = {"legs": [], "causes": [], "permissives": []}
        for number, ident in enumerate(self.interlock_order.ids):
            interlock, cause = self.interlocks[ident], self.causes[ident]
            permissive = self.permissives[ident]
            emitter.begin(ident, number)
            votes_trip = interlock.bypass_votes == "trip"
            cause_register = emitter.cause(cause, votes_trip=votes_trip)
            legs = [self._leg(number, emitter.register_of(leg), leg) for leg in legs_of(cause)]
            texts["legs"] += [canonical(leg) for leg in legs_of(cause)]
            texts["causes"].append(canonical(cause))
            texts["permissives"].append(canonical(permissive) if permissive else "")
            effects = [
                blob.Effect(number, self.output_order.index[effect.output], int(effect.delay))
                for effect in interlock.effects
            ]
            program.interlocks.append(
                blob.Interlock(
                    key=self.interlock_order.keys[ident],
                    fingerprint=self._fingerprint(interlock),
                    delay_ns=int(interlock.delay),
                    bad_for_ns=int(interlock.bad_for),
                    hold_max_ns=int(interlock.hold_max or 0),
                    min_trip_ns=int(interlock.min_trip),
                    response_ns=int(interlock.response),
                    bypass_max_ns=int(interlock.bypass_max),
                    order=order[ident],
                    cause=cause_register,
                    permissive=emitter.truth(permissive) if permissive else NONE_U32,
                    group=self.group_order.index[interlock.group] if interlock.group else NONE_U32,
                    flags=int(_flags(interlock)),
                    on_bad=int(_ON_BAD[interlock.on_bad]),
                    legs_first=len(program.legs),
                    legs_count=len(legs),
                    effects_first=len(program.effects),
                    effects_count=len(effects),
                )
            )
            program.legs += legs
            program.effects += effects
        program.names |= texts

    def _leg(self, interlock: int, register: int, leg: Expr) -> blob.Leg:
        lead = lead_of(leg)
        slot = self.tag_order.index[lead.tag] if lead.tag is not None else NONE_U32
        return blob.Leg(interlock, register, slot, lead.limit)

    def _fingerprint(self, interlock: Interlock) -> int:
        cause, permissive = self.causes[interlock.id], self.permissives[interlock.id]
        read = sorted({*tags_of(cause), *(tags_of(permissive) if permissive else ())})
        conditions: tuple[str, ...] = (
            canonical(cause),
            canonical(permissive) if permissive else "",
        )
        far = [self.computed.tags[name].tree for name in read if name in self.computed.tags]
        read += sorted({name for tree in far for name in tags_of(tree)})
        conditions += tuple(canonical(tree) for tree in far)
        tags = [fingerprint.of_tag(name, self.tags, self.devices) for name in read]
        return blob.fingerprint_of([*conditions, *fingerprint.of_interlock(interlock), *tags])

    # ---- reads of the guard's own devices

    def _add_requests(self, program: blob.Program) -> None:
        for number, ident in enumerate(self.device_order.ids):
            device = self.devices[ident]
            tags = [tag for tag in self.config.tag if tag.device == ident] if device.fast else []
            read = [(int(tag.poll or device.poll), tag.id, tag.point, tag.range) for tag in tags]
            read += [
                (WATCHDOG_POLL_NS, name, Point(address=register.address), None)
                for name, (owner, register) in self.watched.items()
                if owner is device
            ]
            for period in sorted({each[0] for each in read}):
                members = [
                    (name, point_of(device, point, limits))
                    for own, name, point, limits in read
                    if own == period and point is not None
                ]
                self._add_period(program, number, device, period, members)

    def _add_period(
        self,
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
                program.decode.append(self._decode(index, at, *members[place]))

    def _decode(self, request: int, at: int, ident: str, point: ModbusPoint) -> blob.Decode:
        return blob.Decode(
            slot=self.tag_order.index[ident],
            request=request,
            at=at,
            type=int(point.type),
            order=int(point.order),
            bit=point.bit,
            scale=point.scale,
            offset=point.offset,
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


def _flags(interlock: Interlock) -> InterlockFlag:
    flags = InterlockFlag(0)
    if interlock.latch:
        flags |= InterlockFlag.LATCH
    if interlock.armed:
        flags |= InterlockFlag.ARMED
    if interlock.no_bypass:
        flags |= InterlockFlag.NO_BYPASS
    if interlock.bypass_votes == "trip":
        flags |= InterlockFlag.BYPASS_VOTES_TRIP
    return flags
