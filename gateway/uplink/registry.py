"""From an uplink's table in the site file to the uplink."""

from typing import TYPE_CHECKING

from gateway.uplink.http import HttpUplink
from gateway.uplink.mqtt import MqttUplink

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender


def make_uplink(
    config: "UplinkConfig", sender: "Sender", credentials: "Credentials | None" = None
) -> MqttUplink | HttpUplink:
    """The uplink of a checked site file, not connected."""
    made = MqttUplink if config.kind == "mqtt" else HttpUplink
    return made(config, sender, credentials)
