"""Dataclasses -> program blob: the one flat, hashed thing that the guard runs.

The gateway's compiler fills a :class:`Program`; :func:`build` lays it out, section after section,
gap-free, 64-byte aligned, little-endian. The guard verifies every byte of it again
(``program.verify``) before it runs one instruction. A blob is a pure function of the site files.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Final

from fastpath.codes import NONE_U16, NONE_U32

MAGIC: Final = b"SWPROG01"
FORMAT: Final = 1
ALIGNMENT: Final = 64
# magic, format, total_bytes, hash, site_key, tick_ns, start_within_ns,
# on_overrun, on_stop, on_output_failure, section_count
HEADER: Final = struct.Struct("<8sII32sQqqBBBB")
SECTION: Final = struct.Struct("<HHII")  # id, record_bytes, offset, count
HEADER_BYTES: Final = 256
HASH_AT: Final = 16

ON_TRIP: Final = 1  # on_overrun, on_stop: trip; on_output_failure: stop_heartbeat
ON_NOTHING: Final = 2


@dataclass(frozen=True, slots=True)
class Tag:
    """One slot of the image. ``low`` and ``high`` are inclusive, 0 without HAS_RANGE."""

    key: int
    low: float = 0.0
    high: float = 0.0
    stale_after_ns: int = 0  # 0: never goes stale
    settle_ns: int = 0
    stuck_ns: int = 0  # 0: not watched
    owner: int = 0  # Owner
    record: int = 0  # RecordMode
    flags: int = 0  # TagFlag
    device: int = NONE_U16  # index of the guard's device that feeds it or is meant
    system: int = 0  # SystemTag of an Owner.SYSTEM tag


@dataclass(frozen=True, slots=True)
class Instruction:
    """Instruction i writes register i; operands are registers below i (or what Op says)."""

    op: int
    dst: int
    a: int = 0
    b: int = 0
    imm: float = 0.0


@dataclass(frozen=True, slots=True)
class Node:
    """Memory of one ``until``, ``for`` or ``hold``."""

    kind: int  # NodeKind
    interlock: int  # index, or NONE_U32 in a gateway's alarm program
    duration_ns: int = 0
    key: int = 0  # ties the memory to its node over a restart or a swap


@dataclass(frozen=True, slots=True)
class Window:
    """A fixed-memory window of 64 buckets."""

    kind: int  # WindowKind
    interlock: int  # index, or NONE_U32 in a gateway's program
    span_ns: int
    slot: int
    key: int = 0  # ties the memory to its window over a restart or a swap


@dataclass(frozen=True, slots=True)
class Interlock:
    """Cause and parameters. ``permissive`` NONE_U32: always permitted."""

    key: int
    fingerprint: int
    delay_ns: int
    bad_for_ns: int
    hold_max_ns: int
    min_trip_ns: int
    response_ns: int
    bypass_max_ns: int
    order: int  # place in the site file: decides first-out within a scan
    cause: int  # truth register
    permissive: int  # truth register or NONE_U32
    group: int  # index or NONE_U32
    flags: int  # InterlockFlag
    on_bad: int  # OnBad
    legs_first: int
    legs_count: int
    effects_first: int
    effects_count: int


@dataclass(frozen=True, slots=True)
class Effect:
    """One output that an interlock trips, ``delay_ns`` after the interlock tripped."""

    interlock: int
    output: int
    delay_ns: int = 0


@dataclass(frozen=True, slots=True)
class Leg:
    """One vote or comparison of a cause, shown to people; ``slot`` is its leading tag."""

    interlock: int
    register: int  # truth register
    slot: int = NONE_U32
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class Output:
    """A permit to a final element. ``trip``, ``normal``: register values, or 0 and 1 of a coil."""

    key: int
    confirm_ns: int
    reassert_ns: int
    silence_ns: int
    device: int  # index or NONE_U32 with OutputPath.GATEWAY
    readback: int  # slot or NONE_U32
    address: int
    trip: int
    normal: int
    unit: int
    path: int  # OutputPath
    kind: int  # OutputKind
    flags: int  # OutputFlag


@dataclass(frozen=True, slots=True)
class Fallback:
    """``fallback`` trips when ``output`` cannot be confirmed."""

    output: int
    fallback: int


@dataclass(frozen=True, slots=True)
class Group:
    """Interlocks that share a first-out."""

    key: int
    max_bypassed: int


@dataclass(frozen=True, slots=True)
class Device:
    """A device that the guard itself polls or writes; ``address`` is IPv6 or IPv4-mapped."""

    key: int
    address: bytes  # 16 bytes
    connect_timeout_ns: int
    timeout_ns: int
    settle_ns: int
    every_ns: int  # heartbeat period
    watchdog_ns: int
    request_delay_ns: int
    connected_within_ns: int  # sys.<device>.connected
    port: int
    heartbeat_address: int
    flags: int  # DeviceFlag
    unit: int
    kind: int  # DeviceKind
    tty: int = NONE_U32  # index into names["ttys"] (paths)
    baud: int = 0
    lease_address: int = 0  # three registers
    data_bits: int = 0
    parity: int = 0  # Parity
    stop_bits: int = 0
    lease_ns: int = 0  # another owner whose counter stood still for that long is gone


@dataclass(frozen=True, slots=True)
class Request:
    """One read; its DECODE records are ``decode_first`` .. + ``decode_count``, by address."""

    device: int
    decode_first: int
    decode_count: int
    period_ns: int
    address: int
    count: int
    function: int  # 1 to 4
    unit: int


@dataclass(frozen=True, slots=True)
class Decode:
    """One tag's place in a reply: ``at`` counts registers (or bits) from the request's address."""

    slot: int
    request: int
    at: int
    type: int  # PointType
    order: int  # ByteOrder
    bit: int = 0
    scale: float = 1.0
    offset: float = 0.0


# Section order is the layout's order; formats are little-endian without hidden padding.
# The dataclass's fields are packed in the order in which they are declared.
SECTIONS: Final[tuple[tuple[str, type[Any], str], ...]] = (
    ("tags", Tag, "<QddqqqBBHHH8x"),
    ("code", Instruction, "<HHHHd"),
    ("nodes", Node, "<IIqQ8x"),
    ("windows", Window, "<IIqI4xQ"),
    ("interlocks", Interlock, "<QQqqqqqqIIIIIIIIII24x"),
    ("effects", Effect, "<IIq"),
    ("legs", Leg, "<IIIxxxxd8x"),
    ("outputs", Output, "<QqqqIIHHHBBBB14x"),
    ("fallbacks", Fallback, "<II"),
    ("groups", Group, "<QI4x"),
    ("devices", Device, "<Q16sqqqqqqqHHHBBIIHBBB3xq16x"),
    ("requests", Request, "<IIIxxxxqHHBB2x"),
    ("decode", Decode, "<IIHBBB3xdd"),
)
NAMES_ID: Final = len(SECTIONS) + 1


@dataclass(slots=True)
class Program:
    """All sections of a program. ``names`` maps a section's name to its ids (texts of legs)."""

    site_key: int
    tick_ns: int
    start_within_ns: int
    on_overrun: int = ON_TRIP
    on_stop: int = ON_TRIP
    on_output_failure: int = ON_TRIP
    tags: list[Tag] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    interlocks: list[Interlock] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    legs: list[Leg] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    decode: list[Decode] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)


