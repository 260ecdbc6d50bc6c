"""Framers: the same frames however the bytes are cut, none that is damaged, bounded work."""

import binascii
import random
import time
from collections.abc import Callable, Sequence
from functools import reduce
from operator import xor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.checksums import CHECKSUMS, Checksum
from drivers.framing import (
    FRAME_BYTES_MAX,
    LINE_BYTES_MAX,
    BinaryFramer,
    Framer,
    LengthField,
    LineFramer,
)
from tests.helpers.serial_device import crc16

START = b"\xaa\x55"
BINARY = ("sum8", "xor8", "crc16-modbus", "crc16-ccitt")
LINES = ("nmea", *BINARY)


def own_checksum(name: str, data: bytes) -> bytes:
    """The same, written a second time from the definitions; in a frame's order of bytes."""
    if name == "sum8":
        return bytes((sum(data) % 256,))
    if name in {"xor8", "nmea"}:
        return bytes((reduce(xor, data, 0),))
    if name == "crc16-modbus":
        return crc16(data)
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc.to_bytes(2)


def frame(name: str, payload: bytes) -> bytes:
    """AA 55, the frame's length, the payload, the checksum."""
    width = CHECKSUMS[name].width
    body = START + bytes((3 + len(payload) + width,)) + payload
    return body + own_checksum(name, body)


def line(name: str, text: bytes) -> bytes:
    """A line with its checksum in hexadecimal digits."""
    sum_ = own_checksum(name, text)
    if name == "crc16-modbus":
        sum_ = sum_[::-1]
    if name == "nmea":
        return b"$" + text + b"*" + sum_.hex().upper().encode() + b"\r\n"
    return text + sum_.hex().upper().encode() + b"\r\n"


def binary(name: str | None) -> BinaryFramer:
    checksum = CHECKSUMS[name] if name else None
    return BinaryFramer(START, LengthField(2, 1, False, 0), 5, checksum)


def lines(name: str | None, *, joining: bool = False) -> LineFramer:
    return LineFramer(b"\r\n", CHECKSUMS[name] if name else None, joining=joining)


def fed(framer: Framer, pieces: Sequence[bytes]) -> tuple[list[bytes], dict[str, int]]:
    found = [taken for piece in pieces for taken in framer.feed(piece)]
    return found, dict(framer.counts)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


CHUNKS = st.lists(st.integers(0, 4_000), max_size=30)
PAYLOAD = st.binary(min_size=1, max_size=40)
SENTENCE = st.binary(min_size=1, max_size=40).map(
    lambda raw: bytes(0x20 + byte % 0x5F for byte in raw).replace(b"$", b"s").replace(b"!", b"i")
)
# Noise that looks like something: starts, lengths, delimiters, pieces of them.
NOISE = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([START, b"\xaa", b"\xaa\x55\x06", b"\r\n", b"\r", b"$", b"$WI*00\r\n"]),
    ),
    max_size=12,
).map(b"".join)


