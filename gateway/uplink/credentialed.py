"""An uplink whose credentials are read when it connects.

A credential that is missing or refused is then a link that is refused: told once, tried again, and
healed by the file alone. Renewed certificates are taken at the next session.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from gateway.uplink.base import (
    Acknowledges,
    LinkRefusedError,
    Noticing,
    Outgoing,
    Verdict,
    Watched,
)
from gateway.uplink.http import HttpUplink
from gateway.uplink.registry import make_uplink

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender
    from gateway.uplink.registry import AnyUplink

_LOGGER = logging.getLogger(__name__)


class CredentialedUplink:
    """The uplink of ``config``, each session by what ``load`` gives then.

    ``load(name)`` raises GatewayError for credentials that are missing or not to be used.
    """

    def __init__(
        self,
        config: "UplinkConfig",
        sender: "Sender",
        load: "Callable[[str], Credentials]",
    ) -> None:
        self._config = config
        self._sender = sender
        self._load = load
        self._uplink: AnyUplink | None = None
        self.acknowledges = Acknowledges.NONE

    @property
    def certificate_not_after_utc_ns(self) -> int:
        """When the certificate in use expires, 0 where it is not known."""
        return getattr(self._uplink, "certificate_not_after_utc_ns", 0)

    @property
    def notices(self) -> Mapping[str, str]:
        """What the uplink has noticed, by subject."""
        return self._uplink.notices if isinstance(self._uplink, Noticing) else {}

    async def connect(self) -> bool:
        """Read the credentials and open a session. Raises UplinkError."""
        credentials = self._loaded(self._config.credentials)
        by_proxy = self._loaded(self._config.proxy_credentials)
        uplink = self._uplink or make_uplink(self._config, self._sender)
        uplink.credentials = credentials
        if isinstance(uplink, HttpUplink):
            uplink.proxy_credentials = by_proxy
        self._uplink = uplink
        self.acknowledges = uplink.acknowledges
        return await uplink.connect()

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        """Send by the session that is open. Raises UplinkError."""
        return await self._session().send(lane, items)

    async def lost(self) -> None:
        """Raises UplinkError when the session ends; otherwise never returns."""
        uplink = self._session()
        if isinstance(uplink, Watched):
            await uplink.lost()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Leave in an orderly way; never raises."""
        if self._uplink is not None:
            await self._uplink.close()

    def _loaded(self, name: str | None) -> "Credentials | None":
        try:
            return self._load(name) if name else None
        except GatewayError as error:
            raise LinkRefusedError(str(error)) from error

    def _session(self) -> "AnyUplink":
        if self._uplink is None:
            msg = "no session"
            raise LinkRefusedError(msg)
        return self._uplink
