"""What to look at next where a device does not answer: the mistakes that people make with it."""

import contextlib
import os
from pathlib import Path
from typing import Final

from drivers.errors import DriverError
from drivers.modbus import MissedError
from drivers.modbus_link import SilenceError
from gateway.commission.target import SCHEMES, Target
from gateway.site.model import SERIAL_DRIVER, TTY_DRIVERS, Line

TRUST: Final = "opcua trust"
PLAIN: Final = "'?security=None&insecure=true'"
DEV: Final = Path("/dev")
ADAPTERS: Final = ("serial/by-id/*", "ttyUSB*", "ttyACM*")  # the first that has any is shown


def hint(target: Target, error: DriverError) -> str:
    """A question or an advice; empty where there is none."""
    device = target.device
    if isinstance(error, SilenceError | MissedError):
        return _silence(target)
    if device.driver == "modbus-tcp" and "closed the connection" in str(error):
        return f"a Modbus TLS port does so: {_as_driver(target, 'modbus-tls')}?"
    if target.site is None and TRUST in str(error):
        return f"an address alone has no trust list: name a device with --site, or ask {PLAIN}"
    return port_hint(device.address) if device.driver in TTY_DRIVERS else ""


def nobody(target: Target) -> str:
    """Of an address where no unit answered at all."""
    device = target.device
    if device.driver == SERIAL_DRIVER:
        return f"is the line set so: {_line_words(device.line or Line())}?"
    if device.driver == "modbus-rtu-tcp":
        return f"a server that speaks Modbus TCP wants {_as_driver(target, 'modbus-tcp')}"
    if device.driver == "modbus-tcp":
        return f"a server that passes serial frames wants {_as_driver(target, 'modbus-rtu-tcp')}"
    return ""


def port_hint(path: str, dev: Path = DEV) -> str:
    """About a serial port that could not be opened."""
    port = Path(path)
    if not port.exists():
        found = next((sorted(dev.glob(each)) for each in ADAPTERS if any(dev.glob(each))), [])
        there = ", ".join(map(str, found))
        return f"there are {there}" if there else "no serial adapter is plugged in"
    if os.access(port, os.R_OK | os.W_OK):  # opening it may hang, as it has perhaps just done
        return ""
    with contextlib.suppress(OSError, KeyError):
        return f"its group is {port.group()}: is this user in it?"
    return ""


def _silence(target: Target) -> str:
    device = target.device
    if device.driver == SERIAL_DRIVER:
        line = _line_words(device.line or Line())
        return f"is it unit {device.unit}, and is it set to {line}?"
    if device.driver == "modbus-rtu-tcp":
        other = _as_driver(target, "modbus-tcp")
        return f"is there a unit {device.unit}? a server that speaks Modbus TCP wants {other}"
    if device.driver == "modbus-tcp":
        other = _as_driver(target, "modbus-rtu-tcp")
        return f"is there a unit {device.unit}? a server that passes serial frames wants {other}"
    return f"is there a unit {device.unit}?" if target.modbus else ""


def _line_words(line: Line) -> str:
    return f"{line.baud} baud, parity {line.parity}, {line.stop} stop"


def _as_driver(target: Target, driver: str) -> str:
    """As it would be written there: ``tls://``, ``driver = "modbus-tls"``."""
    if target.site is not None:
        return f'driver = "{driver}"'
    return next(f"{scheme}://" for scheme, name in SCHEMES.items() if name == driver)
