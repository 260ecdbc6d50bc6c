"""One table of a site file -> its Struct, with a complaint for every key that is wrong.

``msgspec`` stops at the first error of what it converts, so each key is converted by itself. A
wrong or missing key takes its default (or a stand-in), is remembered as bad, and the rest of the
table is still there for whoever checks it further.
"""

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from gateway.site import durations
from gateway.site.complaints import Complaints, Origin, Path, did_you_mean, nearest, shown
from gateway.site.model import IDENT_PATTERN, SHORT_FORMS, Duration, Size

T = TypeVar("T", bound=Struct)

_EXAMPLES: Final = {
    "Device.address": "192.168.10.20:502",
    "Output.address": "c:16",
    "Heartbeat.address": "hr:90",
    "Point.address": "ir:100",
    "Lease.address": "hr:200",
    "WatchdogRegister.address": "hr:4098",
    "driver": "modbus-tcp",
    "device": "plc-face",
    "cause": "ch4.t1 >= 1.5",
    "permissive": "ch4.t1 < 1.0",
    "unit": "%CH4",
    "url": "https://platform.example",
    "listen": "127.0.0.1:9750",
    "group": "face",
    "readback": "power.closed",
    "output": "power",
    "tags": "tags.csv",
    "template": "nmea0183-wind",
    "SerialField.name": "speed",
    "pattern": "(?P<speed>[0-9.]+)",
    "separator": ";",
    "delimiter": "\\r\\n",
    "start": "AA 55",
    "field": "speed",
    "rate_max": "5 %CH4/s",
}
_LISTS: Final = {
    "Effect": '["siren", { output = "power", delay = "2s" }]',
    "SerialField": '[{ name = "speed", group = 2, unit = "m/s" }]',
    "WatchdogRegister": '[{ address = "hr:4098", value = 30 }]',
}
_IDENT_EXPECTED: Final = 'an id such as "ch4.t1" (a small letter, then a-z 0-9 _ . -, at most 63)'


@dataclass(slots=True)
class Entry(Generic[T]):
    """One table as read: ``item`` is whole where ``bad`` is empty."""

    item: T
    origin: Origin
    raw: Mapping[str, Any]
    bad: set[str] = field(default_factory=set)  # "poll", "point", "point.address"
    damaged: bool = False  # lost lines to a syntax error: what is missing may have stood there

    def ok(self, *keys: str) -> bool:
        """Whether none of these keys is wrong or missing."""
        return not self.bad.intersection(keys)

    @property
    def id(self) -> str:
        """The id as written, also where it is no good one; "" without."""
        ident = self.raw.get("id")
        return ident if isinstance(ident, str) else ""


def convert(
    kind: type[T],
    raw: Mapping[str, Any],
    origin: Origin,
    complaints: Complaints,
    *,
    later: Mapping[str, str] | None = None,
    damaged: bool = False,
) -> Entry[T]:
    """Convert a table. ``later`` names keys that this version does not offer yet, and why."""
    reader = _Reader(origin, complaints, later or {}, damaged=damaged)
    item = reader.table(kind, raw, ())
    return Entry(item, origin, raw, reader.bad, damaged)


class _Reader:
    def __init__(
        self, origin: Origin, complaints: Complaints, later: Mapping[str, str], *, damaged: bool
    ) -> None:
        self.origin = origin
        self.complaints = complaints
        self.later = later
        self.damaged = damaged
        self.bad: set[str] = set()

    def table(self, kind: type[T], raw: Mapping[str, Any], path: Path) -> T:
        known = _fields(kind)
        for key in raw:
            if key not in known or _dotted((*path, key)) in self.later:
                self._unknown(key, [name for name in known if name not in raw], path)
        values = {}
        for name, info in known.items():
            if name in raw and _dotted((*path, name)) not in self.later:
                values[info.name] = self._value(kind, info, raw[name], (*path, name))
            elif info.required:
                if _dotted((*path, name)) not in self.bad:  # told as a slip of its name
                    self._missing(kind, info, (*path, name))
                values[info.name] = _stand_in(info.type)
        return kind(**values)

    def _unknown(self, key: str, free: list[str], path: Path) -> None:
        reason = self.later.get(_dotted((*path, key)))
        if reason is not None:
            text = f"found {shown(key)}, which this version does not offer yet ({reason})"
            self._complain((*path, key), text)
            return
        offered = [name for name in free if _dotted((*path, name)) not in self.later]
        near = nearest(key, offered)
        if near:
            self._mark((*path, near))  # a wrong name for it: it is not missing besides
        words = f" ({', '.join(sorted(offered))})" if offered else ""
        keys = f'; did you mean "{near}"?' if near else words
        self._complain((*path, key), f"found {shown(key)}, expected a known key{keys}")

    def _missing(self, kind: type[Struct], info: FieldInfo, path: Path) -> None:
        if self.damaged:
            self._mark(path)
        else:
            self._complain(path, f"found nothing, expected {_expected_of(kind, info)}")

    def _value(self, kind: type[Struct], info: FieldInfo, value: Any, path: Path) -> Any:
        struct = _struct_of(info.type)
        if struct is not None and isinstance(value, dict):
            return self.table(struct, value, path)
        member = _member_of(info.type)
        if member is not None and isinstance(value, list):
            return tuple(
                self._member(member, item, (*path, number)) for number, item in enumerate(value)
            )
        try:
            good = msgspec.convert(value, info.type, dec_hook=_decode)
            if _finite(good):
                return good
        except msgspec.ValidationError:
            pass
        hint = _hint(info.type, value)
        wanted = _expected_of(kind, info)
        self._complain(path, f"found {shown(value)}, expected {wanted}{hint}")
        return _stand_in(info.type) if info.required else _default(info)

    def _member(self, kind: type[Struct], value: Any, path: Path) -> Any:
        """One of a list of tables, or the text that stands for one."""
        short = SHORT_FORMS.get(kind.__name__)
        if short is not None and isinstance(value, str):
            return kind(**{short: value})
        if isinstance(value, dict):
            return self.table(kind, value, path)
        self._complain(path, f"found {shown(value)}, expected {expected(kind)}")
        return kind(**{name: _stand_in(info.type) for name, info in _required(kind)})

    def _complain(self, path: Path, text: str) -> None:
        self._mark(path)
        self.complaints.add(self.origin, path, text)

    def _mark(self, path: Path) -> None:
        for length in range(1, len(path) + 1):
            self.bad.add(_dotted(path[:length]))


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


