"""What a commissioning command is about: a device and points of it, by site file or bare address.

``plc-face ch4.t1`` is looked up in a site file; ``tcp://10.0.0.5/1/hr:100:float32`` needs none.
Both become the same device and points that a site file would have, checked by the same rules.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from msgspec import structs

from drivers.errors import PointError, RequestError
from drivers.kind import DriverKind, Limits
from drivers.points import ORDERS, WIDTHS, Address, parse_address, parse_point
from drivers.registry import DRIVERS
from gateway.commission.words import TYPE_WORDS
from gateway.errors import ConfigError
from gateway.site.complaints import Complaints, Origin, did_you_mean, shown
from gateway.site.convert import convert
from gateway.site.later import LATER_DRIVERS, LATER_KEYS
from gateway.site.load import load_site
from gateway.site.model import Config, Device, Line, Point, by_id

SCHEMES: Final[Mapping[str, str]] = {
    "tcp": "modbus-tcp",
    "rtu": "modbus-rtu",
    "rtu+tcp": "modbus-rtu-tcp",
    "tls": "modbus-tls",
    "opc.tcp": "opcua",
}
DEFAULT_PORTS: Final = {"tcp": 502, "tls": 802}
POINTS_MAX: Final = 2_000  # of one command
EXAMPLE: Final = "tcp://10.0.0.5/1/hr:100:float32"

_MODBUS_POINT: Final = re.compile(
    r"(?P<area>c|di|ir|hr):(?P<first>0[xX][0-9a-fA-F]{1,8}|[0-9]{1,8})(?P<bit>\.[0-9]{1,3})?"
    r"(?:-(?P<last>0[xX][0-9a-fA-F]{1,8}|[0-9]{1,8}))?(?::(?P<type>[A-Za-z][A-Za-z0-9]*))?"
    r"(?::(?P<order>[A-D]{4}))?"
)
_BOOLEAN: Final = re.compile(r"=|/[0-9]+:[^/]+$")  # before :bool; 1:bool ends a browse path
_POINT_SEGMENT: Final = re.compile(r"[a-z]{1,2}:.*")


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TargetPoint:
    """One point. ``raw``: registers without a type, to be shown in every decoding."""

    label: str  # as people name it: the tag's id, or hr:100
    point: Point
    limits: Limits = None
    unit: str = ""  # engineering unit, of a tag
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A device and its points. ``name`` is what people call the device; ``site`` its file's."""

    name: str
    device: Device
    points: tuple[TargetPoint, ...]
    site: Config | None = None
    unit_named: bool = False  # by a bare address

    @property
    def kind(self) -> DriverKind:
        """The registry's entry of its driver."""
        return DRIVERS[self.device.driver]

    @property
    def modbus(self) -> bool:
        """Whether its points are registers and coils."""
        return "max_registers" in self.kind.device_keys


def is_bare(text: str) -> bool:
    """Whether it is an address such as ``tcp://…`` rather than a device of a site file."""
    return "://" in text


def bare_target(url: str, points: Sequence[str] = ()) -> Target:
    """Device and points of a bare address; ``points`` besides the one in it.

    Raises ConfigError with every error.
    """
    return _in_one_line(url, lambda: _bare(url, points))


def site_target(path: Path, name: str, points: Sequence[str]) -> Target:
    """Device ``name`` (or the one of the tag ``name``) of a site file. Raises ConfigError."""
    config, errors, _ = load_site(path)
    if config is None:
        raise ConfigError(errors)
    devices = by_id(config.device)
    tags = by_id(config.tag)
    if name not in devices and name in tags and tags[name].device in devices:
        points = [name, *points]
        name = tags[name].device
    if name not in devices:
        near = did_you_mean(name, [*devices, *tags])
        there = near or f"; there are {', '.join(devices) or 'none'}"
        raise ConfigError([f"{path}: found {shown(name)}, expected one of its devices{there}"])
    device: Device = devices[name]
    if device.line is None and "line" in _offered(device.driver, f"{path}: ").device_keys:
        device = structs.replace(device, line=Line())
    found = _in_one_line(f"{path}: device[{name}]", lambda: _site_points(config, device, points))
    return Target(name, device, found, config)


def target_of(name: str, points: Sequence[str], site: Path | None) -> Target:
    """By whichever of the two ways ``name`` is meant. Raises ConfigError."""
    if is_bare(name):
        return bare_target(name, points)
    if site is None:
        text = f"found {shown(name)}, expected an address such as {EXAMPLE}, or --site SITE.toml"
        raise ConfigError([text])
    return site_target(site, name, points)


