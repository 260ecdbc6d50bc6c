"""Checksums of serial instruments: how long each is, what it is, how it is written.

sum8, xor8 and NMEA 0183 find every single damaged byte, the CRCs every burst of 16 bits as well;
of damage beyond that one in 256 (or 65,536) passes, and of a damaged length as many.
"""

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from fastpath import rtu

_CCITT_FIRST: Final = 0xFFFF  # CRC-16/CCITT-FALSE: x16 + x12 + x5 + 1, all ones first


@dataclass(frozen=True, slots=True)
class Checksum:
    """One way to check. In a frame it is ``width`` bytes at the end, in a line hex digits."""

    name: str
    width: int  # bytes
    order: Literal["little", "big"]  # of its bytes in a frame; in a line it is always a number
    value: Callable[[bytes], int]

    def packed(self, data: bytes) -> bytes:
        """As it stands at the end of a frame."""
        return self.value(data).to_bytes(self.width, self.order)

    def written(self, data: bytes) -> bytes:
        """As it stands at the end of a line: hex digits, high byte first."""
        return b"%0*X" % (2 * self.width, self.value(data))


def _sum8(data: bytes) -> int:
    return sum(data) & 0xFF


def xor8(data: bytes) -> int:
    """All bytes one over the other."""
    folded, width = int.from_bytes(data), 1 << max(0, len(data) - 1).bit_length()
    while width > 1:
        width //= 2
        folded = (folded >> (8 * width)) ^ (folded & ((1 << (8 * width)) - 1))
    return folded


def _crc16_modbus(data: bytes) -> int:
    return rtu.crc(data)


def _crc16_ccitt(data: bytes) -> int:
    return binascii.crc_hqx(data, _CCITT_FIRST)


CHECKSUMS: Final = {
    each.name: each
    for each in (
        Checksum("nmea", 1, "big", xor8),  # between $ and *, which only a line has
        Checksum("sum8", 1, "big", _sum8),
        Checksum("xor8", 1, "big", xor8),
        Checksum("crc16-modbus", 2, "little", _crc16_modbus),
        Checksum("crc16-ccitt", 2, "big", _crc16_ccitt),
    )
}
NMEA: Final = "nmea"
