"""The same numbers and layouts on both sides: codes.py and blob.py against types.pxd."""

import enum
import re
import struct
from pathlib import Path

import pytest

from fastpath import blob, codes, messages
from fastpath.layout import RECORD_BYTES

PXD = (Path(codes.__file__).parent / "types.pxd").read_text()
LETTERS = {
    "uint8_t": "B", "uint16_t": "H", "uint32_t": "I", "uint64_t": "Q",
    "int64_t": "q", "double": "d",
}  # fmt: skip
STRUCTS = {
    "tags": "TagDef", "code": "InstructionDef", "nodes": "NodeDef", "windows": "WindowDef",
    "interlocks": "InterlockDef", "effects": "EffectDef", "legs": "LegDef",
    "outputs": "OutputDef", "fallbacks": "FallbackDef", "groups": "GroupDef",
    "devices": "DeviceDef", "requests": "RequestDef", "decode": "DecodeDef",
}  # fmt: skip


def enum_block(name: str) -> dict[str, int]:
    block = re.search(rf"^cdef enum:  # {name}\n((?:    \w+ = \w+\n)+)", PXD, re.MULTILINE)
    assert block, f"types.pxd has no enum {name}"
    lines = re.findall(r"    (\w+) = (\w+)", block[1])
    return {member: int(value, 0) for member, value in lines}


def struct_layout(name: str) -> str:
    """Fields of a struct of types.pxd as a struct format, padding fields as they are."""
    body = re.search(rf"^cdef struct {name}:.*\n((?:    .*\n)+)", PXD, re.MULTILINE)
    assert body, f"types.pxd has no struct {name}"
    layout = ""
    for kind, field, size in re.findall(r"^    (\w+) (\w+)(?:\[(\d+)\])?", body[1], re.MULTILINE):
        if field.startswith("pad"):
            layout += f"{int(size or 1) * struct.calcsize(LETTERS[kind])}x"
        elif size:
            layout += f"{size}s"
        else:
            layout += LETTERS[kind]
    return layout


def plain(layout: str) -> str:
    """A format without its byte order, padding summed up."""
    out = layout.lstrip("<")
    return re.sub(r"(?:\d*x)+", lambda pad: f"{struct.calcsize('<' + pad[0])}x", out)


ENUMS = [
    kind
    for kind in vars(codes).values()
    if isinstance(kind, type)
    and issubclass(kind, enum.Enum)
    and kind not in (enum.IntEnum, enum.IntFlag)
]


@pytest.mark.parametrize("kind", ENUMS, ids=lambda kind: kind.__name__)
def test_enum_has_the_same_members(kind: type[enum.IntEnum]) -> None:
    c_side = enum_block(kind.__name__)
    assert list(c_side.values()) == [member.value for member in kind]
    for c_name, member in zip(c_side, kind, strict=True):
        assert c_name.endswith(f"_{member.name}")


def test_limits_are_the_same() -> None:
    block = re.search(r"^cdef enum:\n((?:    \w+ = \w+\n)+)", PXD, re.MULTILINE)
    assert block
    c_side = {name: int(value, 0) for name, value in re.findall(r"_(\w+) = (\w+)", block[1])}
    ours = {name: value for name, value in vars(codes).items() if name.isupper()}
    assert c_side == ours


@pytest.mark.parametrize("number", range(len(blob.SECTIONS)))
def test_section_has_the_layout_of_its_struct(number: int) -> None:
    name, _, layout = blob.SECTIONS[number]
    assert plain(struct_layout(STRUCTS[name])) == plain(layout)
    assert struct.calcsize(layout) == RECORD_BYTES[number]


def test_names_are_bytes() -> None:
    assert RECORD_BYTES[blob.NAMES_ID - 1] == 1
    assert len(RECORD_BYTES) == blob.NAMES_ID


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("SampleRecord", messages.SAMPLE),
        ("MessageHeader", messages.HEADER),
        ("SectionEntry", blob.SECTION),
    ],
)
def test_messages_have_the_layout_of_their_structs(name: str, layout: struct.Struct) -> None:
    assert plain(struct_layout(name)) == plain(layout.format)


@pytest.mark.parametrize(
    ("name", "size"),
    [("InterlockLatch", 128), ("TagBypassLatch", 64), ("OutputLatch", 128), ("CommandSlot", 64),
     ("NodeState", 32), ("Slot", 64), ("DeviceStats", 128), ("Event", 128), ("SampleRecord", 32)],
)  # fmt: skip
def test_shared_records_have_their_size_without_hidden_padding(name: str, size: int) -> None:
    layout = struct_layout(name).replace("12s", "12I" if name == "DeviceStats" else "12s")
    assert struct.calcsize("<" + layout) == struct.calcsize("@" + layout) == size
