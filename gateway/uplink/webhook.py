"""Standard Webhooks: who receives a POST can see that it is ours and that nobody changed it.

Signed is ``<id>.<timestamp>.<body>`` by HMAC-SHA256, with each key that there is, so that a
receiver may change to a new one while the old one still counts. The body is the JSON as it was
before any compression.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence


def identity(body: bytes) -> str:
    """The same for the same bytes, whenever they are sent: the message's id."""
    return f"msg_{hashlib.sha256(body).hexdigest()[:32]}"


def headers(keys: Sequence[bytes], ident: str, utc_s: int, body: bytes) -> Mapping[str, str]:
    """``webhook-id``, ``webhook-timestamp``, ``webhook-signature``."""
    signed = f"{ident}.{utc_s}.".encode() + body
    signatures = (
        base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys
    )
    return {
        "webhook-id": ident,
        "webhook-timestamp": str(utc_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
