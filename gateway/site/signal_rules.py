"""What a tag's ``signal`` may say, and what of it the guard's own scale, offset and range can.

4-20 mA by NAMUR NE 43: a measurement from 3.8 to 20.5 mA, a failure below 3.6 and above 21 mA;
between them the instrument is driven to its end.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import msgspec
from msgspec import structs

from gateway.site.complaints import shown
from gateway.site.model import Point, Signal, Tag

ZERO_MA: Final = 4.0
FULL_MA: Final = 20.0
SPAN_MA: Final = FULL_MA - ZERO_MA
MEASURED_MA: Final = (3.8, 20.5)
FAILED_MA: Final = (3.6, 21.0)  # beyond these

_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?: (\S.*?))?/(ms|s|min|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}

Flaw = tuple[tuple[str, ...], str]  # the keys under the tag, and the words


def flaws_of(tag: Tag, *, fast: bool, boolean: bool) -> Iterator[Flaw]:
    """What is wrong with the signal of a tag whose keys are each fit by themselves."""
    signal = tag.signal
    if signal is None:
        return
    if boolean or (tag.point is not None and tag.point.type == "text"):
        yield ("signal",), "found it on a tag that is no number, expected none"
        return
    yield from _flaws_of_kind(signal)
    yield from _flaws_of_table(signal, tag.range)
    if signal.kind == "4-20mA" and tag.range is None and not signal.table:
        text = 'found nothing, expected [low, high]: what 4 and 20 mA mean (kind = "4-20mA")'
        yield ("range",), text
    if signal.rate_max is not None and rate_of(signal.rate_max, tag.unit) is None:
        unit = f" {tag.unit}" if tag.unit else ""
        text = f'found {shown(signal.rate_max)}, expected a rate such as "5{unit}/s"'
        yield ("signal", "rate_max"), text
    if fast:
        yield from _beyond_the_guard(signal)


def rate_of(text: str, unit: str) -> float | None:
    """``5 %CH4/min`` as the tag's units per second; None for what is none, or 0."""
    match = _RATE.fullmatch(text)
    if match is None or (match[2] or "") != unit:
        return None
    return float(match[1]) / _SECONDS[match[3]] or None


def folded(tag: Tag) -> Tag:
    """A tag of the guard's with its signal said by scale, offset and range.

    What NE 43 calls driven to its end is out of range there, or good with ``uncertain = "use"``:
    the guard knows no third quality of its own readings.
    """
    signal, point, limits = tag.signal, tag.point, tag.range
    if signal is None or point is None or limits is None or signal.kind != "4-20mA":
        return structs.replace(tag, signal=None)
    low, high = limits
    per_ma = (high - low) / SPAN_MA
    ends = FAILED_MA if tag.uncertain == "use" else MEASURED_MA
    return structs.replace(
        tag,
        signal=None,
        point=_scaled(point, per_ma, low),
        range=(low + (ends[0] - ZERO_MA) * per_ma, low + (ends[1] - ZERO_MA) * per_ma),
    )


def reach_of(tag: Tag) -> tuple[float, float] | None:
    """Between which values a tag moves; a total has a range of its register alone."""
    return None if tag.signal is not None and tag.signal.kind == "counter" else tag.range


def signal_text(signal: Signal) -> str:
    """A signal in one line, without what it leaves out."""
    said = msgspec.to_builtins(signal)
    kept = {key: value for key, value in said.items() if value not in (None, False, 0.0, [], ())}
    return shown(kept)


def _scaled(point: Point, per_ma: float, low: float) -> Point:
    offset = (point.offset - ZERO_MA) * per_ma + low
    return structs.replace(point, scale=point.scale * per_ma, offset=offset)


def _flaws_of_kind(signal: Signal) -> Iterator[Flaw]:
    if signal.sqrt and signal.kind != "4-20mA":
        yield ("signal", "sqrt"), 'found true, expected it with kind = "4-20mA"'
    if signal.sqrt and signal.table:
        yield ("signal", "table"), "found it with sqrt = true, expected one of the two"
    if signal.cutoff and not signal.sqrt:
        yield ("signal", "cutoff"), "found it without sqrt = true, expected none"
    for key in ("bits", "wrap"):
        if getattr(signal, key) is not None and signal.kind != "counter":
            yield ("signal", key), 'found it without kind = "counter", expected none'
    if signal.bits is not None and signal.wrap is not None:
        yield ("signal", "wrap"), "found it with bits, expected one of the two"
    if signal.table and signal.kind == "counter":
        yield ("signal", "table"), 'found it with kind = "counter", expected none'


def _flaws_of_table(signal: Signal, limits: tuple[float, float] | None) -> Iterator[Flaw]:
    table = signal.table
    if not table:
        return
    if len(table) == 1:
        yield ("signal", "table"), f"found {shown(table)}, expected two pairs or more"
    for (before, _), (x, _) in pairwise(table):
        if x <= before:
            yield ("signal", "table"), f"found x = {x:g} after {before:g}, expected rising x"
            return
    for _, y in table:
        if limits is not None and not limits[0] <= y <= limits[1]:
            text = f"found y = {y:g}, expected values within range {shown(list(limits))}"
            yield ("signal", "table"), text
            return


def _beyond_the_guard(signal: Signal) -> Iterator[Flaw]:
    """The guard has a scale, an offset and a range for each point, and no more."""
    found = {
        "kind": signal.kind == "counter",
        "sqrt": signal.sqrt,
        "table": bool(signal.table),
        "rate_max": signal.rate_max is not None,
    }
    for key, there in found.items():
        if there:
            text = (
                f"found {shown(getattr(signal, key))} on a fast device, expected a straight "
                f"4-20mA there: the guard has scale, offset and range, and no more"
            )
            yield ("signal", key), text
