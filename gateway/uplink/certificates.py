"""When our own certificates end: those that the uplinks show to their platforms."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from gateway.site.credentials import load_credentials

if TYPE_CHECKING:
    from gateway.site.model import Uplink


def client_not_after_utc_ns(uplink: "Uplink", directory: Path | None) -> int:
    """UTC ns of the first end in the uplink's certificate chain; 0 where it has none to show.

    Reads the files at each call, as the uplink does at each session: never on the event loop.
    """
    if not uplink.credentials:
        return 0
    try:
        held = load_credentials(uplink.credentials, directory)  # its paths are good while it lives
        return _first_end(held.cert_path.read_bytes()) if held.cert_path else 0
    except (GatewayError, OSError, ValueError):
        return 0  # the uplink itself tells what is wrong with it


@functools.lru_cache(maxsize=64)
def _first_end(pem: bytes) -> int:
    """Raises ValueError for what is no certificate."""
    from cryptography import x509

    ends = [item.not_valid_after_utc for item in x509.load_pem_x509_certificates(pem)]
    return int(min(ends).timestamp()) * 1_000_000_000
