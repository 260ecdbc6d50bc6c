"""Codec 1 read in plain Python: the definition of the format, slow and short."""

import struct
import zlib
from typing import Final

HEAD, CALM, TIME, TIME_HIGH, VALUE, STREAMS = 0, 1, 2, 3, 4, 12
FIRST_MS: Final = 9_223_372_036_854
MS_NS: Final = 1_000_000
GOOD: Final = 2
TRACKING: Final = 16


class Bytes:
    """A stream that is read from its begin to its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        assert len(found) == count
        self.at += count
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7


def varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def line(samples: int, tags: int, first_ms: int) -> bytes:
    """How a body of shared times begins."""
    return b"\x11" + varint(samples) + varint(tags) + varint(first_ms + FIRST_MS)


def unzigzag(number: int) -> int:
    return (number >> 1) ^ -(number & 1)


def towards_zero(number: int, by: int) -> int:
    return number // by if number >= 0 else -(-number // by)


def planes(streams: list[Bytes], first: int, count: int) -> list[int]:
    numbers = [0] * count
    width = streams[HEAD].byte()
    noise = streams[HEAD].byte() if width else 0
    for plane in range(width):
        own = TIME_HIGH if first == TIME and plane else first + plane
        column = streams[own if noise >> plane & 1 else CALM].take(count)
        for i, byte in enumerate(column):
            numbers[i] |= byte << 8 * plane
    return numbers


def sequence(streams: list[Bytes], count: int) -> list[int]:
    first = streams[HEAD].varint()
    if count == 1:
        return [first]
    unit, period = streams[HEAD].varint(), streams[HEAD].varint()
    found, expected = [first], 0
    for raw in planes(streams, TIME, count - 1):
        off = unzigzag(raw)
        expected += TRACKING * period
        number = towards_zero(expected + TRACKING // 2, TRACKING) + off
        expected = expected + off if abs(off) <= period // 2 else TRACKING * number
        found.append(first + number * unit)
    return found


def qualities(streams: list[Bytes], count: int) -> list[int]:
    runs = streams[HEAD].varint()
    if not runs:
        return list(streams[CALM].take(count))
    found: list[int] = []
    for _ in range(runs):
        length = streams[HEAD].varint()
        found += [streams[HEAD].byte()] * length
    return found


def values(streams: list[Bytes], form: int, count: int) -> list[float]:
    head = streams[HEAD]
    if form == 21:
        one, other = struct.unpack("<dd", head.take(16))
        room = streams[CALM].take((count + 7) // 8)
        return [other if room[i >> 3] >> (i & 7) & 1 else one for i in range(count)]
    if form in {19, 20}:
        size, layout = (4, "<f") if form == 19 else (8, "<d")
        bits, found = 0, []
        raw = [int.from_bytes(head.take(size), "little")]
        raw += planes(streams, VALUE, count - 1) if count > 1 else []
        for change in raw:
            bits ^= change
            found.append(struct.unpack(layout, bits.to_bytes(size, "little"))[0])
        return found
    return decimals(streams, form, count)


def decimals(streams: list[Bytes], form: int, count: int) -> list[float]:
    head, exceptions = streams[HEAD], {}
    if form & 32:
        at = 0
        for _ in range(head.varint()):
            at += head.varint()
            length = head.varint()
            value = struct.unpack("<d", head.take(8))[0]
            exceptions.update(dict.fromkeys(range(at, at + length), value))
            at += length
    form &= 31
    single = form >= 11
    scale = 10.0 ** (form - 11 if single else form - 1)
    raw = [head.varint(), *(planes(streams, VALUE, count - 1) if count > 1 else [])]
    integer, found = 0, []
    for i, change in enumerate(raw):
        integer += unzigzag(change)
        value = integer / scale
        if single:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        found.append(exceptions.get(i, value))
    return found


def unpack(body: bytes) -> list[list[tuple[int, float, int]]]:
    """Of each tag (UTC ns, value, quality byte) of its samples."""
    line = Bytes(body)
    shared = line.byte() & 1
    samples, tags = line.varint(), line.varint()
    if not samples:
        return [[] for _ in range(tags)]
    first_ms, present = line.varint() - FIRST_MS, line.varint()
    sizes = []
    for stream in range(STREAMS):
        length = line.varint() if present >> stream & 1 else 0
        sizes.append((length & 1, line.varint() if length & 1 else length >> 1))
    streams = [
        Bytes(zlib.decompress(line.take(size), -15) if deflated else line.take(size))
        for deflated, size in sizes
    ]
    head = streams[HEAD]
    steps = sequence(streams, head.varint()) if shared else []
    times = steps
    found: list[list[tuple[int, float, int]]] = []
    for _ in range(tags):
        said = head.byte()
        if not said:
            found.append([])
            continue
        if said & 1:
            times = sequence(streams, head.varint())
            times = [steps[place] for place in times] if shared else times
        elif shared:
            times = steps
        odd = qualities(streams, len(times)) if said & 2 else [GOOD] * len(times)
        column = values(streams, said >> 2, len(times))
        found.append(
            [
                ((first_ms + ms) * MS_NS, value, quality)
                for ms, value, quality in zip(times, column, odd, strict=True)
            ]
        )
    return found
