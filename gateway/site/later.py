"""Keys and drivers of the site file's grammar that this version does not offer yet."""

from typing import Final

LATER_KEYS: Final[dict[str, dict[str, str]]] = {
    "device": {},
    "tag": {},
}
LATER_DRIVERS: Final[tuple[str, ...]] = ()
