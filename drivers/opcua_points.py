"""What an OPC UA point is: a node by id or by its path, an index, a deadband, scaling and range.

Checked whole when it is parsed, without a server and without the OPC UA library.
"""

import base64
import binascii
import math
import re
import uuid
from dataclasses import dataclass
from typing import Final, Protocol

from drivers.errors import PointError

INDEX_MAX: Final = 2**31 - 1
_NODE: Final = re.compile(
    r"(?:(?:ns=(?P<ns>[0-9]{1,5})|nsu=(?P<uri>[^;]{1,256}));)?(?P<id>[isgb]=.+)"
)
_STEP: Final = re.compile(r"(?:(?P<ns>[0-9]{1,5}):)?(?P<name>.+)")
_PATH_BEGIN: Final = re.compile(r"/?[0-9]{1,5}:")
_NODE_EXPECTED: Final = 'expected a node such as "ns=2;s=Tank.Level" or "ns=2;i=1001"'
_PATH_EXPECTED: Final = 'expected a path such as "0:Objects/2:Plant/2:Level"'
NAMESPACE_MAX: Final = 65_535


class OpcUaTag(Protocol):
    """What the OPC UA driver reads of a tag's point."""

    @property
    def address(self) -> str:
        """A node id or a path, as a CSV or an output names it; empty: ``node`` or ``path`` does."""

    @property
    def node(self) -> str | None:
        """A node id."""

    @property
    def path(self) -> str | None:
        """Browse names from the root, with their namespaces."""

    @property
    def index(self) -> int | None:
        """Of an array's element, from 0."""

    @property
    def deadband(self) -> float | None:
        """Smallest change that is reported, in engineering units."""

    @property
    def type(self) -> str:
        """bool, or empty for a number."""

    @property
    def scale(self) -> float:
        """Value = raw x scale + offset."""

    @property
    def offset(self) -> float:
        """In engineering units."""


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node id as text: ``identifier`` such as ``s=Tank``; ``uri`` instead of a number."""

    identifier: str
    namespace: int = 0
    uri: str = ""

    def __str__(self) -> str:
        if self.uri:
            return f"nsu={self.uri};{self.identifier}"
        return f"ns={self.namespace};{self.identifier}" if self.namespace else self.identifier


@dataclass(frozen=True, slots=True)
class OpcUaPoint:
    """One value of a server. Either ``node`` or ``path``; ``deadband`` is in the server's units."""

    node: NodeName | None = None
    path: tuple[tuple[int, str], ...] = ()  # (namespace, browse name) from the root
    index: int | None = None
    deadband: float | None = None
    boolean: bool = False
    scale: float = 1.0
    offset: float = 0.0
    limits: tuple[float, float] | None = None  # inclusive, engineering units

    def __str__(self) -> str:
        place = str(self.node) if self.node else "/".join(f"{ns}:{name}" for ns, name in self.path)
        return place if self.index is None else f"{place}[{self.index}]"


def parse_opcua_point(tag: OpcUaTag, limits: tuple[float, float] | None) -> OpcUaPoint:
    """Make a point of the site file's fields. Raises PointError with the key at fault."""
    node, path = _place(tag)
    boolean = _boolean(tag)
    if tag.index is not None and not 0 <= tag.index <= INDEX_MAX:
        raise PointError(key="index", text=f"found {tag.index}, expected 0 or more")
    if not math.isfinite(tag.scale) or tag.scale == 0.0:
        text = f"found {tag.scale}, expected a finite number other than 0"
        raise PointError(key="scale", text=text)
    if not math.isfinite(tag.offset):
        raise PointError(key="offset", text=f"found {tag.offset}, expected a finite number")
    return OpcUaPoint(
        node=node,
        path=path,
        index=tag.index,
        deadband=_deadband(tag, boolean=boolean),
        boolean=boolean,
        scale=tag.scale,
        offset=tag.offset,
        limits=limits,
    )


def _place(tag: OpcUaTag) -> tuple[NodeName | None, tuple[tuple[int, str], ...]]:
    """The one place that a point names."""
    given = [key for key in ("address", "node", "path") if getattr(tag, key)]
    if len(given) != 1:
        found = " and ".join(given) or "no place"
        text = f"found {found}, expected {{ node = … }} or {{ path = … }}"
        raise PointError(key=given[0] if given else "node", text=text)
    if tag.node:
        return parse_node(tag.node), ()
    if tag.path:
        return None, parse_path(tag.path)
    try:
        if _PATH_BEGIN.match(tag.address.strip()):
            return None, parse_path(tag.address)
        return parse_node(tag.address), ()
    except PointError as error:
        raise PointError(key="address", text=str(error)) from None


def parse_node(text: str) -> NodeName:
    """Read ``ns=2;s=…``, ``i=2258``, ``nsu=urn:…;g=…`` or ``b=`` with base64. Raises PointError."""
    match = _NODE.fullmatch(text.strip())
    namespace = int(match["ns"] or 0) if match else 0
    if match is None or namespace > NAMESPACE_MAX or not _identifier_good(match["id"]):
        raise PointError(key="node", text=f'found "{text}", {_NODE_EXPECTED}')
    return NodeName(match["id"], namespace, match["uri"] or "")


def parse_path(text: str) -> tuple[tuple[int, str], ...]:
    """Read ``0:Objects/2:Plant``; ``&/`` is a slash inside a name. Raises PointError."""
    steps = []
    for part in _parts(text.strip().removeprefix("/")):
        match = _STEP.fullmatch(part)
        namespace = int(match["ns"] or 0) if match else 0
        if match is None or namespace > NAMESPACE_MAX:
            raise PointError(key="path", text=f'found "{text}", {_PATH_EXPECTED}')
        steps.append((namespace, match["name"]))
    return tuple(steps)


def _parts(text: str) -> list[str]:
    parts, escaped = [""], False
    for letter in text:
        if escaped or letter not in "&/":
            parts[-1] += letter
            escaped = False
        elif letter == "&":
            escaped = True
        else:
            parts.append("")
    return parts


def _identifier_good(text: str) -> bool:
    kind, value = text[0], text[2:]
    try:
        if kind == "i":
            return value.isascii() and value.isdigit() and int(value) < 2**32
        if kind == "g":
            uuid.UUID(value)
        elif kind == "b":
            base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return False
    return True


def _boolean(tag: OpcUaTag) -> bool:
    if tag.type not in ("", "bool"):
        text = f'found "{tag.type}", expected "bool" or nothing (the server knows its types)'
        raise PointError(key="type", text=text)
    boolean = tag.type == "bool"
    if boolean and (tag.scale, tag.offset) != (1.0, 0.0):
        key = "scale" if tag.scale != 1.0 else "offset"
        raise PointError(key=key, text="a bool is 0 or 1 and takes no scale and no offset")
    return boolean


def _deadband(tag: OpcUaTag, *, boolean: bool) -> float | None:
    if tag.deadband is None:
        return None
    if boolean or not (math.isfinite(tag.deadband) and tag.deadband >= 0):
        text = f"found {tag.deadband:g}, expected 0 or more, of a number"
        raise PointError(key="deadband", text=text)
    return tag.deadband / abs(tag.scale)
