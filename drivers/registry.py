"""The drivers by the name that a site file gives."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from drivers import modbus_kinds, opcua_kind, serial_kind, simulated
from drivers.errors import RequestError
from drivers.kind import DriverKind, Limits, PlanningDriver, Surroundings

DRIVERS: Final[Mapping[str, DriverKind]] = {
    kind.name: kind
    for kind in (*modbus_kinds.KINDS, *serial_kind.KINDS, *opcua_kind.KINDS, *simulated.KINDS)
}


def make_driver(
    name: str, device: Any, points: Sequence[tuple[Any, Limits]], around: Surroundings
) -> PlanningDriver:
    """The driver of this name. Raises RequestError where the guard alone speaks to the device."""
    make = DRIVERS[name].make
    if make is None:
        msg = f"{name} devices are polled by the guard alone"
        raise RequestError(msg)
    return make(device, points, around)
