"""Keys and drivers of the site file's grammar that this version does not offer yet."""

from typing import Final

_OPCUA: Final = "OPC UA devices"

LATER_KEYS: Final[dict[str, dict[str, str]]] = {
    "device": {
        "backup": "a second address of a device",
        "alive": "a register that proves a device live",
        "security": _OPCUA,
        "mode": _OPCUA,
        "insecure": _OPCUA,
        "server_certificate": _OPCUA,
        "read": _OPCUA,
        "sampling": _OPCUA,
        "queue": _OPCUA,
    },
    "tag": {
        "point.length": "text tags",
        "point.node": _OPCUA,
        "point.path": _OPCUA,
        "point.index": _OPCUA,
        "point.deadband": _OPCUA,
    },
}
LATER_DRIVERS: Final = ("opcua", "sim")
