"""From an uplink's table in the site file to the uplink."""

from typing import TYPE_CHECKING, Final

from gateway.uplink.file import FileUplink
from gateway.uplink.http import HttpUplink
from gateway.uplink.mqtt import MqttUplink

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

AnyUplink = MqttUplink | HttpUplink | FileUplink

_KINDS: Final[dict[str, type[AnyUplink]]] = {
    "mqtt": MqttUplink,
    "http": HttpUplink,
    "file": FileUplink,
}


def make_uplink(
    config: "UplinkConfig", sender: "Sender", credentials: "Credentials | None" = None
) -> AnyUplink:
    """The uplink of a checked site file, not connected."""
    return _KINDS[config.kind](config, sender, credentials)
