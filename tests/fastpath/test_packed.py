"""Codec 1: every bit comes back, and what is damaged is refused."""

import math
import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpath import columns
from fastpath.codes import Quality
from fastpath.columns import ABSENT, CODEC_PACKED, CODEC_PLAIN, Block, merge
from tests.fastpath import packed_reference

MS = 1_000_000
MS_MIN, MS_MAX = -(2**63 // MS), 2**63 // MS
GOOD = int(Quality.GOOD)
Sample = tuple[int, float, int]  # UTC ns, value, quality byte
Tags = list[list[Sample]]  # of each tag by time
Piece = tuple[list[int], int, bytes]


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def exact(tags: Iterable[Iterable[Sample]]) -> list[list[tuple[int, bytes, int]]]:
    return [[(at_ns, bits(value), quality) for at_ns, value, quality in tag] for tag in tags]


def piece_of(tags: Sequence[Sequence[Sample]]) -> bytes:
    """A codec 0 body with a time for every sample, which any samples fit into."""
    count = sum(len(tag) for tag in tags)
    times, values, qualities, at = [0] * count, [], [], 0
    for tag in tags:
        column, odd = [math.nan] * count, bytearray([ABSENT] * count)
        for at_ns, value, quality in tag:
            times[at], column[at], odd[at] = at_ns, value, quality
            at += 1
        values.append(column)
        qualities.append(bytes(odd))
    return columns.pack(times, values, qualities)


def packed(tags: Sequence[Sequence[Sample]]) -> bytes:
    return merge([(list(range(len(tags))), CODEC_PLAIN, piece_of(tags))], len(tags))


def series(block: Block, tags: int) -> Tags:
    return [block.series(place, -(2**63), 2**63 - 1) for place in range(tags)]


def sorted_in_ms(tags: Sequence[Sequence[Sample]]) -> Tags:
    cut = [[(at_ns // MS * MS, value, quality) for at_ns, value, quality in tag] for tag in tags]
    return [sorted(tag, key=lambda sample: sample[0]) for tag in cut]


def of_message(message: tuple[list[int], list[int], list[list[float]], list[bytes]]) -> Counter[
    tuple[int, int, bytes, int]
]:  # fmt: skip
    """(place, UTC ns, value, quality byte) of all that is present."""
    times, places, values, qualities = message
    assert len(places) == len(values) == len(qualities)
    found: Counter[tuple[int, int, bytes, int]] = Counter()
    for place, column, odd in zip(places, values, qualities, strict=True):
        assert set(odd) != {ABSENT}
        for at_ns, value, quality in zip(times, column, odd, strict=True):
            if quality == ABSENT:
                assert math.isnan(value)
            else:
                found[place, at_ns, bits(value), quality] += 1
    return found


def counted(tags: Iterable[Iterable[Sample]]) -> Counter[tuple[int, int, bytes, int]]:
    return Counter(
        (place, at_ns, bits(value), quality)
        for place, tag in enumerate(tags)
        for at_ns, value, quality in tag
    )


any_bits = st.integers(0, 2**64 - 1).map(lambda raw: struct.unpack("<d", raw.to_bytes(8, "little")))
decimals = st.builds(
    lambda digits, e: float(round(digits / 10**e, e)), st.integers(-(10**9), 10**9),
    st.integers(0, 10),
)  # fmt: skip
singles = st.floats(width=32)
short_singles = decimals.map(lambda v: struct.unpack("<f", struct.pack("<f", v))[0])
odd_values = st.sampled_from([0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 5e-324, 2.0**51])
KINDS = st.sampled_from(
    [
        decimals, singles, short_singles, st.floats(), any_bits.map(lambda v: float(v[0])),
        st.sampled_from([0.0, 1.0]), st.just(21.5), decimals | odd_values,
        st.integers(-(2**53), 2**53).map(float),
    ]
)  # fmt: skip
qualities = st.just(GOOD) | st.sampled_from([0, GOOD, 5]) | st.integers(0, ABSENT - 1)


@st.composite
def tags(draw: st.DrawFn) -> Tags:
    """Of each tag samples of one kind, at times that it shares with others or has alone."""
    grid = sorted(draw(st.lists(st.integers(MS_MIN + 1, MS_MAX - 1), max_size=3)))
    if draw(st.booleans()):
        start, period = draw(st.integers(0, 2**40)), draw(st.integers(1, 5000))
        grid += [start + period * i for i in range(draw(st.integers(0, 60)))]
    found = []
    for _ in range(draw(st.integers(1, 5))):
        values, odd = draw(KINDS), draw(st.sampled_from([st.just(GOOD), qualities]))
        jitter = draw(st.sampled_from([0, 0, 3]))
        some = draw(st.sampled_from([st.just(True), st.booleans(), st.just(False)]))
        tag = [
            (
                min(MS_MAX - 1, max(MS_MIN + 1, ms + draw(st.integers(-jitter, jitter)))) * MS,
                draw(values), draw(odd),
            )
            for ms in grid
            if draw(some)
        ]  # fmt: skip
        found.append(tag)
    return found


@given(tags())
@settings(max_examples=200)
def test_every_bit_comes_back(given_: Tags) -> None:
    body = packed(given_)
    block = Block(CODEC_PACKED, body, len(given_))
    assert exact(series(block, len(given_))) == exact(sorted_in_ms(given_))
    assert block.samples == sum(map(len, given_))
    times = [sample[0] for tag in given_ for sample in tag] or [0]
    assert (block.t_first_ns, block.t_last_ns) == (min(times), max(times))
    assert exact(packed_reference.unpack(body)) == exact(sorted_in_ms(given_))


@given(tags())
@settings(max_examples=100)
def test_messages_are_all_of_it_once(given_: Tags) -> None:
    block = Block(CODEC_PACKED, packed(given_), len(given_))
    found: Counter[tuple[int, int, bytes, int]] = Counter()
    for index in range(block.messages()):
        part = of_message(block.message(index))
        assert 0 < part.total() <= 1000
        found += part
    assert found == counted(sorted_in_ms(given_))
    with pytest.raises(IndexError):
        block.message(block.messages())


@given(tags(), st.sampled_from([CODEC_PLAIN, CODEC_PACKED]))
@settings(max_examples=100)
def test_a_piece_is_one_message_whatever_its_shape(given_: Tags, codec: int) -> None:
    body = piece_of(given_) if codec == CODEC_PLAIN else packed(given_)
    block = Block(codec, body, len(given_))
    assert block.samples == sum(map(len, given_))
    whole = block.whole()
    cut = given_ if codec == CODEC_PLAIN else sorted_in_ms(given_)
    assert of_message(whole) == counted(cut)
    assert whole[0] == sorted(whole[0])


@given(st.lists(tags(), max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_merging_is_joining_and_sorting_by_time(pieces: list[Tags], chance: Any) -> None:
    group: Tags = [[] for _ in range(9)]
    given_: list[Piece] = []
    for piece in pieces:
        places = chance.sample(range(9), len(piece))
        for place, tag in zip(places, piece, strict=True):
            group[place] += tag
        codec = chance.choice([CODEC_PLAIN, CODEC_PACKED])
        given_.append((places, codec, piece_of(piece) if codec == CODEC_PLAIN else packed(piece)))
    if any(codec == CODEC_PACKED for _, codec, _ in given_):  # sorted before they are merged
        group = sorted_in_ms(group)
    block = Block(CODEC_PACKED, merge(given_, 9), 9)
    assert counted(series(block, 9)) == counted(sorted_in_ms(group))
    for tag in series(block, 9):
        assert [sample[0] for sample in tag] == sorted(sample[0] for sample in tag)


def test_of_one_time_the_order_is_that_of_arrival() -> None:
    pieces = [packed([[(5 * MS, float(value), GOOD)]]) for value in (3, 1, 2)]
    body = merge([([0], CODEC_PACKED, piece) for piece in pieces], 1)
    assert [s[1] for s in Block(CODEC_PACKED, body, 1).series(0, 0, 9 * MS)] == [3.0, 1.0, 2.0]


def plant(polls: int, jitter_ms: int, count: int = 40) -> Tags:
    """Walks, values that stand still, switches; a device failure; times shared or not."""
    chance = random.Random(1)
    found: Tags = [[] for _ in range(count)]
    values = [chance.uniform(0, 100) for _ in range(count)]
    for poll in range(polls):
        for place in range(count):
            if place % 10 < 5:
                values[place] += chance.gauss(0, 0.1)
            elif place % 10 >= 8 and chance.random() < 0.02:
                values[place] = float(chance.random() < 0.5)
            bad = place < 20 and 50 <= poll < 60
            ms = 1_750_000_000_000 + 1000 * poll + chance.randint(-jitter_ms, jitter_ms)
            value = math.nan if bad else round(values[place], 3)
            found[place].append((ms * MS, value, 12 if bad else GOOD))
    return found


@pytest.mark.parametrize("jitter_ms", [0, 3])
def test_a_plant(jitter_ms: int) -> None:
    given_ = plant(300, jitter_ms)
    body = packed(given_)
    block = Block(CODEC_PACKED, body, 40)
    assert exact(series(block, 40)) == exact(given_)
    assert exact(packed_reference.unpack(body)) == exact(given_)
    assert merge([(list(range(40)), CODEC_PACKED, body)], 40) == body
    messages = [block.message(i) for i in range(block.messages())]
    assert len(messages) == (12 if jitter_ms == 0 else 40)
    assert {len(message[1]) for message in messages} == ({40} if jitter_ms == 0 else {1})
    assert sum((of_message(m) for m in messages), Counter()) == counted(given_)


def test_more_tags_than_a_message_takes() -> None:
    """In parts of at most 1,000 tags; none of them is empty."""
    given_: Tags = [[(ms * MS, 1.5, GOOD) for ms in (1, 2)] for _ in range(2500)]
    given_[1000:2000] = [[(1 * MS, 1.5, GOOD)]] * 1000
    block = Block(CODEC_PACKED, packed(given_[:100]), 100)
    assert block.messages() == 1
    body = merge(
        [(list(range(at, at + 100)), CODEC_PLAIN, piece_of(given_[at : at + 100]))
         for at in range(0, 2500, 100)], 2500,
    )  # fmt: skip
    block = Block(CODEC_PACKED, body, 2500)
    messages = [block.message(i) for i in range(block.messages())]
    assert [len(message[1]) for message in messages] == [1000, 1000, 1000, 500]
    assert sum((of_message(m) for m in messages), Counter()) == counted(given_)


@pytest.mark.parametrize("jitter_ms", [0, 3])
@pytest.mark.parametrize(("polls", "each"), [(1, 1), (4, 1), (60, 5), (400, 61)])
def test_damage_of_every_byte(polls: int, each: int, jitter_ms: int) -> None:
    body = packed(plant(polls, jitter_ms, 12))
    chance = random.Random(polls)
    refused = 0
    for at in [*range(40), *range(40, len(body), each)]:
        for byte in {body[at] ^ 1, body[at] ^ 0x80, chance.randrange(256), 0, 255} - {body[at]}:
            damaged = body[:at] + bytes([byte]) + body[at + 1 :]
            try:
                block = Block(CODEC_PACKED, damaged, 12)
            except ValueError:
                refused += 1
                continue
            assert block.samples == 12 * polls
            assert sum(map(len, series(block, 12))) == block.samples
            messages = [of_message(block.message(i)) for i in range(block.messages())]
            assert sum(message.total() for message in messages) == block.samples
    assert refused > 40


@given(st.binary(max_size=80), st.integers(0, 5))
@example(b"\x11\x00\x01", 1)
@example(b"\x11\xff\xff\xff\x7f\x01", 1)
def test_bytes_that_are_no_body(body: bytes, count: int) -> None:
    try:
        block = Block(CODEC_PACKED, body, count)
    except ValueError:
        return
    assert sum(map(len, series(block, count))) == block.samples


@pytest.mark.parametrize("by", [1, 2, 7, 100])
def test_a_body_cut_or_grown(by: int) -> None:
    body = packed(plant(50, 0))
    for damaged in (body[:-by], body + bytes(by), body[by:]):
        with pytest.raises(ValueError, match=r"short|bytes|stream|columns|samples"):
            Block(CODEC_PACKED, damaged, 40)


def test_a_stream_that_inflates_without_end() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = bomb.compress(bytes(1 << 26)) + bomb.flush()
    line = packed_reference.line(samples=1000, tags=1, first_ms=0)
    for length in (1000, 1 << 23, 1 << 40):
        streams = packed_reference.varint(length << 1 | 1) + packed_reference.varint(len(data))
        with pytest.raises(ValueError, match=r"stream"):
            Block(CODEC_PACKED, line + packed_reference.varint(1) + streams + data, 1)


@pytest.mark.parametrize(
    ("codec", "count"), [(CODEC_PACKED, 3), (CODEC_PACKED, 2**21), (CODEC_PLAIN, 1), (2, 2)]
)
def test_a_body_of_another_group_or_codec(codec: int, count: int) -> None:
    body = packed([[(MS, 1.0, GOOD)], []])
    with pytest.raises(ValueError, match=r"tags|codec"):
        Block(codec, body, count)


@pytest.mark.parametrize("piece", [([0], 1, b""), ([9], 0, columns.pack([], [[]], [b""])),
                                   (range(9), 0, b""), ([0], 7, b"")])  # fmt: skip
def test_a_piece_that_is_none(piece: Piece) -> None:
    with pytest.raises(ValueError, match=r"place|piece|codec|columns"):
        merge([piece], 2)


def test_more_samples_than_a_body_takes() -> None:
    half = columns.SAMPLES_MAX // 2 + 1
    tag = [(i * MS, 0.0, GOOD) for i in range(half)]
    body = packed([tag])
    assert len(body) < 4096
    with pytest.raises(ValueError, match="too many"):
        merge([([0], CODEC_PACKED, body)] * 2, 1)


def test_nothing_at_all() -> None:
    body = merge([], 7)
    block = Block(CODEC_PACKED, body, 7)
    assert (block.samples, block.messages(), block.t_first_ns, block.t_last_ns) == (0, 0, 0, 0)
    assert block.whole() == ([], [], [], [])
    assert block.series(6, 0, MS) == []
    with pytest.raises(IndexError):
        block.series(7, 0, MS)


def test_a_thin_body_is_no_single_message() -> None:
    body = packed([[((40 * i + place) * MS, 1.0, GOOD) for i in range(30)] for place in range(40)])
    block = Block(CODEC_PACKED, body, 40)
    assert block.messages() == 40
    with pytest.raises(ValueError, match="times"):
        block.whole()