def parse_points(device: Device, text: str) -> list[TargetPoint]:
    """The points that a text such as ``hr:100-109:float32:CDAB`` names. Raises PointError."""
    if "max_registers" in DRIVERS[device.driver].device_keys:
        return _modbus_points(device, text)
    node, _, kind = text.rpartition(":")
    if kind == "bool" and _BOOLEAN.search(node):
        return [_checked(device, TargetPoint(text, Point(address=node, type=kind)))]
    return [_checked(device, TargetPoint(text, Point(address=text)))]


# ---- bare addresses


def _bare(url: str, points: Sequence[str]) -> Target:
    scheme, _, _ = url.partition("://")
    driver = SCHEMES.get(scheme)
    if driver is None:
        near = did_you_mean(scheme, SCHEMES) or f" ({', '.join(f'{s}://' for s in SCHEMES)})"
        raise PointError(key="", text=f"found {scheme}://, expected a known kind{near}")
    kind = _offered(driver)
    place, unit, point, query = _parts(url, scheme)
    table: dict[str, Any] = {"id": "device", "driver": driver, "address": place}
    if unit is not None:
        table["unit"] = unit
    lines: dict[str, Any] = {}
    _check_options([key for key, _ in query], kind)
    for key, value in query:
        if key in table:
            text = f"found {shown(key)} behind the ?, but the address itself says it"
            raise PointError(key="", text=text)
        into = lines if key in Line.__struct_fields__ else table
        into[key] = _value(value)
    if lines:
        table["line"] = lines
    device = _device(table, kind)
    if device.line is None and "line" in kind.device_keys:
        device = structs.replace(device, line=Line())
    texts = [*([point] if point else []), *points]
    found = _every(texts, lambda text: parse_points(device, text))
    _check_count(found)
    name = place if scheme == "opc.tcp" else f"{scheme}://{place}/{device.unit}"
    return Target(name, device, tuple(found), unit_named=unit is not None)


def _check_options(keys: Sequence[str], kind: DriverKind) -> None:
    """Words behind the ? that are no keys of this driver, nor of a line. Raises ConfigError."""
    lines = Line.__struct_fields__ if "line" in kind.device_keys else ()
    others = {*Device.__struct_fields__, *Line.__struct_fields__}
    taken = {*kind.device_keys, *lines}
    told = [
        f"found {shown(key)}, which {kind.name} does not take"
        if key in others
        else f"found {shown(key)}, expected a known key{did_you_mean(key, taken)}"
        for key in keys
        if key not in taken
    ]
    if told:
        raise ConfigError(told)


def _parts(url: str, scheme: str) -> tuple[str, int | None, str, list[tuple[str, str]]]:
    """(the device's address, unit, point, options) of a bare address. Raises PointError."""
    try:
        split = urlsplit(url, allow_fragments=scheme == "opc.tcp")
        query = parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query))
    except ValueError as error:
        raise PointError(key="", text=f"cannot be read: {error}, expected {EXAMPLE}") from None
    if scheme == "opc.tcp":
        return f"{scheme}://{split.netloc}{split.path}", None, split.fragment, query
    port = _port(split.netloc, split.path) if scheme == "rtu" else ""
    segments = split.path.removeprefix(port).rstrip("/").split("/")
    point = ""
    numbers = all(segment.isdecimal() for segment in segments[-2:]) and len(segments) > 2
    if numbers or _POINT_SEGMENT.fullmatch(segments[-1]):
        point = segments.pop()
    unit = int(segments.pop()) if segments[-1].isdecimal() else None
    if scheme == "rtu":
        return port + "/".join(segments), unit, point, query
    if any(segments):
        text = f"found {shown(split.path)}, expected /UNIT/POINT such as {EXAMPLE}"
        raise PointError(key="", text=text)
    place = split.netloc
    if scheme in DEFAULT_PORTS and not re.search(r":\d+$", place.rpartition("]")[2]):
        place = f"{place}:{DEFAULT_PORTS[scheme]}"
    return place, unit, point, query


def _port(host: str, path: str) -> str:
    """The part of a path that is a serial port here; "" where it is not plugged in.

    Raises PointError.
    """
    if host:
        text = f"found rtu://{host}{path}, expected three slashes such as rtu:///dev/ttyUSB0/1/hr:0"
        raise PointError(key="", text=text)
    whole = Path(path)
    found = next((each for each in (whole, *whole.parents) if each.is_char_device()), None)
    return str(found or "")


def _device(table: dict[str, Any], kind: DriverKind) -> Device:
    """The device as a site file's table would be, checked. Raises ConfigError, PointError."""
    complaints = Complaints("")
    entry = convert(Device, table, Origin("", ""), complaints, later=LATER_KEYS["device"])
    if complaints:
        raise ConfigError([line.partition(":0: ")[2] for line in complaints.lines()])
    kind.check_device(entry.item)
    return entry.item


