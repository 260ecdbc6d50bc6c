"""Bounds on what one OPC UA message may make us build; the library has none.

Six bytes can say "an array of 2^31 nulls", and a length below zero moves the reading back instead
of on: either holds the event loop until memory ends. It is enough to stand where a server should
be, since answers are read before anybody is known to be trusted. Importing this puts the bounds in.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

from asyncua import ua
from asyncua.common import utils
from asyncua.ua import ua_binary

OBJECTS_MAX: Final = 100_000  # of one message, in all its lists: about a second of decoding
_BYTES_READ: Final = utils.Buffer.read
_BYTES_SKIPPED: Final = utils.Buffer.skip
_COPY: Final = utils.Buffer.copy
_RESHAPE: Final = ua_binary._reshape  # noqa: SLF001  it has no public name
_NEGATIVE: Final = "a length below zero"


def _read(data: utils.Buffer, size: int) -> bytes:
    if size < 0:
        raise utils.NotEnoughData(_NEGATIVE)
    return bytes(_BYTES_READ(data, size))


def _skip(data: utils.Buffer, size: int) -> None:
    if size < 0:
        raise utils.NotEnoughData(_NEGATIVE)
    _BYTES_SKIPPED(data, size)


def _copy(data: utils.Buffer, size: int = -1) -> utils.Buffer:
    """The part of a message counts with the whole."""
    made = _COPY(data, size)
    made.left = _left(data)
    return made


def _left(data: utils.Buffer) -> list[int]:
    """How many objects the message may still hold."""
    left: list[int] | None = getattr(data, "left", None)
    if left is None:
        data.left = left = [OBJECTS_MAX]
    return left


def _counted(make: Callable[[Any], Callable[[Any], Any]]) -> Callable[[Any], Callable[[Any], Any]]:
    """``make`` makes readers of lists; those that it makes now look at a list's length first."""

    @functools.cache
    def made(of: Any) -> Callable[[Any], Any]:
        read = make(of)
        plain = isinstance(of, ua.VariantType) and hasattr(ua_binary.Primitives1, of.name)

        def take(data: utils.Buffer) -> Any:
            count = ua_binary.Primitives.Int32.unpack(_COPY(data, 4))
            if count > len(data):
                text = f"a list of {count} in {len(data)} bytes"
                raise utils.NotEnoughData(text)
            if not plain and count > 0:  # numbers are read at once, whatever their count
                left = _left(data)
                left[0] -= count
                if left[0] < 0:
                    text = f"more than {OBJECTS_MAX} objects in one message"
                    raise ValueError(text)
            return read(data)

        return take

    return made


def _reshape(flat: list[Any], dimensions: list[int]) -> list[Any]:
    """Dimensions that are not those of the list say nothing; the library would fill it up."""
    declared = 1
    for each in dimensions:
        declared *= each
        if not 0 < declared <= len(flat):
            return flat
    return list(_RESHAPE(flat, dimensions)) if declared == len(flat) else flat


def _put_in() -> None:
    utils.Buffer.read = _read
    utils.Buffer.skip = _skip
    utils.Buffer.copy = _copy
    ua_binary._reshape = _reshape  # noqa: SLF001
    for name in ("_create_list_deserializer", "_create_uatype_array_deserializer"):
        setattr(ua_binary, name, _counted(getattr(ua_binary, name)))
    for name in ("_create_type_deserializer", "_create_dataclass_deserializer"):
        getattr(ua_binary, name).cache_clear()  # made before us, over lists without bounds


_put_in()
