"""Programs for tests: conditions over tags, and a small whole program of the guard."""

import struct
from dataclasses import replace
from typing import Any

from fastpath import blob as blobs
from fastpath.codes import (
    NONE_U16,
    NONE_U32,
    ByteOrder,
    DeviceFlag,
    DeviceKind,
    InterlockFlag,
    NodeKind,
    OnBad,
    Op,
    OutputFlag,
    OutputKind,
    OutputPath,
    Owner,
    Parity,
    PointType,
    RecordMode,
    TagFlag,
    WindowKind,
)

MS = 1_000_000
SECOND = 1_000_000_000


class Code:
    """Writes a program instruction by instruction; each call returns the register it writes."""

    def __init__(self, program: blobs.Program) -> None:
        self.program = program

    def op(self, op: Op, a: int = 0, b: int = 0, imm: float = 0.0) -> int:
        """Any instruction."""
        register = len(self.program.code)
        self.program.code.append(blobs.Instruction(op, register, a, b, imm))
        return register

    def tag(self, slot: int) -> int:
        """A tag's value."""
        return self.op(Op.TAG, slot)

    def const(self, value: float) -> int:
        """A constant."""
        return self.op(Op.CONST, imm=value)

    def compare(self, op: Op, slot: int, limit: float) -> int:
        """A tag against a limit."""
        return self.op(op, self.tag(slot), self.const(limit))

    def node(self, kind: NodeKind, duration_ns: int = 0) -> int:
        """A node for the next ``until``, ``for`` or ``hold``."""
        index = len(self.program.nodes)
        self.program.nodes.append(blobs.Node(kind, NONE_U32, duration_ns, 1000 + index))
        return index

    def until(self, on: int, off: int) -> int:
        """Hysteresis between two truths."""
        return self.op(Op.UNTIL, on, off, self.node(NodeKind.UNTIL))

    def lasting(self, a: int, duration_ns: int) -> int:
        """A truth ``for`` a duration."""
        return self.op(Op.FOR, a, imm=self.node(NodeKind.FOR, duration_ns))

    def held(self, a: int, duration_ns: int) -> int:
        """A truth ``hold`` a duration."""
        return self.op(Op.HOLD, a, imm=self.node(NodeKind.HOLD, duration_ns))

    def window(self, kind: WindowKind, slot: int, span_ns: int, interlock: int = NONE_U32) -> int:
        """A window over a tag."""
        index = len(self.program.windows)
        self.program.windows.append(blobs.Window(kind, interlock, span_ns, slot, 2000 + index))
        return self.op(Op.WINDOW, index)

    def moon(self, least: int, votes: list[int], *, vote: Op = Op.VOTE) -> int:
        """M of N."""
        count = NONE_U16
        for operand in votes:
            count = self.op(vote, count, operand)
        return self.op(Op.MOON, count, least, len(votes))


def conditions(tags: int, start_within_ns: int = 5 * SECOND, **tag: Any) -> Code:
    """An empty program of ``tags`` tags that the gateway owns, as its alarms have it."""
    program = blobs.Program(1, tick_ns=10 * MS, start_within_ns=start_within_ns)
    program.tags = [
        blobs.Tag(key=i + 1, **{"owner": Owner.GATEWAY, "record": RecordMode.ALL, **tag})
        for i in range(tags)
    ]
    return Code(program)