def _value(text: str) -> Any:
    """A text of the query as TOML would have given it."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        return text


# ---- points


def _site_points(config: Config, device: Device, points: Sequence[str]) -> tuple[TargetPoint, ...]:
    tags = {tag.id: tag for tag in config.tag if tag.device == device.id and tag.point is not None}

    def points_of(text: str) -> list[TargetPoint]:
        tag = tags.get(text)
        if tag is not None and tag.point is not None:
            return [_checked(device, TargetPoint(text, tag.point, tag.range, tag.unit))]
        try:
            return parse_points(device, text)
        except PointError as error:
            near = did_you_mean(text, tags)
            raise PointError(key="", text=f"{error}, or one of its tags{near}") from None

    found = _every(points, points_of)
    _check_count(found)
    return tuple(found)


def _every(
    texts: Sequence[str], points_of: Callable[[str], list[TargetPoint]]
) -> list[TargetPoint]:
    """The points of all texts. Raises ExceptionGroup of every PointError, each with its text."""
    found: list[TargetPoint] = []
    errors: list[PointError] = []
    for text in texts:
        try:
            found += points_of(text)
        except PointError as error:
            said = str(error) if text in str(error) else f"{text}: {error}"
            errors.append(PointError(key=error.key, text=said))
    if errors:
        msg = "points"
        raise ExceptionGroup(msg, errors)
    return found


def _modbus_points(device: Device, text: str) -> list[TargetPoint]:
    match = _MODBUS_POINT.fullmatch(text.strip())
    if match is None:
        parse_address(text, base=device.base)  # says what it expects of what is no address
        raise PointError(key="address", text=f'found "{text}", expected such as "hr:100:float32"')
    kind, order = match["type"] or "", match["order"] or ""
    if kind in ORDERS and not order:
        kind, order = "", kind
    kind = TYPE_WORDS.get(kind.upper(), kind)
    area, bit = match["area"], match["bit"] or ""
    first = parse_address(f"{area}:{match['first']}{bit}", base=device.base)
    last = parse_address(f"{area}:{match['last']}", base=device.base) if match["last"] else first
    if last.number < first.number or (bit and match["last"]):
        raise PointError(key="address", text=f'found "{text}", expected such as "hr:100-109"')
    width = WIDTHS[parse_point(f"{area}:{first.number}{bit}", kind).type]
    numbers = range(first.number, max(last.number - width + 2, first.number + 1), width)
    if len(numbers) > POINTS_MAX:
        raise PointError(key="address", text=f'found "{text}", more than {POINTS_MAX} points')
    raw = not (kind or order or bit or first.area.of_bits)
    return [
        _modbus_point(device, Address(first.area, number, first.bit), kind, order, raw=raw)
        for number in numbers
    ]


def _modbus_point(device: Device, at: Address, kind: str, order: str, *, raw: bool) -> TargetPoint:
    bit = "" if at.bit is None else f".{at.bit}"
    address = f"{at.area.value}:{at.number + device.base}{bit}"
    if raw:  # as it travels, whatever the device's order is
        point = Point(address=address, type="uint16", order="ABCD")
        return _checked(device, TargetPoint(address, point, raw=True))
    label = ":".join(word for word in (address, kind, order) if word)
    return _checked(device, TargetPoint(label, Point(address=address, type=kind, order=order)))


def _checked(device: Device, target: TargetPoint) -> TargetPoint:
    """The point, if its driver takes it. Raises PointError."""
    DRIVERS[device.driver].check_point(device, target.point, target.limits)
    return target


def _check_count(points: Sequence[TargetPoint]) -> None:
    if len(points) > POINTS_MAX:
        text = f"found {len(points)} points, expected at most {POINTS_MAX} at once"
        raise PointError(key="", text=text)


def _offered(driver: str, where: str = "") -> DriverKind:
    """The registry's entry. Raises ConfigError for one that this version has not."""
    kind = DRIVERS.get(driver)
    if kind is None or kind.make is None:
        later = kind is not None or driver in LATER_DRIVERS or driver in SCHEMES.values()
        why = "this version does not offer it here yet" if later else "there is no such driver"
        raise ConfigError([f"{where}found {driver}: {why}"])
    return kind


def _in_one_line(where: str, make: Callable[[], _T]) -> _T:
    """What ``make`` gives; its refusal as one line that says where. Raises ConfigError."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError([f"{where}: {line}" for line in error.errors]) from None
    except PointError as error:
        key = f"{error.key}: " if error.key else ""
        raise ConfigError([f"{where}: {key}{error}"]) from None
    except RequestError as error:
        raise ConfigError([f"{where}: {error}"]) from None
    except ExceptionGroup as group:  # every error of a device at once
        told = [f"{getattr(error, 'key', '')}: {error}" for error in group.exceptions]
        raise ConfigError([f"{where}: {line.removeprefix(': ')}" for line in told]) from None
