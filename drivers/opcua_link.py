"""From a device's settings to an open OPC UA session, or to the reason why there is none.

A server is who its certificate says, and its certificate is one that people pinned or trusted.
There is no way from here to a session with less security than the site file asks for.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncua import ua
from asyncua.crypto import security_policies, uacrypto
from cryptography import x509

from drivers.errors import DriverError, LinkError
from drivers.kind import Secrets, Surroundings
from drivers.opcua_certificates import (
    Identity,
    days_left,
    fingerprint,
    first_certificate,
    load_certificate,
    load_identity,
    own_identities,
    refusal,
    trusted,
)
from drivers.opcua_client import OpcUaClient, mapped, within

if TYPE_CHECKING:
    from drivers.opcua_kind import OpcUaDevice

DAYS_TOLD: Final = 30  # before a server's certificate ends
POLICIES: Final[dict[str, type[security_policies.SecurityPolicy]]] = {
    "Basic256Sha256": security_policies.SecurityPolicyBasic256Sha256,
    "Aes128_Sha256_RsaOaep": security_policies.SecurityPolicyAes128Sha256RsaOaep,
    "Aes256_Sha256_RsaPss": security_policies.SecurityPolicyAes256Sha256RsaPss,
}


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Where a server is and how it is spoken to."""

    device: str  # its id, which names its trust list
    url: str
    timeout_s: float
    security: str = "None"  # a name of POLICIES, or None
    mode: str = "SignAndEncrypt"
    server_certificate: Path | None = None  # pinned; else the trust list decides
    credentials: str | None = None


def settings_of(device: "OpcUaDevice") -> LinkSettings:
    """The settings of a device of the site file."""
    pinned = device.server_certificate
    return LinkSettings(
        device=device.id,
        url=device.address,
        timeout_s=device.timeout / 1e9,
        security=device.security,
        mode=device.mode,
        server_certificate=Path(pinned) if pinned is not None else None,
        credentials=device.credentials,
    )


class _UntrustedError(LinkError):
    """Nobody has said yet which certificate is this server's."""


