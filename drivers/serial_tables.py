"""The tables of a serial instrument in a site file or a template, as they are written there."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Order = Literal["ABCD", "BADC", "CDAB", "DCBA"]
Name = Annotated[str, Meta(min_length=1, max_length=64)]


class LengthAt(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a frame says how long it is."""

    at: Annotated[int, Meta(ge=0, le=255)]  # bytes from the frame's first
    type: Literal["uint8", "uint16"] = "uint8"
    order: Order = "ABCD"  # BADC or DCBA: low byte first
    add: Annotated[int, Meta(ge=-255, le=255)] = 0  # bytes of the frame that it does not count


class SerialStatus(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an instrument says of its own values. What is neither is a device failure."""

    field: Name | int | None = None  # of a line: a group's name, or a number from 1
    at: Annotated[int, Meta(ge=0, le=1023)] | None = None  # of a frame: the place of a byte
    good: tuple[str, ...]  # texts; of a frame two hexadecimal digits
    uncertain: tuple[str, ...] = ()


class SerialProtocol(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an instrument speaks. With a ``request`` it is asked, without it sends by itself."""

    kind: Literal["line", "frame"]
    delimiter: str | None = None  # line; "\r\n" where it is left out
    pattern: str | None = None  # line: a regular expression of the whole line, named groups
    separator: str | None = None  # line: between fields that are numbered from 1
    start: str | None = None  # frame: hexadecimal bytes
    length: Annotated[int, Meta(ge=2, le=1024)] | None = None  # frame: bytes, start to checksum
    length_at: LengthAt | None = None  # frame
    checksum: Literal["nmea", "sum8", "xor8", "crc16-modbus", "crc16-ccitt"] | None = None
    request: str | None = None  # of a line text, of a frame hexadecimal bytes
    echo: bool = False  # the adapter hears what it sends
    status: SerialStatus | None = None


class SerialField(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One value of a line or frame under a name, with its unit."""

    name: Name
    group: Name | int | None = None  # line: where it stands; its own name where left out
    when: dict[str, str] = {}
    words: dict[str, float] = {}
    factor_of: Name | int | None = None  # line: the group whose text names the instrument's unit
    factors: dict[str, float] = {}
    at: Annotated[int, Meta(ge=0, le=1023)] | None = None  # frame: bytes from its first
    type: str = ""
    order: str = ""
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