def guard_program() -> blobs.Program:
    """One device, three tags (two read, one system's), one armed interlock, two outputs."""
    code = conditions(0)
    program = code.program
    program.tags = [
        blobs.Tag(10, 0.0, 4.0, 500 * MS, 0, 0, Owner.GUARD, RecordMode.ALL, TagFlag.HAS_RANGE, 0),
        blobs.Tag(20, owner=Owner.GUARD, record=RecordMode.CHANGE, flags=TagFlag.BOOLEAN, device=0),
        blobs.Tag(30, owner=Owner.SYSTEM, system=2, device=0),
    ]
    high = code.until(code.compare(Op.GE, 0, 1.5), code.compare(Op.LT, 0, 1.0))
    stopped = code.lasting(code.op(Op.NOT, code.op(Op.BOOL, code.tag(1))), 300 * MS)
    cause = code.op(Op.OR, high, stopped)
    program.groups = [blobs.Group(5, 1)]
    program.interlocks = [
        blobs.Interlock(
            key=7, fingerprint=99, delay_ns=0, bad_for_ns=0, hold_max_ns=0, min_trip_ns=0,
            response_ns=2 * SECOND, bypass_max_ns=0, order=0, cause=cause,
            permissive=code.moon(1, [high]), group=0,
            flags=InterlockFlag.LATCH | InterlockFlag.ARMED, on_bad=OnBad.TRIP,
            legs_first=0, legs_count=2, effects_first=0, effects_count=2,
        )
    ]  # fmt: skip
    program.legs = [blobs.Leg(0, high, 0, 1.5), blobs.Leg(0, stopped, 1)]
    program.effects = [blobs.Effect(0, 0), blobs.Effect(0, 1)]
    coil = blobs.Output(
        key=3, confirm_ns=500 * MS, reassert_ns=SECOND, silence_ns=0, device=0, readback=1,
        address=16, trip=0, normal=1, unit=1, path=OutputPath.MODBUS, kind=OutputKind.COIL,
        flags=OutputFlag.HAS_NORMAL,
    )  # fmt: skip
    program.outputs = [coil, replace(coil, key=4, address=17, readback=NONE_U32)]
    program.devices = [
        blobs.Device(
            key=1, address=bytes(10) + b"\xff\xff" + bytes([127, 0, 0, 1]),
            connect_timeout_ns=200 * MS, timeout_ns=200 * MS, settle_ns=SECOND,
            every_ns=500 * MS, watchdog_ns=5 * SECOND, request_delay_ns=0,
            connected_within_ns=SECOND, port=502, heartbeat_address=90,
            flags=DeviceFlag.HAS_HEARTBEAT, unit=1, kind=DeviceKind.MODBUS_TCP,
        )
    ]  # fmt: skip
    program.requests = [
        blobs.Request(0, 0, 1, 50 * MS, 100, 4, 4, 1),
        blobs.Request(0, 1, 1, 50 * MS, 0, 8, 2, 1),
    ]
    program.decode = [
        blobs.Decode(0, 0, 2, PointType.FLOAT32, ByteOrder.ABCD),
        blobs.Decode(1, 1, 7, PointType.BOOL, ByteOrder.ABCD),
    ]
    program.names = {"tags": ["ch4.t1", "fan.running", "sys.plc.connected"]}
    return program


def wide_program() -> blobs.Program:
    """Beside the other's device, here with a lease, a serial one; windows, ``hold``, fallbacks."""
    program = guard_program()
    code = Code(program)
    slope = code.window(WindowKind.RATE, 0, 10 * SECOND, 0)
    rising = code.held(code.op(Op.GT, slope, code.const(0.1)), 2 * SECOND)
    votes = code.moon(1, [rising, code.compare(Op.GT, 3, 50.0)], vote=Op.VOTE_TRIP)
    either = code.op(Op.OR, program.interlocks[0].cause, votes)
    program.interlocks[0] = replace(program.interlocks[0], cause=either)
    program.tags += [
        blobs.Tag(40, 0.0, 100.0, SECOND, 0, 0, Owner.GUARD, RecordMode.ALL, TagFlag.HAS_RANGE, 1),
        blobs.Tag(
            50, 30.0, 30.0, SECOND, 0, 0, Owner.GUARD, RecordMode.CHANGE,
            TagFlag.HAS_RANGE | TagFlag.WATCHDOG, 1,
        ),
    ]  # fmt: skip
    coil = program.outputs[0]
    program.outputs += [
        replace(coil, key=5, device=1, unit=3, address=4, kind=OutputKind.REGISTER, trip=7),
        replace(coil, key=6, device=NONE_U32, unit=0, address=0, path=OutputPath.GATEWAY),
    ]
    program.fallbacks = [blobs.Fallback(0, 2), blobs.Fallback(2, 3)]
    program.effects.append(blobs.Effect(0, 3, 2 * SECOND))
    program.interlocks[0] = replace(program.interlocks[0], effects_count=3)
    program.devices.append(
        replace(
            program.devices[0], key=2, address=bytes(16), port=0, unit=3,
            kind=DeviceKind.MODBUS_RTU, tty=0, baud=9600, data_bits=8, parity=Parity.EVEN,
            stop_bits=1, flags=DeviceFlag.HAS_HEARTBEAT | DeviceFlag.RS485,
        )
    )  # fmt: skip
    program.devices[0] = replace(
        program.devices[0], lease_address=200, lease_ns=3 * SECOND,
        flags=DeviceFlag.HAS_HEARTBEAT | DeviceFlag.HAS_LEASE,
    )  # fmt: skip
    program.requests.append(blobs.Request(1, 2, 2, 200 * MS, 10, 4, 3, 3))
    program.decode += [
        blobs.Decode(3, 2, 0, PointType.FLOAT32, ByteOrder.CDAB),
        blobs.Decode(4, 2, 3, PointType.UINT16, ByteOrder.ABCD),
    ]
    program.names["ttys"] = ["/dev/serial/by-id/usb-one"]
    return program


def sealed(blob: bytes | bytearray) -> bytes:
    """The blob with the hash that fits it: damage that only the other rules can find."""
    out = bytearray(blob)
    out[blobs.HASH_AT : blobs.HASH_AT + 32] = blobs.blob_hash(out)
    return bytes(out)


def patched(blob: bytes, at: int, layout: str, *values: Any) -> bytes:
    """The blob with something else at ``at``, sealed again."""
    out = bytearray(blob)
    struct.pack_into(layout, out, at, *values)
    return sealed(out)
