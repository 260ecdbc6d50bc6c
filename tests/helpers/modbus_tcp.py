"""The Modbus TCP driver as tests make it, without a site file."""

from collections.abc import Sequence
from typing import Any

from drivers.modbus import ModbusUnit
from drivers.modbus_dial import TcpDial
from drivers.modbus_wire import OwnWire
from drivers.points import ModbusPoint


def modbus_tcp(
    host: str,
    port: int,
    points: Sequence[ModbusPoint],
    *,
    unit: int = 1,
    timeout_s: float = 1.0,
    **settings: Any,
) -> ModbusUnit:
    """One unit with a connection of its own."""
    return ModbusUnit(OwnWire(TcpDial(host, port), unit, timeout_s), points, **settings)
