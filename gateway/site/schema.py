"""The site file's JSON schema, for editors: ``python -m gateway.site.schema config/schema.json``.

Made from the model, so that it cannot say anything else; durations and sizes are strings there.
"""

import sys
import types
from pathlib import Path
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType
from msgspec.structs import fields

from gateway.site.durations import format_duration
from gateway.site.later import LATER_KEYS
from gateway.site.model import SHORT_FORMS, Config, Duration, Size
from gateway.site.words import WORDS

DURATION_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d)$"
SIZE_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?([kKMGT]?B|[KMGT]iB)$"

_TEXTS: Final[dict[Any, Any]] = {
    Duration: Annotated[str, Meta(pattern=DURATION_PATTERN, examples=["50ms"])],
    Size: Annotated[str, Meta(pattern=SIZE_PATTERN, examples=["64KiB", "2GB"])],
}


def schema() -> bytes:
    """The schema as it is committed: indented, with a line's end."""
    written = msgspec.json.schema(_as_written(Config, ""))
    data = msgspec.json.encode(written, order="sorted")
    return msgspec.json.format(data, indent=2) + b"\n"


def main(arguments: list[str]) -> int:
    """Write the schema to the file named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m gateway.site.schema FILE\n")
        return 2
    Path(arguments[0]).write_bytes(schema())
    return 0


def _as_written(kind: type[Struct], table: str) -> type[Struct]:
    """The struct as a site file has it: texts for durations, without keys not offered yet."""
    members: list[tuple[str, Any, Any] | tuple[str, Any]] = []
    later = LATER_KEYS.get(table.partition(".")[0], {})
    for info in fields(kind):
        inner = ".".join([*table.split(".")[1:], info.name])
        if inner in later:
            continue
        written = _written_type(info.type, f"{table}.{info.name}" if table else info.name)
        words = Meta(description=WORDS[f"{kind.__name__}.{info.name}"])
        written = Annotated[written, words]
        if info.required:
            members.append((info.name, written))
        else:
            members.append((info.name, *_optional(written, info.default)))
    return msgspec.defstruct(
        kind.__name__, members, forbid_unknown_fields=True, kw_only=True, namespace=_doc(kind)
    )


def _written_type(kind: Any, table: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        return Union[tuple(_written_type(part, table) for part in parts)]  # noqa: UP007
    if get_origin(kind) is tuple and get_args(kind)[1] is Ellipsis:
        member = get_args(kind)[0]
        inner: Any = _written_type(member, table)
        if getattr(member, "__name__", "") in SHORT_FORMS:
            inner = Union[str, inner]  # noqa: UP007
        return types.GenericAlias(tuple, (inner, ...))
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _as_written(kind, table)
    return _TEXTS.get(kind, kind)


def _optional(written: Any, default: Any) -> tuple[Any, Any]:
    """A type and its default; TOML has no null, so what may be left out has none to show."""
    if isinstance(default, Duration):
        return written, format_duration(default)
    if isinstance(default, Size):
        return written, f"{default // 10**6}MB" if default % 10**6 == 0 else f"{default}B"
    if default is None or default is NODEFAULT or isinstance(default, Struct):
        return written | UnsetType, UNSET
    return written, default


def _doc(kind: type[Struct]) -> dict[str, Any]:
    return {"__doc__": kind.__doc__}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
