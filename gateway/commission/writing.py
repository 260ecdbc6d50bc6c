"""One write by hand: what may be written, how it is put to the device, and whether it took."""

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from drivers.errors import DriverError, PointError, RequestError
from drivers.modbus_link import ExceptionReply
from drivers.points import describe, encode_registers, parse_point
from fastpath.codes import Quality
from gateway.commission.devices import Value, opened, read_once
from gateway.commission.holdings import Aim
from gateway.commission.target import Target

if TYPE_CHECKING:
    from drivers.kind import Surroundings

RELATIVE: Final = 2.0**-24  # what rounding to a float32 may change
REFUSALS: Final = (1, 2, 3)  # illegal function, address, value: nothing was written
WORDS: Final = {
    "true": 1.0, "on": 1.0, "yes": 1.0, "false": 0.0, "off": 0.0, "no": 0.0,
}  # fmt: skip


class Written(NamedTuple):
    """What became of a write. ``back`` is None where it could not be read back."""

    acknowledged: bool
    back: Value | None
    trouble: str = ""  # of the write itself
    refused: bool = False  # the device answered that it does not write this

    def took(self, value: float) -> bool:
        """Whether the device shows the value now."""
        return self.back is not None and same(self.back, value)


def parse_value(text: str) -> float:
    """A number, or on/off, true/false. Raises PointError."""
    try:
        value = WORDS[text.lower()] if text.lower() in WORDS else float(int(text, 0))
    except (ValueError, OverflowError):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
    if not math.isfinite(value):
        expected = 'expected a number, or "on" or "off"'
        raise PointError(key="", text=f'found the value "{text}", {expected}')
    return value


def aim_of(target: Target) -> Aim:
    """The place of the target's one point. Raises PointError for what nobody can write."""
    device, point = target.device, target.points[0].point
    if not target.modbus:
        node = point.address or point.node or point.path or ""
        return Aim(device.address, device.unit, "", 0, 0, node.strip())
    at = parse_point(
        point.address, point.type, point.order, base=device.base, default_order=device.order
    )
    if not at.area.writable:
        text = f'found "{point.address}", which a device lets nobody write; c: and hr: can be'
        raise PointError(key="", text=text)
    if not at.area.of_bits and at.boolean:
        text = f'found "{point.address}", but one bit of a register cannot be written alone'
        raise PointError(key="", text=text)
    return Aim(device.address, device.unit, at.area.value, at.address, at.width)


def check_value(target: Target, value: float) -> None:
    """Raises RequestError for a value that a Modbus point cannot hold; other devices say so."""
    if not target.modbus:
        return
    device, point = target.device, target.points[0].point
    parsed = parse_point(
        point.address,
        point.type,
        point.order,
        scale=point.scale,
        offset=point.offset,
        base=device.base,
        default_order=device.order,
    )
    if not parsed.boolean:
        encode_registers(parsed, value)
    elif value not in (0.0, 1.0):
        text = f"{describe(parsed)} takes 0 or 1, not {value:g}"
        raise RequestError(text)


def same(seen: Value, value: float) -> bool:
    """Whether a reading is the value, as far as the device's type can tell."""
    if seen.quality is Quality.BAD and math.isnan(seen.value):
        return False
    return math.isclose(seen.value, value, rel_tol=RELATIVE, abs_tol=1e-12)


async def write_and_read_back(target: Target, value: float, around: "Surroundings") -> Written:
    """Write once, never twice, and read what is there then, over a new connection if need be.

    Raises DriverError only where nothing was sent: no connection.
    """
    async with opened(target, around) as device:
        refused = False
        try:
            await device.write(value)
            acknowledged, trouble = True, ""
        except DriverError as error:
            acknowledged, trouble = False, str(error)
            refused = isinstance(error, RequestError) or (  # not sent, or not taken
                isinstance(error, ExceptionReply) and error.code in REFUSALS
            )
        if acknowledged:
            try:
                return Written(acknowledged, (await device.read())[0])
            except DriverError as error:
                trouble = f"not read back: {error}"
    try:
        back = (await read_once(target, around))[0]
        return Written(acknowledged, back, trouble, refused=refused)
    except DriverError as error:
        return Written(acknowledged, None, trouble or str(error), refused=refused)