class OpcUaLink:
    """Opens sessions, one after the other."""

    def __init__(self, settings: LinkSettings, around: Surroundings) -> None:
        self._settings = settings
        self._around = around
        self._attempt = 0  # which of our certificates is offered: a renewed one may not be trusted
        self._pinned: x509.Certificate | None = None
        self._own: list[Identity] = []  # newest first
        self._offered: Identity | None = None  # in the session that was opened last

    @property
    def server_not_after_utc_ns(self) -> int:
        """When the server's certificate ends; 0 without security."""
        if self._pinned is None:
            return 0
        return int(self._pinned.not_valid_after_utc.timestamp()) * 1_000_000_000

    def troubles(self) -> dict[str, str]:
        """What people must see to before it is too late, by kind of problem."""
        found = {}
        if self._pinned is not None and days_left(self._pinned) < DAYS_TOLD:
            left = days_left(self._pinned)
            found["server_certificate"] = f"the server's certificate ends in {left} days"
        if self._offered is not None and self._offered != self._own[0]:
            found["own_certificate"] = (
                f"the server does not take our renewed certificate, SHA-256 "
                f"{fingerprint(self._own[0].certificate)}; the old one ends in "
                f"{days_left(self._offered.certificate)} days: trust the new one at the server"
            )
        return found

    async def open(self) -> OpcUaClient:
        """A new session. Raises LinkError or ProtocolError; nothing is left open then."""
        settings = self._settings
        secure = settings.security != "None"
        client = OpcUaClient(settings.url, settings.timeout_s, insecure=not secure)
        pinned: x509.Certificate | None = None
        try:
            if secure:
                pinned = await self._secure(client)
            await self._log_in(client)
            await client.open()
        except DriverError as error:
            reached = client.transport.reached
            # A server that answered may not know our renewed certificate yet.
            self._attempt = self._attempt + 1 if reached else 0
            await client.shut()
            if reached and pinned is not None and (other := await self._other_certificate(pinned)):
                raise LinkError(other) from None
            raise error from None
        except BaseException:
            await client.shut()
            raise
        self._attempt = 0
        return client

    def _papers(self) -> tuple[x509.Certificate, Identity]:
        """The server's certificate and ours. Reads files. Raises LinkError."""
        settings, state_dir = self._settings, self._around.state_dir
        if settings.server_certificate is not None:
            pinned = load_certificate(settings.server_certificate)
        else:
            known = trusted(state_dir, settings.device) if state_dir is not None else []
            if not known:
                text = (
                    "no certificate of this server is trusted: "
                    f'"sitewarden opcua trust SITE {settings.device}" shows and trusts it'
                )
                raise _UntrustedError(text)
            pinned = known[0]
        if said := refusal(pinned):
            raise LinkError(said)
        if state_dir is None:
            text = "no state directory for our own certificate"
            raise LinkError(text)
        self._pinned = pinned
        self._own = own_identities(state_dir)
        self._offered = self._own[self._attempt % len(self._own)]
        return pinned, self._offered

    async def _secure(self, client: OpcUaClient) -> x509.Certificate:
        """Set the security that was asked for; the certificate that the server must show."""
        try:
            pinned, identity = await asyncio.to_thread(self._papers)
        except _UntrustedError:
            await client.knock()  # who is not there has no certificate to trust
            raise
        client.application_uri = identity.uri
        with mapped("our own certificate"):
            await client.set_security(
                POLICIES[self._settings.security],
                identity.certificate_der,
                identity.key_der,
                server_certificate=uacrypto.der_from_x509(pinned),
                mode=ua.MessageSecurityMode[self._settings.mode],
            )
        return pinned

    async def _log_in(self, client: OpcUaClient) -> None:
        """Whom the server shall take us for: a certificate, a name, or nobody."""
        name = self._settings.credentials
        if name is None:
            return
        secrets = self._around.secrets(name)
        if secrets.cert_path is not None and secrets.key_path is not None:
            _log_in_by_certificate(client, secrets.cert_path, secrets.key_path)
        elif secrets.username:  # an empty one would be nobody
            _log_in_by_name(client, secrets)
        else:
            text = f'credentials "{name}": expected username and password, or cert.pem and key.pem'
            raise LinkError(text)

    async def _other_certificate(self, pinned: x509.Certificate) -> str:
        """What there is to say when the server shows another certificate than ``pinned``."""
        try:
            shown = await server_certificate(self._settings)
        except DriverError:
            return ""
        if shown == pinned:
            return ""
        return (
            f"the server shows another certificate, SHA-256 {fingerprint(shown)}, than the trusted "
            f'one, {fingerprint(pinned)}: "sitewarden opcua trust SITE {self._settings.device}"'
        )


async def server_certificate(settings: LinkSettings) -> x509.Certificate:
    """The certificate that the server shows for this security; read over an open line.

    To be shown to people, never to be trusted for that. Raises LinkError or ProtocolError.
    """
    client = OpcUaClient(settings.url, settings.timeout_s)
    try:
        with mapped(f"endpoints of {client.server_url.netloc}"):
            async with within(4 * settings.timeout_s):
                endpoints = await client.connect_and_get_server_endpoints()
            policy, mode = POLICIES[settings.security], ua.MessageSecurityMode[settings.mode]
            for each in endpoints:
                if (each.SecurityPolicyUri, each.SecurityMode) == (policy.URI, mode):
                    return first_certificate(each.ServerCertificate or b"")
    finally:
        await client.shut()
    offered = sorted({_offer(each) for each in endpoints})
    text = f"the server does not offer {settings.security} with {settings.mode}; it offers "
    raise LinkError(text + (", ".join(offered) or "nothing"))


def _offer(endpoint: ua.EndpointDescription) -> str:
    policy = str(endpoint.SecurityPolicyUri).rpartition("#")[2]
    return policy if policy == "None" else f"{policy} with {endpoint.SecurityMode.name}"


def _log_in_by_certificate(client: OpcUaClient, cert_path: Path, key_path: Path) -> None:
    identity = load_identity(cert_path, key_path)
    client.user_certificate = identity.certificate
    client.user_private_key = identity.key


def _log_in_by_name(client: OpcUaClient, secrets: Secrets) -> None:
    client.set_user(secrets.username or "")
    if secrets.password is not None:
        client.set_password(secrets.password.reveal())