@pytest.mark.parametrize("name", list(CHECKSUMS))
@given(data=st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_checksums_are_those_of_their_definitions(name: str, data: bytes) -> None:
    assert CHECKSUMS[name].packed(data) == own_checksum(name, data)


def test_checksums_have_their_published_check_values() -> None:
    data = b"123456789"
    assert CHECKSUMS["crc16-modbus"].value(data) == 0x4B37
    assert CHECKSUMS["crc16-ccitt"].value(data) == 0x29B1 == binascii.crc_hqx(data, 0xFFFF)
    assert CHECKSUMS["nmea"].written(b"GPGLL,5300.97914,N,00259.98174,E,125926,A") == b"28"


@pytest.mark.parametrize("make", [binary, lines])
@given(
    name=st.sampled_from([*BINARY, None]),
    data=st.lists(st.one_of(NOISE, PAYLOAD.map(lambda p: frame("sum8", p))), max_size=12),
    places=CHUNKS,
)
@settings(max_examples=150, deadline=None)
def test_any_cut_gives_the_same_frames_and_counts(
    make: Callable[[str | None], Framer],
    name: str | None,
    data: list[bytes],
    places: list[int],
) -> None:
    stream = b"".join(data)
    assert fed(make(name), cut(stream, places)) == fed(make(name), [stream])


@given(data=st.lists(st.binary(max_size=700), max_size=6), places=CHUNKS, joining=st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_cut_of_long_lines_too(data: list[bytes], places: list[int], joining: bool) -> None:
    stream = b"\r\n".join(piece.replace(b"\r", b"x") for piece in data)
    whole = fed(lines(None, joining=joining), [stream])
    assert fed(lines(None, joining=joining), cut(stream, places)) == whole
    assert all(len(taken) <= LINE_BYTES_MAX for taken in whole[0])


@pytest.mark.parametrize("name", BINARY)
@given(payloads=st.lists(PAYLOAD, min_size=1, max_size=6), places=CHUNKS)
@settings(max_examples=60, deadline=None)
def test_good_frames_are_all_taken(name: str, payloads: list[bytes], places: list[int]) -> None:
    stream = b"".join(frame(name, payload) for payload in payloads)
    found, counts = fed(binary(name), cut(stream, places))
    assert [taken[3:] for taken in found] == payloads
    assert not counts


@pytest.mark.parametrize("name", LINES)
@given(texts=st.lists(SENTENCE, min_size=1, max_size=6), places=CHUNKS)
@settings(max_examples=60, deadline=None)
def test_good_lines_are_all_taken(name: str, texts: list[bytes], places: list[int]) -> None:
    stream = b"".join(line(name, text) for text in texts)
    found, counts = fed(lines(name), cut(stream, places))
    assert [taken.removeprefix(b"$") for taken in found] == texts
    assert not counts


@pytest.mark.parametrize("name", BINARY)
@given(payload=PAYLOAD, at=st.integers(0, 10_000), by=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_frame_with_a_damaged_byte_is_refused(
    name: str, payload: bytes, at: int, by: int
) -> None:
    raw = bytearray(frame(name, payload))
    place = at % len(raw)
    if place == 2 and CHECKSUMS[name].width == 1:
        return  # eight bits do not guard where they stand themselves
    raw[place] ^= by
    good = frame(name, b"next")
    # A length that grew asks for 255 bytes at most; then what stands within them is found.
    found, _ = fed(binary(name), [bytes(raw), good, good, bytes(255)])
    assert [taken[3:] for taken in found].count(b"next") == 2
    assert bytes(raw)[: -CHECKSUMS[name].width] not in found


@pytest.mark.parametrize("name", LINES)
@given(text=SENTENCE, at=st.integers(0, 10_000), by=st.integers(1, 255))
@example(text=b"  ", at=2, by=1)
@settings(max_examples=150, deadline=None)
def test_a_line_with_a_damaged_byte_is_refused(name: str, text: bytes, at: int, by: int) -> None:
    raw = bytearray(line(name, text)[:-2])
    place = at % len(raw)
    before = raw[place]
    raw[place] ^= by
    if name == "nmea" and place == 0 and raw[0] in b"$!":
        return  # the sum does not cover the start: the pattern tells one from the other
    if bytes((before,)).lower() == bytes((raw[place],)).lower() and place >= len(raw) - 4:
        return  # hexadecimal digits in the other case are the same number
    found, _ = fed(lines(name), [bytes(raw) + b"\r\n", line(name, b"next")])
    assert [taken.removeprefix(b"$") for taken in found] == [b"next"]


@pytest.mark.parametrize("name", ["crc16-modbus", "crc16-ccitt"])
@given(payload=PAYLOAD, at=st.integers(0, 10_000), burst=st.binary(min_size=2, max_size=2))
@settings(max_examples=100, deadline=None)
def test_a_crc_finds_every_burst_of_16_bits(
    name: str, payload: bytes, at: int, burst: bytes
) -> None:
    if burst == b"\0\0":
        return
    raw = bytearray(frame(name, payload))
    place = 3 + at % max(1, len(raw) - 4)
    raw[place] ^= burst[0]
    raw[place + 1] ^= burst[1]
    found, _ = fed(binary(name), [bytes(raw)])
    assert bytes(raw)[:-2] not in found


@pytest.mark.parametrize("name", ["crc16-modbus", "crc16-ccitt"])
@given(noise=NOISE, payload=PAYLOAD)
@example(noise=START + b"\x30", payload=b"x")
@settings(max_examples=150, deadline=None, derandomize=True)  # one in 65,536 passes by chance
def test_after_noise_a_frame_is_found_again(name: str, noise: bytes, payload: bytes) -> None:
    """A false start may ask for 255 bytes; once they are there nothing of them is lost."""
    good = frame(name, payload)
    found, _ = fed(binary(name), [noise, good, good, bytes(255)])
    assert sum(taken == good[:-2] for taken in found) == 2


@given(noise=NOISE, text=SENTENCE)
@settings(max_examples=150, deadline=None)
def test_after_noise_the_next_line_but_one_is_whole(noise: bytes, text: bytes) -> None:
    good = line("crc16-modbus", text)
    found, _ = fed(lines("crc16-modbus"), [noise, good, good])
    assert found[-1] == text


def test_a_stream_that_is_joined_in_the_middle_of_a_line_begins_with_the_next() -> None:
    """12.5 may be the end of 112.5."""
    assert fed(lines(None, joining=True), [b"12.5\r", b"\n112.5\r\n"])[0] == [b"112.5"]
    assert fed(lines(None), [b"12.5\r\n"])[0] == [b"12.5"]


def test_a_marked_error_spoils_the_line_or_frame_under_way() -> None:
    text = lines(None)
    assert list(text.feed(b"1\r\n12")) == [b"1"]
    text.spoil()
    assert list(text.feed(b"34\r\n5\r\n")) == [b"5"]
    frames = binary("sum8")
    good = frame("sum8", b"abc")
    assert list(frames.feed(good[:4])) == []
    frames.spoil()
    assert list(frames.feed(good[4:] + good)) == [good[:-1]]
    assert text.counts == {"line_error": 1}
    assert frames.counts["line_error"] == 1


def test_a_pause_ends_what_only_seems_to_be_a_frame() -> None:
    """A damaged length asks for more than comes: a pause tells that it will not."""
    good = frame("sum8", b"abc")
    framer = binary("sum8")
    assert fed(framer, [START + b"\x60", good, good])[0] == []
    assert list(framer.pause()) == [good[:-1]] * 2
    assert list(framer.feed(good)) == [good[:-1]]
    bare = binary(None)
    assert list(bare.feed(good[:-2])) == []
    assert list(bare.pause()) == []
    assert list(bare.feed(good)) == [good], "nothing of the torn one"


def test_a_line_that_was_torn_is_not_joined_to_the_next() -> None:
    framer = lines(None)
    assert list(framer.feed(b"112.5\r\n11")) == [b"112.5"]
    assert list(framer.pause()) == []
    assert list(framer.feed(b"112.5\r\n112.5\r\n")) == [b"112.5"]
    assert framer.counts == {"noise": 1}
    checked = lines("sum8")
    good = line("sum8", b"112.5")
    assert list(checked.feed(good[:4])) == list(checked.pause()) == []
    assert list(checked.feed(good[4:])) == [b"112.5"], "the checksum tells"


def test_each_kind_of_damage_is_counted() -> None:
    assert fed(lines("nmea"), [b"$WI*00\r\n"])[1] == {"bad_checksum": 1}
    assert fed(lines(None), [b"a\0b\r\nx\x07\r\n"])[1] == {"noise": 2}
    assert fed(lines(None), [b"a" * 600, b"a" * 600 + b"\r\nb\r\n"]) == ([b"b"], {"too_long": 1})
    good = frame("sum8", b"abc")
    assert fed(binary("sum8"), [b"\1\2", good, b"\3", b"\4", good])[1] == {"noise": 2}
    assert fed(binary("sum8"), [good[:-1] + b"\0", good])[1] == {"bad_checksum": 1}


@pytest.mark.parametrize(
    "flood",
    [
        START + b"\xff",  # each three bytes are a new frame of 255
        b"\xaa",
        START,
        b"\r",
        b"$",
        b"\x00\xff",
    ],
)
def test_a_flood_costs_no_more_than_its_bytes(flood: bytes) -> None:
    """Four times the bytes, four times the work: with room for a busy machine, by thread time."""
    for make in (binary, lines):
        costs = []
        for count in (20_000, 80_000):
            stream = (flood * count)[:count]
            framer: Framer = make("crc16-modbus")
            begin = time.thread_time()
            found = fed(framer, [stream[at : at + 100] for at in range(0, count, 100)])[0]
            costs.append(time.thread_time() - begin)
            assert not found
        assert costs[1] < 12 * costs[0] + 0.05
        assert costs[1] / 80_000 < 20e-6, "seconds per byte; a line of 115,200 baud has 87 us"


@pytest.mark.parametrize("length", [16, FRAME_BYTES_MAX])
def test_a_flood_of_starts_is_checked_a_bounded_number_of_times(length: int) -> None:
    """Every byte may begin a frame: without a bound each would be checked ``length`` times."""
    looked_at = 0

    def value(data: bytes) -> int:
        nonlocal looked_at
        looked_at += len(data)
        return 0x1234

    framer = BinaryFramer(b"\xaa", length, 4, Checksum("never", 2, "big", value))
    count = 50_000
    assert fed(framer, [b"\xaa" * 100] * (count // 100))[0] == []
    assert looked_at <= 9 * (count + FRAME_BYTES_MAX)


def test_frames_keep_within_their_bounds() -> None:
    generator = random.Random(1)
    field = LengthField(2, 2, False, 0)
    framer = BinaryFramer(START, field, 6, CHECKSUMS["crc16-ccitt"])
    for _ in range(200):
        noise = generator.randbytes(generator.randrange(50))
        length = generator.randrange(65_536)
        list(framer.feed(noise + START + length.to_bytes(2) + generator.randbytes(30)))
        assert len(framer._buffer) <= FRAME_BYTES_MAX
