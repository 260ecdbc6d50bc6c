"""TagImage: what it stores, and that no reader sees half a write, whatever kills the writer."""

import ctypes
import math
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastpath.codes import Quality, Reason
from fastpath.image import TagImage
from fastpath.messages import SAMPLE


def sample(slot: int, value: float, mono_ns: int, quality: int = 2, reason: int = 0) -> bytes:
    return SAMPLE.pack(slot, quality, reason, 0, value, mono_ns, mono_ns + 1000)


def test_an_empty_slot_was_never_read() -> None:
    image = TagImage(2)
    assert image.count == 2
    _, quality, reason, mono_ns, utc_ns, source_utc_ns = image.get(1)
    assert (quality, reason) == (Quality.BAD, Reason.NEVER_READ)
    assert (mono_ns, utc_ns, source_utc_ns) == (0, 0, 0)


def test_put_and_get() -> None:
    image = TagImage(2)
    image.put(1, -1.25, Quality.UNCERTAIN, Reason.PRECISION, 5, -6, 7)
    assert image.get(1) == (-1.25, Quality.UNCERTAIN, Reason.PRECISION, 5, -6, 7)
    assert image.get(0)[1] == Quality.BAD
    image.put(1, math.nan, Quality.BAD, Reason.NOT_A_NUMBER, 6, 0, 0)
    assert math.isnan(image.get(1)[0])


def test_apply_stores_samples() -> None:
    image = TagImage(3)
    assert image.apply(sample(0, 1.0, 10) + sample(2, 2.0, 11, 0, 3) + sample(0, 3.0, 12)) == 3
    assert image.get(0) == (3.0, 2, 0, 12, 1012, 0)
    assert image.get(2) == (2.0, 0, 3, 11, 1011, 0)


def test_apply_leaves_out_what_is_older_or_elsewhere() -> None:
    image = TagImage(1)
    assert image.apply(sample(0, 1.0, 10) + sample(0, 2.0, 9) + sample(1, 3.0, 11)) == 1
    assert image.get(0)[0] == 1.0
    assert image.apply(sample(0, 4.0, 10)) == 1  # of the same time: the later word counts
    assert image.get(0)[0] == 4.0
    assert image.apply(b"") == 0


def test_half_a_sample() -> None:
    with pytest.raises(ValueError, match="whole"):
        TagImage(1).apply(bytes(33))


@pytest.mark.parametrize("slot", [2, 2**31])
def test_a_slot_outside(slot: int) -> None:
    image = TagImage(2)
    with pytest.raises(IndexError):
        image.get(slot)
    with pytest.raises(IndexError):
        image.put(slot, 0.0, 2, 0, 0, 0, 0)


def test_an_image_without_slots() -> None:
    image = TagImage(0)
    assert image.apply(sample(0, 1.0, 1)) == 0
    with pytest.raises(IndexError):
        image.get(0)


# ---- the slot's lock -------------------------------------------------------------------------

KILLS = 25
WRITES = 200_000  # of each writer before it is killed


@pytest.fixture
def shared() -> Iterator[int]:
    """Address of a slot in memory that a child process shares."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    view = ctypes.c_char.from_buffer(memory)
    yield ctypes.addressof(view)
    del view
    memory.close()


def killed_while_writing(inside: Any, address: int, look: Callable[[], None]) -> None:
    """Let a child write the slot without a pause, look at it, and kill the child somewhere."""
    child = os.fork()
    if child == 0:
        inside.write_for_ever(address)
    try:
        look()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_no_read_is_torn_while_a_writer_writes_and_is_killed(inside: Any, shared: int) -> None:
    whole = torn = 0

    def look() -> None:
        nonlocal whole, torn
        until = inside.lock_of(shared) + 2 * WRITES
        while inside.lock_of(shared) < until:
            good, _, bad = inside.read_often(shared, 1000)
            whole += good
            torn += bad

    for _ in range(KILLS):
        killed_while_writing(inside, shared, look)
        _, unreadable, bad = inside.read_often(shared, 3)
        assert bad == 0
        assert unreadable in (0, 3)  # left locked: never a wait, unreadable until the next write
        inside.write_once(shared, 1000)
        assert inside.read_often(shared, 3) == (3, 0, 0)
    assert whole > 10_000  # the reads and the writes did overlap
    assert torn == 0


def test_a_lock_left_odd_is_taken_over(inside: Any, shared: int) -> None:
    inside.write_once(shared, 4)
    assert inside.lock_of(shared) == 2
    ctypes.c_uint64.from_address(shared).value = 7
    assert inside.read_often(shared, 2) == (0, 2, 0)
    inside.write_once(shared, 5)
    assert inside.lock_of(shared) == 8
    assert inside.read_often(shared, 2) == (2, 0, 0)


def test_touch_refreshes_the_age_alone_and_never_makes_older(inside: Any, shared: int) -> None:
    inside.write_once(shared, 4)
    inside.touch(shared, 3)
    assert inside.lock_of(shared) == 2
    inside.touch(shared, 9)
    assert inside.lock_of(shared) == 4
    slot = (ctypes.c_int64 * 4).from_address(shared)
    assert list(slot)[2:] == [9, 4]
