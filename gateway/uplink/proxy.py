"""The HTTP proxy between us and a platform: the one that the site file names, or none.

The environment counts only where the site file says so (``proxy = "environment"``): what a login
shell happened to export must not send alerts to another place.
"""

from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from aiohttp import encode_basic_auth
from msgspec import Struct

from gateway.uplink.base import LinkRefusedError

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials

ENVIRONMENT: Final = "environment"


class Proxy(Struct, frozen=True):
    """Where requests go first; ``authorization`` is a header's value, "" for none."""

    url: str
    authorization: str = ""


def proxy_of(setting: str | None, url: str, credentials: "Credentials | None") -> Proxy | None:
    """The proxy on the way to ``url``; None: go straight there. Raises LinkRefusedError."""
    if setting is None:
        return None
    if setting != ENVIRONMENT:
        return Proxy(setting, _authorization(credentials))
    target = urlsplit(url)
    proxies: dict[str, str] = getproxies_environment()
    found = proxies.get(target.scheme) or proxies.get("all")
    if not found or proxy_bypass(target.hostname or ""):
        return None
    parts = urlsplit(found if "://" in found else f"http://{found}")
    if parts.scheme != "http" or not parts.hostname:
        msg = f"the environment's proxy for {target.scheme} is no http:// proxy"
        raise LinkRefusedError(msg)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    bare = f"http://{host}:{parts.port or 80}"
    if credentials is not None or parts.username is None:
        return Proxy(bare, _authorization(credentials))
    return Proxy(bare, _basic(unquote(parts.username), unquote(parts.password or "")))


def _authorization(credentials: "Credentials | None") -> str:
    if credentials is None or credentials.username is None:
        return ""
    password = credentials.password.reveal() if credentials.password else ""
    return _basic(credentials.username, password)


def _basic(username: str, password: str) -> str:
    try:
        return encode_basic_auth(username, password)
    except ValueError as error:
        msg = f"the proxy's user name: {error}"
        raise LinkRefusedError(msg) from error