def key_of(kind: str, ident: str) -> int:
    """BLAKE2b-64 of ``kind:id``: the key of a tag, interlock, output, device, group or site."""
    return _digest64(f"{kind}:{ident}".encode())


def fingerprint_of(parts: Sequence[str]) -> int:
    """BLAKE2b-64 of a canonical condition with everything that it depends on."""
    return _digest64("\x00".join(parts).encode())


def build(program: Program) -> bytes:
    """Lay the program out and hash it. Raises ValueError when a field does not fit its place."""
    body = bytearray()
    table = bytearray()
    for number, (name, _kind, layout) in enumerate(SECTIONS, start=1):
        record = struct.Struct(layout)
        offset = HEADER_BYTES + len(body)
        records = getattr(program, name)
        try:
            for item in records:
                body += record.pack(*astuple(item))
        except struct.error as error:
            msg = f"program.{name}: {item!r} does not fit its record: {error}"
            raise ValueError(msg) from error
        table += SECTION.pack(number, record.size, offset, len(records))
        body += bytes(-len(body) % ALIGNMENT)
    names = json.dumps(program.names, ensure_ascii=False, sort_keys=True).encode()
    table += SECTION.pack(NAMES_ID, 1, HEADER_BYTES + len(body), len(names))
    body += names + bytes(-len(names) % ALIGNMENT)
    try:
        header = HEADER.pack(
            MAGIC, FORMAT, HEADER_BYTES + len(body), bytes(32), program.site_key,
            program.tick_ns, program.start_within_ns,
            program.on_overrun, program.on_stop, program.on_output_failure, NAMES_ID,
        )  # fmt: skip
    except struct.error as error:
        msg = f"program: a field does not fit the header: {error}"
        raise ValueError(msg) from error
    blob = bytearray(header + table)
    blob += bytes(HEADER_BYTES - len(blob))
    blob += body
    blob[HASH_AT : HASH_AT + 32] = blob_hash(blob)
    return bytes(blob)


def blob_hash(blob: bytes | bytearray) -> bytes:
    """BLAKE2b-256 of the blob with its hash field zero."""
    clean = bytearray(blob)
    clean[HASH_AT : HASH_AT + 32] = bytes(32)
    return hashlib.blake2b(clean, digest_size=32).digest()


def section(blob: bytes, name: str) -> list[Any]:
    """Read one section of a verified blob back into its dataclasses."""
    for number, (section_name, kind, layout) in enumerate(SECTIONS, start=1):
        if section_name == name:
            _, _, offset, count = _section_entry(blob, number)
            record = struct.Struct(layout)
            return [kind(*record.unpack_from(blob, offset + i * record.size)) for i in range(count)]
    raise KeyError(name)


def names(blob: bytes) -> dict[str, list[str]]:
    """The ids and texts of a verified blob: ``tags``, ``interlocks``, ``outputs``, ``legs`` ..."""
    _, _, offset, count = _section_entry(blob, NAMES_ID)
    decoded: dict[str, list[str]] = json.loads(blob[offset : offset + count])
    return decoded


def _section_entry(blob: bytes, number: int) -> tuple[int, int, int, int]:
    entry: tuple[int, int, int, int] = SECTION.unpack_from(
        blob, HEADER.size + (number - 1) * SECTION.size
    )
    return entry


def _digest64(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


EMPTY: Final = build(Program(site_key=0, tick_ns=10_000_000, start_within_ns=5_000_000_000))