@cache
def _fields(kind: type[Struct]) -> dict[str, FieldInfo]:
    return {info.encode_name: info for info in fields(kind)}


def _expected_of(kind: type[Struct], info: FieldInfo) -> str:
    """What a key takes, in words."""
    own = f"{kind.__name__}.{info.name}"
    return expected(info.type, _EXAMPLES.get(own, _EXAMPLES.get(info.name, "x")))


def expected(kind: Any, example: str = "x") -> str:
    """What a key of this type takes, in words."""
    parts = [part for part in _parts(kind) if part is not type(None)]
    if bool in parts and int in parts:
        return "true or false for a coil, a whole number for a register"
    return " or ".join(_expected_one(part, example) for part in parts)


def _expected_one(kind: Any, example: str) -> str:
    metas = [meta for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, Meta)]
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(base) is dict:
        value = "1.0" if get_args(base)[1] is float else '"A"'
        return f"a table such as {{ name = {value} }}"
    if get_origin(base) is Literal:
        choices = [shown(choice) for choice in get_args(base)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if get_origin(base) is tuple:
        member, more = get_args(base)
        if more is not Ellipsis:
            return "two numbers [low, high]"
        if isinstance(member, type) and issubclass(member, Struct):
            return f"a list such as {_LISTS.get(member.__name__, '[{ … }]')}"
        if get_origin(member) is tuple:
            return "a list of pairs such as [[4, 0], [20, 100]]"
        if get_origin(member) is Literal:
            return f"a list, {_expected_one(member, example).replace('one of', 'of')}"
        return 'a list of texts such as ["a", "b"]'
    if isinstance(base, type) and issubclass(base, Struct):
        names = ", ".join(f"{name} = …" for name, _ in _required(base))
        table = f"a table {{ {names} }}" if names else "a table { … }"
        return f"a text in quotes or {table}" if base.__name__ in SHORT_FORMS else table
    if metas and metas[0].pattern == IDENT_PATTERN:
        return _IDENT_EXPECTED
    words: dict[Any, str] = {
        Duration: 'a duration such as "50ms"',
        Size: 'a size such as "64KiB" or "2GB"',
        bool: "true or false",
        float: "a number",
        int: "a whole number",
        str: f'a text in quotes such as "{example}"',
    }
    return words.get(base, "something else") + _bounds(metas)


def _bounds(metas: list[Meta]) -> str:
    for meta in metas:
        if meta.ge is not None and meta.le is not None:
            return f" from {meta.ge} to {meta.le}"
        if meta.ge is not None:
            return f" of at least {meta.ge}"
    return ""


def _hint(kind: Any, value: Any) -> str:
    parts = list(_parts(kind))
    if Duration in parts and isinstance(value, str):
        near = durations.near_duration(value)
        return f'; did you mean "{near}"?' if near else ""
    if not isinstance(value, str):
        return ""
    for part in parts:
        if get_origin(part) is Literal:
            return did_you_mean(
                value, [choice for choice in get_args(part) if choice == str(choice)]
            )
        if bool in parts and value.lower() in ("true", "false"):
            return f"; did you mean {value.lower()} without quotes?"
        metas = getattr(part, "__metadata__", ())
        if metas and metas[0].pattern == IDENT_PATTERN:
            near = "-".join(value.lower().split())
            return f'; did you mean "{near}"?' if _is_ident(near) else ""
    return ""


def _is_ident(text: str) -> bool:
    try:
        msgspec.convert(text, Annotated[str, Meta(pattern=IDENT_PATTERN)])
    except msgspec.ValidationError:
        return False
    return True


def _decode(kind: type[Any], value: Any) -> Any:
    if kind not in (Duration, Size) or not isinstance(value, str):
        msg = f"{value!r} is none"
        raise ValueError(msg)
    return durations.parse_duration(value) if kind is Duration else durations.parse_size(value)


def _parts(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        yield from get_args(kind)
    else:
        yield kind


def _struct_of(kind: Any) -> type[Struct] | None:
    for part in _parts(kind):
        if isinstance(part, type) and issubclass(part, Struct):
            return part
    return None


def _member_of(kind: Any) -> type[Struct] | None:
    """The Struct that a list is made of."""
    if get_origin(kind) is not tuple:
        return None
    return _struct_of(get_args(kind)[0])


def _required(kind: type[Struct]) -> list[tuple[str, FieldInfo]]:
    return [(name, info) for name, info in _fields(kind).items() if info.required]


def _finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _default(info: FieldInfo) -> Any:
    return info.default if info.default is not NODEFAULT else info.default_factory()


def _stand_in(kind: Any) -> Any:
    """Something of the right type in the place of a required key that is wrong or missing."""
    first = next(_parts(kind))
    base = get_args(first)[0] if get_origin(first) is Annotated else first
    if get_origin(base) is Literal:
        return get_args(base)[0]
    if get_origin(base) is tuple:
        return ()
    if isinstance(base, type) and issubclass(base, Struct):
        return None
    return base()
