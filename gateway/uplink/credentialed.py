"""An uplink whose credentials are read when it connects.

A credential that is missing or refused is then a link that is refused: told once, tried again, and
healed by the file alone. Renewed certificates are taken at the next session. A platform that
answers and does not let a lane in (a token that is over) ends no session: there the files are
looked at before that lane is tried again, and other ones begin a session of their own. So do those
that were renewed in time where what the session was begun with is refused at last: no link refused.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, UplinkError
from gateway.uplink.base import (
    Acknowledges,
    LinkRefusedError,
    Noticing,
    Outgoing,
    Retry,
    TakenOverError,
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
        self._used: tuple[bytes, ...] = ()  # digests of what the session has
        self._denied: set[str] = set()  # lanes
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
        self._used = await asyncio.to_thread(_digests, (credentials, by_proxy))
        self._denied.clear()
        uplink = self._uplink or make_uplink(self._config, self._sender)
        uplink.credentials = credentials
        if isinstance(uplink, HttpUplink):
            uplink.proxy_credentials = by_proxy
        self._uplink = uplink
        self.acknowledges = uplink.acknowledges
        return await uplink.connect()

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        """Send by the session that is open. Raises UplinkError, also where one has to begin."""
        if lane in self._denied and await self._have_changed():
            msg = "the credentials are other ones now"
            raise UplinkError(msg)
        try:
            verdicts = await self._session().send(lane, items)
        except LinkRefusedError as error:
            raise await self._for_what_is_held(error) from error
        if any(isinstance(verdict, Retry) and verdict.denied for verdict in verdicts):
            self._denied.add(lane)
        else:
            self._denied.discard(lane)
        return verdicts

    async def lost(self) -> None:
        """Raises UplinkError when the session ends; otherwise never returns."""
        uplink = self._session()
        if isinstance(uplink, Watched):
            try:
                await uplink.lost()
            except LinkRefusedError as error:
                raise await self._for_what_is_held(error) from error
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

    async def _for_what_is_held(self, error: LinkRefusedError) -> UplinkError:
        """A refusal of what the session was begun with says nothing of what is held now."""
        if isinstance(error, TakenOverError) or not await self._have_changed():
            return error
        return UplinkError(f"{error}; the credentials are other ones now")

    async def _have_changed(self) -> bool:
        config = self._config
        try:
            held = [self._loaded(name) for name in (config.credentials, config.proxy_credentials)]
        except LinkRefusedError:
            return False  # what cannot be used now is no better
        return await asyncio.to_thread(_digests, held) != self._used

    def _session(self) -> "AnyUplink":
        if self._uplink is None:
            msg = "no session"
            raise LinkRefusedError(msg)
        return self._uplink


def _digests(held: "Sequence[Credentials | None]") -> tuple[bytes, ...]:
    """Two of them differ where a text or a file does. A file that cannot be read has none."""
    return tuple(digest for credentials in held for digest in _digests_of(credentials))


def _digests_of(credentials: "Credentials | None") -> list[bytes]:
    if credentials is None:
        return [b""]
    secrets = (credentials.password, credentials.webhook_secret)
    texts = [credentials.username or "", *(secret.reveal() if secret else "" for secret in secrets)]
    paths = (credentials.ca_path, credentials.cert_path, credentials.key_path)
    parts = [text.encode() for text in texts]
    for path in paths:
        try:
            parts.append(path.read_bytes() if path else b"")
        except OSError:
            parts.append(b"")
    return [hashlib.sha256(part).digest() for part in parts]
