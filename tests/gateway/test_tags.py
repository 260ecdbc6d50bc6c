"""The tag table: from the image, from guard.shm, and what is too old to be believed."""

import math
from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from fastpath.codes import NONE_U32, Owner, Quality, Reason
from fastpath.image import TagImage
from gateway.guard.apply import Running
from gateway.plant.tags import TagTable
from gateway.site.model import Config, Device, Duration, Site, Tag

S = 1_000_000_000

CONFIG = Config(
    site=Site(id="s"),
    device=(
        Device(id="fast", driver="modbus-tcp", address="127.0.0.1:1", fast=True),
        Device(id="slow", driver="modbus-tcp", address="127.0.0.1:1"),
    ),
    tag=(
        Tag(id="a", device="slow", stale_after=Duration(2 * S)),
        Tag(id="b", device="fast", stale_after=Duration(2 * S)),
    ),
)


def guard_slot(value: float, mono_ns: int, owner: int = Owner.GUARD) -> SimpleNamespace:
    return SimpleNamespace(
        value=value, quality=2, reason=0, mono_ns=mono_ns, utc_ns=1, source_utc_ns=0, owner=owner
    )


def table(slots: list[SimpleNamespace] | None, *, known: bool = True) -> tuple[TagTable, TagImage]:
    image = TagImage(2)
    running = Running(
        bytes(32), {}, array("I", [1]), array("I", [NONE_U32, 0 if known else NONE_U32])
    )
    view: Any = None
    if slots is not None:
        view = SimpleNamespace(slot=slots.__getitem__, slots=lambda count: slots[:count])
    return TagTable(CONFIG, image, lambda: view, lambda: running), image


def test_ids_and_index() -> None:
    made, _ = table(None)
    assert made.ids == ("a", "b")
    assert made.index == {"a": 0, "b": 1}
    assert made.fast == (False, True)


def test_never_read_has_no_value() -> None:
    made, _ = table(None)
    seen = made.read(0, 5 * S)
    assert math.isnan(seen.value)
    assert (seen.quality, seen.reason) == (Quality.BAD, Reason.NEVER_READ)


def test_a_slow_tag_goes_stale() -> None:
    made, image = table(None)
    image.put(0, 4.5, Quality.GOOD, 0, 1 * S, 7, 8)
    assert made.read(0, 3 * S) == (4.5, Quality.GOOD, 0, 1 * S, 7, 8)
    assert made.read(0, 3 * S + 1)[:3] == (4.5, Quality.BAD, Reason.STALE)


@pytest.mark.parametrize(
    ("slots", "known", "expected"),
    [
        ([guard_slot(2.0, 4 * S)], True, 2.0),  # its age is the guard's, not the journal's
        ([guard_slot(2.0, 4 * S, Owner.GATEWAY)], True, 1.0),
        ([guard_slot(2.0, 4 * S)], False, 1.0),
        (None, True, 1.0),
    ],
)
def test_a_fast_tag_is_read_where_the_guard_feeds_it(
    slots: list[SimpleNamespace] | None, known: bool, expected: float
) -> None:
    made, image = table(slots, known=known)
    image.put(1, 1.0, Quality.GOOD, 0, 4 * S, 7, 8)
    assert made.read(1, 5 * S).value == expected
    assert [seen.value for seen in made.read_all(made._view(), 5 * S)][1] == expected
