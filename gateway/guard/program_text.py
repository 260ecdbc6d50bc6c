"""A program blob read for people: ids, units, texts, and which interlock trips which output.

The guard's shared file has indices and keys only. Whoever shows or commands it needs the names of
the program that runs *there*, which need not be the site file's; they travel inside the blob.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from fastpath import blob
from fastpath.codes import (
    NONE_U32,
    InterlockFlag,
    OutputFlag,
    OutputKind,
    OutputPath,
    TagFlag,
)
from gateway.guard.program_reads import slots_read

NEAR_NAMES_MAX: Final = 3
_ON_STOP: Final = 8  # place of on_stop in blob.HEADER


@dataclass(frozen=True, slots=True)
class LegText:
    """One leg of a cause; ``slot`` is its leading tag's, NONE_U32 where it has none."""

    text: str
    slot: int
    limit: float


@dataclass(frozen=True, slots=True)
class InterlockText:
    """One interlock; ``outputs`` are indices into the program's outputs."""

    id: str
    key: int
    armed: bool
    latch: bool
    cause: str
    permissive: str
    legs: tuple[LegText, ...]
    outputs: tuple[int, ...]
    delays_ns: tuple[int, ...]  # of the outputs, after the trip
    reads: frozenset[int]  # slots of its cause
    group: int  # index or NONE_U32
    no_bypass: bool
    bypass_max_ns: int
    response_ns: int


@dataclass(frozen=True, slots=True)
class GroupText:
    """Interlocks that share a first-out; ``members`` are indices."""

    id: str
    max_bypassed: int
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OutputText:
    """One output; ``normal`` is None where the program never writes one."""

    id: str
    key: int
    confirm_ns: int
    trip: int
    normal: int | None
    coil: bool
    readback: int  # slot or NONE_U32
    readback_inverted: bool
    silence_ns: int  # 0: it cannot be silenced
    reassert_ns: int
    via_gateway: bool
    fallbacks: tuple[int, ...]  # indices of outputs


@dataclass(frozen=True, slots=True)
class DeviceText:
    """One device that the guard itself polls."""

    id: str
    key: int


class ProgramText:
    """Every name in one program. ``hash`` is the 32 bytes that the guard shows as running."""

    def __init__(self, data: bytes) -> None:
        names = blob.names(data)
        self.data: Final = data
        self.hash: Final = data[blob.HASH_AT : blob.HASH_AT + 32]
        self.tags: Final = tuple(names.get("tags", []))
        self.units: Final = _padded(names.get("units", []), len(self.tags))
        site = [*names.get("site", []), "", ""]
        self.site: Final = site[0]
        self.gateway: Final = site[1]
        self.stop_trips: Final = blob.HEADER.unpack_from(data)[_ON_STOP] == blob.ON_TRIP
        self.interlocks: Final = _interlocks(data, names)
        self.outputs: Final = _outputs(data, names.get("outputs", []))
        self.devices: Final = _devices(data, names.get("devices", []))
        self.groups: Final = _groups(data, names, self.interlocks)
        records: list[blob.Tag] = blob.section(data, "tags")
        self.tag_devices: Final = _tag_devices(records, names.get("devices", []))
        self.watchdogs: Final = {i for i, tag in enumerate(records) if tag.flags & TagFlag.WATCHDOG}
        self.stale_after_ns: Final = tuple(tag.stale_after_ns for tag in records)
        self.interlock_index: Final = {item.id: i for i, item in enumerate(self.interlocks)}
        self.output_index: Final = {item.id: i for i, item in enumerate(self.outputs)}
        self.tag_index: Final = {ident: i for i, ident in enumerate(self.tags)}
        self.tag_keys: Final = {tag.key: i for i, tag in enumerate(records)}
        self.holders: Final = _holders(self.interlocks, len(self.outputs))
        self.readers: Final = _readers(self.interlocks)

    @classmethod
    def of(cls, data: bytes, program: bytes) -> Self | None:
        """The text of a blob from a file, or None where it is not whole or not ``program``."""
        if len(data) < blob.HEADER_BYTES or data[: len(blob.MAGIC)] != blob.MAGIC:
            return None
        stated = data[blob.HASH_AT : blob.HASH_AT + 32]
        if stated != program or blob.blob_hash(data) != program:
            return None
        return cls(data)


class Programs:
    """Texts by hash, each read once. ``read`` gives the blob of a hash, or None."""

    def __init__(self, read: Callable[[bytes], bytes | None]) -> None:
        self._read = read
        empty = ProgramText(blob.EMPTY)
        self._empty: Final = empty
        self._last = empty

    def text(self, program: bytes) -> ProgramText | None:
        """The text of the program with this hash, None while its blob cannot be read."""
        for known in (self._last, self._empty):
            if known.hash == program:
                return known
        data = self._read(program)
        text = ProgramText.of(data, program) if data else None
        if text:
            self._last = text
        return text


