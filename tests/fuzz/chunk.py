"""Bodies of sample columns as they come from a disk: refused, or whole whichever way they are read.

Input: codec, number of tags, the body.
"""

import math
import random
import struct
from collections.abc import Iterator
from itertools import pairwise

from fastpath.columns import ABSENT, CODEC_PACKED, CODEC_PLAIN, Block, merge, pack
from tests.fuzz.reader import Reader

MAX_BYTES = 1200
TAGS_MAX = 8
SAMPLES_CHECKED_MAX = 4_000
MS = 1_000_000
EVER = (-(2**63), 2**63 - 1)
Samples = list[tuple[int, bytes, int]]


def run(data: bytes) -> int:
    """Decode a body, and read it in every way."""
    reader = Reader(data)
    codec, tags = reader.number() % 3, reader.number() % (TAGS_MAX + 1)
    body = reader.take(reader.left)
    try:
        block = Block(codec, body, tags)
    except ValueError as error:
        return sum(map(ord, str(error)[-12:])) % 200
    assert codec in {CODEC_PLAIN, CODEC_PACKED}
    series = [_exact(block, place) for place in range(tags)]
    assert sum(map(len, series)) == block.samples
    if block.samples > SAMPLES_CHECKED_MAX:
        return 200 + block.samples.bit_length()
    _check_messages(block)
    again = Block(CODEC_PACKED, merge([(range(tags), codec, body)], tags), tags)
    for place, own in enumerate(series):
        cut = sorted(((s[0] // MS, s[1], s[2]) for s in own), key=lambda s: s[0])
        assert [(s[0] // MS, s[1], s[2]) for s in _exact(again, place)] == cut
    return 250 + 16 * min(15, block.messages()) + block.samples.bit_length()


def _exact(block: Block, place: int) -> Samples:
    series = block.series(place, *EVER)
    assert all(a[0] <= b[0] for a, b in pairwise(series))
    assert all(quality != ABSENT for _, _, quality in series)
    return [(at_ns, struct.pack("<d", value), quality) for at_ns, value, quality in series]


def _check_messages(block: Block) -> None:
    found = 0
    for index in range(block.messages()):
        times, places, values, qualities = block.message(index)
        present = sum(byte != ABSENT for column in qualities for byte in column)
        assert 0 < present <= 1000
        assert len(places) == len(values) == len(qualities)
        assert {len(column) for column in (*values, *qualities)} == {len(times)}
        found += present
    assert found == block.samples
    try:
        *_, qualities = block.whole()
    except ValueError:
        return
    assert sum(byte != ABSENT for column in qualities for byte in column) == found


def seeds() -> Iterator[bytes]:
    """Shared times and own ones, every form of values, gaps, odd qualities."""
    chance = random.Random(1)
    columns = [
        [round(chance.gauss(50, 1), 3) for _ in range(40)],
        [float(chance.random() < 0.5) for _ in range(40)],
        [struct.unpack("<f", struct.pack("<f", chance.random()))[0] for _ in range(40)],
        [struct.unpack("<f", struct.pack("<f", i / 10))[0] for i in range(40)],
        [chance.random() for _ in range(40)],
        [21.5] * 20 + [math.nan] + [21.5] * 19,
    ]
    for jitter in (0, 1):
        pieces = []
        for place, column in enumerate(columns):
            times = [(1000 * i + jitter * chance.randint(-3, 3)) * MS for i in range(40)]
            odd = bytes(ABSENT if place == 3 and i % 9 == 0 else 2 + 2 * (i % 5) for i in range(40))
            pieces.append(([place], CODEC_PLAIN, pack(times, [column], [odd])))
        for count in (1, 3, len(columns)):
            yield bytes((CODEC_PACKED, count)) + merge(pieces[:count], count)
            yield bytes((CODEC_PLAIN, 1)) + pieces[count - 1][2]
    for place in range(len(columns)):
        yield bytes((CODEC_PACKED, 1)) + merge([([0], *pieces[place][1:])], 1)
