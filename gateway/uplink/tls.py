"""TLS contexts of the uplinks, made from credentials off the event loop at every connect.

At every connect, so that a certificate that was renewed in place is taken up by itself.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gateway.errors import UplinkError
from gateway.uplink.base import LinkRefusedError

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials

_DATES: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_OLD: Final = ("UNSUPPORTED_PROTOCOL", "ALERT_PROTOCOL_VERSION")
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


async def client_context(credentials: "Credentials | None") -> ssl.SSLContext:
    """A verifying client context: our CA or the system's, our certificate where there is one.

    Raises LinkRefusedError where a file is missing or is no certificate.
    """
    try:
        return await asyncio.to_thread(_build, credentials)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        msg = f"cannot load the certificates: {_text(error)}"
        raise LinkRefusedError(msg) from error


def refusal_of(error: BaseException) -> str | None:
    """What a failed handshake says of certificates; None where it failed for another reason."""
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = getattr(error, "verify_message", None) or error.strerror
        return f"the server's certificate is not accepted: {detail}{_by_our_clock(error)}"
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    if not reason:
        return None
    if any(word in reason for word in _OLD):
        return f"the server offers no TLS 1.2 or newer: {reason}"
    if any(word in reason for word in _NO_TLS):
        return f"the server does not speak TLS there: {reason}"
    if "ALERT" in reason:
        return f"the server refuses the TLS handshake: {reason}"
    return None


def stream_error(host: str, port: int, error: OSError) -> UplinkError:
    """What a connection that could not be made means."""
    place = f"{host}:{port}"
    refusal = refusal_of(error)
    if refusal:
        return LinkRefusedError(f"{place}: {refusal}")
    if isinstance(error, TimeoutError):
        return UplinkError(f"{place}: no answer in time")
    return UplinkError(f"{place}: {_text(error)}")


def not_after_utc_ns(secure: object) -> int:
    """When the server's certificate ends; 0 where there is none."""
    if not isinstance(secure, ssl.SSLSocket | ssl.SSLObject):
        return 0
    ends = (secure.getpeercert() or {}).get("notAfter")
    return int(ssl.cert_time_to_seconds(ends)) * 1_000_000_000 if isinstance(ends, str) else 0


def watch_peer(context: ssl.SSLContext, told: Callable[[int], None]) -> None:
    """After each handshake of asyncio's streams ``told`` gets when the server's certificate ends.

    An HTTP client has let its connection go by the time at which one could ask it.
    """

    class Watching(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            told(not_after_utc_ns(self))

    context.sslobject_class = Watching


def _build(credentials: "Credentials | None") -> ssl.SSLContext:
    context = _trusting(credentials)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _trusting(credentials: "Credentials | None") -> ssl.SSLContext:
    """Names and chains are checked by ``create_default_context``; nothing turns that off."""
    if credentials is None:
        return ssl.create_default_context()
    ca, cert, key = credentials.ca_path, credentials.cert_path, credentials.key_path
    for path in (ca, cert, key):
        if path:
            path.read_bytes()  # the ssl module does not say which file it did not find
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    if cert:
        context.load_cert_chain(str(cert), str(key) if key else None)
    return context


def _by_our_clock(error: ssl.SSLCertVerificationError) -> str:
    """A date that does not fit may be the certificate's fault, or that of a clock after a boot."""
    if error.verify_code not in _DATES:
        return ""
    now = datetime.fromtimestamp(time.time_ns() // 1_000_000_000, UTC)
    return f" by our clock, which says {now:%Y-%m-%d %H:%M} UTC"


def _text(error: Exception) -> str:
    filename = getattr(error, "filename", None)
    strerror = getattr(error, "strerror", None)
    return f"{filename}: {strerror}" if filename else str(strerror or error)
