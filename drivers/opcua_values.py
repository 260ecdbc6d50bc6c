"""OPC UA values to readings, and engineering values to what a node takes."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from asyncua import ua

from drivers.base import Reading
from drivers.errors import RequestError
from drivers.opcua_points import OpcUaPoint
from drivers.opcua_status import quality_of
from fastpath.codes import Quality, Reason

EXACT_MAX: Final = 2**53  # beyond it a float64 leaves out integers
FLOAT_MAX: Final = 3.402_823_466e38  # of 32 bits
SKEW_NS_MAX: Final = 3_600_000_000_000  # a source clock further off stamps nothing of ours
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_INTEGERS: Final[dict[ua.VariantType, tuple[int, int]]] = {
    ua.VariantType.SByte: (-(2**7), 2**7 - 1),
    ua.VariantType.Byte: (0, 2**8 - 1),
    ua.VariantType.Int16: (-(2**15), 2**15 - 1),
    ua.VariantType.UInt16: (0, 2**16 - 1),
    ua.VariantType.Int32: (-(2**31), 2**31 - 1),
    ua.VariantType.UInt32: (0, 2**32 - 1),
    ua.VariantType.Int64: (-(2**63), 2**63 - 1),
    ua.VariantType.UInt64: (0, 2**64 - 1),
}
_FLOATS: Final = (ua.VariantType.Float, ua.VariantType.Double)


def bad(index: int, reason: Reason) -> Reading:
    """No value, and why."""
    return Reading(index, math.nan, Quality.BAD, reason, 0)


def reading_of(index: int, point: OpcUaPoint, data: ua.DataValue, utc_ns: int) -> Reading:
    """One point as the server tells it; a value of a bad status is never used.

    ``utc_ns`` is our clock now: a source time an hour off it or more is left out.
    """
    quality, reason = quality_of(code_of(data))
    source_ns = source_time_ns(data, utc_ns)
    if quality is Quality.BAD:
        return Reading(index, math.nan, quality, reason, source_ns)
    raw = _element(data.Value.Value if data.Value is not None else None, point.index)
    if isinstance(raw, bool) is not point.boolean or not isinstance(raw, int | float):
        return Reading(index, math.nan, Quality.BAD, Reason.UNREADABLE, source_ns)
    value = raw * point.scale + point.offset
    if not math.isfinite(value):
        return Reading(index, math.nan, Quality.BAD, Reason.NOT_A_NUMBER, source_ns)
    if point.limits is not None and not point.limits[0] <= value <= point.limits[1]:
        return Reading(index, value, Quality.BAD, Reason.OUT_OF_RANGE, source_ns)
    if quality is Quality.GOOD and isinstance(raw, int) and abs(raw) > EXACT_MAX:
        quality, reason = Quality.UNCERTAIN, Reason.PRECISION
    return Reading(index, float(value), quality, reason, source_ns)


def code_of(data: ua.DataValue) -> int:
    """The status code of a value; one that was left out is Good."""
    return 0 if data.StatusCode is None else int(data.StatusCode.value)


def source_time_ns(data: ua.DataValue, utc_ns: int) -> int:
    """The source's stamp in UTC ns, else the server's; 0 where neither can be about now."""
    for stamp in (data.SourceTimestamp, data.ServerTimestamp):
        if stamp is not None and abs((stamp_ns := utc_ns_of(stamp)) - utc_ns) <= SKEW_NS_MAX:
            return stamp_ns
    return 0


def utc_ns_of(stamp: datetime) -> int:
    """UTC nanoseconds of a time, exact to its microsecond."""
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    return (stamp - _EPOCH) // _MICROSECOND * 1000


def raw_of(point: OpcUaPoint, value: float, kind: ua.VariantType) -> Any:
    """What is written so that the point reads ``value``. Raises RequestError."""
    raw = (value - point.offset) / point.scale
    if not math.isfinite(raw):
        text = f"{point} cannot be written: {value} is no finite number"
        raise RequestError(text)
    if kind is ua.VariantType.Boolean:
        if raw not in (0.0, 1.0):
            text = f"{point} takes 0 or 1, not {value}"
            raise RequestError(text)
        return raw == 1.0
    if kind in _FLOATS:
        if kind is ua.VariantType.Float and abs(raw) > FLOAT_MAX:
            text = f"{point} cannot hold {value:g}"
            raise RequestError(text)
        return raw
    if kind not in _INTEGERS:
        text = f"{point} is of type {kind.name}, which is not written"
        raise RequestError(text)
    low, high = _INTEGERS[kind]
    if abs(raw - round(raw)) > 1e-6 * max(1.0, abs(raw)):
        text = f"{point} holds whole steps of {point.scale:g}, not {value:g}"
        raise RequestError(text)
    if not low <= round(raw) <= high:
        text = f"{point} cannot hold {value:g}"
        raise RequestError(text)
    return round(raw)


def _element(raw: Any, index: int | None) -> Any:
    """Of an array that was asked for by its index the server sends that one element."""
    if index is None:
        return raw
    return raw[0] if isinstance(raw, list) and len(raw) == 1 else None