def near_names(ident: str, names: tuple[str, ...]) -> list[str]:
    """What may have been meant by an unknown id, nearest first."""
    return difflib.get_close_matches(ident, names, n=NEAR_NAMES_MAX, cutoff=0.5)


def _interlocks(data: bytes, names: dict[str, list[str]]) -> tuple[InterlockText, ...]:
    records: list[blob.Interlock] = blob.section(data, "interlocks")
    effects: list[blob.Effect] = blob.section(data, "effects")
    legs: list[blob.Leg] = blob.section(data, "legs")
    reads = slots_read(data, [record.cause for record in records])
    ids = names.get("interlocks", [])
    leg_texts = _padded(names.get("legs", []), len(legs))
    causes = _padded(names.get("causes", []), len(records))
    permissives = _padded(names.get("permissives", []), len(records))
    items = []
    for i, record in enumerate(records):
        own_legs = range(record.legs_first, record.legs_first + record.legs_count)
        own_effects = effects[record.effects_first : record.effects_first + record.effects_count]
        items.append(
            InterlockText(
                id=ids[i],
                key=record.key,
                armed=bool(record.flags & InterlockFlag.ARMED),
                latch=bool(record.flags & InterlockFlag.LATCH),
                cause=causes[i],
                permissive=permissives[i],
                legs=tuple(LegText(leg_texts[j], legs[j].slot, legs[j].limit) for j in own_legs),
                outputs=tuple(effect.output for effect in own_effects),
                delays_ns=tuple(effect.delay_ns for effect in own_effects),
                reads=reads[i],
                group=record.group,
                no_bypass=bool(record.flags & InterlockFlag.NO_BYPASS),
                bypass_max_ns=record.bypass_max_ns,
                response_ns=record.response_ns,
            )
        )
    return tuple(items)


def _outputs(data: bytes, ids: list[str]) -> tuple[OutputText, ...]:
    records: list[blob.Output] = blob.section(data, "outputs")
    fallbacks: list[blob.Fallback] = blob.section(data, "fallbacks")
    return tuple(
        OutputText(
            id=ident,
            key=record.key,
            confirm_ns=record.confirm_ns,
            trip=record.trip,
            normal=record.normal if record.flags & OutputFlag.HAS_NORMAL else None,
            coil=record.kind == OutputKind.COIL,
            readback=record.readback,
            readback_inverted=bool(record.flags & OutputFlag.READBACK_INVERTED),
            silence_ns=record.silence_ns,
            reassert_ns=record.reassert_ns,
            via_gateway=record.path == OutputPath.GATEWAY,
            fallbacks=tuple(pair.fallback for pair in fallbacks if pair.output == i),
        )
        for i, (ident, record) in enumerate(zip(ids, records, strict=True))
    )


def _devices(data: bytes, ids: list[str]) -> tuple[DeviceText, ...]:
    records: list[blob.Device] = blob.section(data, "devices")
    return tuple(
        DeviceText(id=ident, key=record.key) for ident, record in zip(ids, records, strict=True)
    )


def _groups(
    data: bytes, names: dict[str, list[str]], interlocks: tuple[InterlockText, ...]
) -> tuple[GroupText, ...]:
    records: list[blob.Group] = blob.section(data, "groups")
    ids = _padded(names.get("groups", []), len(records))
    return tuple(
        GroupText(
            id=ids[i],
            max_bypassed=record.max_bypassed,
            members=tuple(j for j, item in enumerate(interlocks) if item.group == i),
        )
        for i, record in enumerate(records)
    )


def _readers(interlocks: tuple[InterlockText, ...]) -> dict[int, tuple[int, ...]]:
    """Which interlocks (indices) read each slot in their cause."""
    readers: dict[int, list[int]] = {}
    for i, interlock in enumerate(interlocks):
        for slot in interlock.reads:
            readers.setdefault(slot, []).append(i)
    return {slot: tuple(items) for slot, items in readers.items()}


def _tag_devices(records: list[blob.Tag], ids: list[str]) -> tuple[str | None, ...]:
    return tuple(ids[tag.device] if tag.device < len(ids) else None for tag in records)


def _holders(interlocks: tuple[InterlockText, ...], outputs: int) -> tuple[tuple[int, ...], ...]:
    """Which interlocks (indices) name each output."""
    holders: list[list[int]] = [[] for _ in range(outputs)]
    for i, interlock in enumerate(interlocks):
        for output in interlock.outputs:
            holders[output].append(i)
    return tuple(tuple(items) for items in holders)


def _padded(texts: list[str], count: int) -> tuple[str, ...]:
    """Older programs leave some texts out; they read as empty."""
    return tuple(texts[i] if i < len(texts) else "" for i in range(count))


def has_slot(slot: int) -> bool:
    """False for the "no such tag" of a leg or read-back."""
    return slot != NONE_U32
