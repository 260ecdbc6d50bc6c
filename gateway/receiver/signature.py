"""Checking Standard Webhooks signatures: HMAC-SHA256 over ``<id>.<timestamp>.<body>``.

The body is the JSON, whatever Content-Encoding it travelled in. See standardwebhooks.com.
"""

import base64
import binascii
import hmac
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gateway.errors import GatewayError

TOLERANCE_S: Final = 300  # between the sender's clock and ours, either way
_PREFIX: Final = "whsec_"
_VERSION: Final = "v1"


class Verifier:
    """One secret. ``utc_ns``: our clock."""

    def __init__(self, secret: str, utc_ns: Callable[[], int] = time.time_ns) -> None:
        """Raises GatewayError where the text is no secret."""
        try:
            self._key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            self._key = b""
        if not self._key:
            msg = f'the secret: expected "{_PREFIX}" and base64'
            raise GatewayError(msg)
        self._utc_ns = utc_ns

    @classmethod
    def of_file(cls, path: Path) -> "Verifier":
        """Raises GatewayError where the file cannot be read or has no secret."""
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
            raise GatewayError(msg) from error

    def refusal(self, headers: Mapping[str, str], body: bytes) -> str:
        """Why it is not taken; "" where it is signed as it should be."""
        ident = headers.get("webhook-id", "")
        stamp = headers.get("webhook-timestamp", "")
        signatures = headers.get("webhook-signature", "").split()
        if not ident or not signatures:
            return "no signature (webhook-id, webhook-timestamp, webhook-signature)"
        if not stamp.isascii() or not stamp.isdecimal():
            return "webhook-timestamp: expected seconds of Unix time"
        away_s = abs(self._utc_ns() // 1_000_000_000 - int(stamp))
        if away_s > TOLERANCE_S:
            return f"webhook-timestamp: {away_s} s away from our clock, at most {TOLERANCE_S} s"
        signed = f"{ident}.{stamp}.".encode() + body
        wanted = base64.b64encode(hmac.digest(self._key, signed, "sha256")).decode()
        for signature in signatures:
            version, _, value = signature.partition(",")
            if version == _VERSION and hmac.compare_digest(value.encode(), wanted.encode()):
                return ""
        return "the signature is not of this secret and body"
