"""What the keys of an uplink must be beside each other."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from gateway.site.complaints import shown
from gateway.site.convert import Entry
from gateway.site.model import Uplink

Flaw = tuple[tuple[str, ...], str]

SCHEMES: Final = {"mqtt": ("mqtt", "mqtts"), "http": ("http", "https")}
OWN_KEYS: Final = {  # of one kind of uplink alone
    "mqtt": ("backup_urls", "group"),
    "http": ("sign", "gzip_above", "proxy", "proxy_credentials"),
    "file": ("rotate_bytes", "rotate_after", "max_files", "max_bytes", "template"),
}
ACKNOWLEDGES: Final = {"mqtt": "broker", "http": "stored", "file": "stored"}
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
ENVIRONMENT: Final = "environment"
ROTATE_BYTES_MIN: Final = 1_000
FILES_BYTES_MIN: Final = 1_000_000


def flaws_of(entry: Entry[Uplink]) -> Iterator[Flaw]:
    """What is wrong with an uplink whose keys are each fit by themselves."""
    uplink = entry.item
    if entry.ok("kind", "url"):
        yield from _flaws_of_url(uplink)
    if entry.ok("kind"):
        yield from _flaws_of_kind(entry)
    if entry.ok("lanes") and not uplink.lanes:
        yield ("lanes",), 'found [], expected "alert", "live" or "backfill"'
    if uplink.kind == "mqtt":
        yield from _flaws_of_mqtt(entry)
    elif uplink.kind == "http":
        yield from _flaws_of_http(entry)
    elif uplink.kind == "file":
        yield from _flaws_of_file(entry)


def caution_of(uplink: Uplink) -> Flaw | None:
    """What is allowed and still weak in an uplink without flaws."""
    if uplink.credentials is None:
        return None
    for key, url in (("url", uplink.url), *(("backup_urls", each) for each in uplink.backup_urls)):
        parts = urlsplit(url)
        if parts.scheme in ("http", "mqtt") and parts.hostname not in LOOPBACK:
            text = f"found {parts.scheme}:// with credentials: who listens on the way reads them"
            return (key,), text
    return None


def directory_of(uplink: Uplink) -> str:
    """The directory of a file uplink whose url is a good one."""
    return uplink.url.partition("://")[2].rstrip("/") or "/"


def _flaws_of_url(uplink: Uplink) -> Iterator[Flaw]:
    scheme, separator, rest = uplink.url.partition("://")
    if uplink.kind == "file":
        if scheme != "file" or not rest.startswith("/") or "\0" in rest or rest.strip("/") == "":
            text = f'found {shown(uplink.url)}, expected "file:///directory"'
            yield ("url",), text
        return
    schemes = SCHEMES[uplink.kind]
    if not separator or scheme not in schemes or not _has_host(uplink.url):
        text = f'found {shown(uplink.url)}, expected "{schemes[1]}://host" or "{schemes[0]}://…"'
        yield ("url",), text
    elif "@" in rest.partition("/")[0]:
        yield ("url",), "found a name in the URL, expected credentials by name"


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:  # a bracket that nothing closes
        return False


def _flaws_of_kind(entry: Entry[Uplink]) -> Iterator[Flaw]:
    for kind, keys in OWN_KEYS.items():
        if kind == entry.item.kind:
            continue
        for key in keys:
            if key in entry.raw and entry.ok(key):
                text = f'found it with kind = "{entry.item.kind}", expected kind = "{kind}"'
                yield (key,), text


def _flaws_of_mqtt(entry: Entry[Uplink]) -> Iterator[Flaw]:
    insecure, secure = SCHEMES["mqtt"]
    encrypted = entry.ok("url") and entry.item.url.startswith(f"{secure}://")
    for url in entry.item.backup_urls if entry.ok("backup_urls") else ():
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES["mqtt"] or not _has_host(url) or "@" in rest.partition("/")[0]:
            text = f'found {shown(url)}, expected "{secure}://host" or "{insecure}://…"'
            yield ("backup_urls",), text
        elif encrypted and scheme == insecure:
            text = f'found {shown(url)} beside an {secure} url, expected "{secure}://host"'
            yield ("backup_urls",), text


def _flaws_of_http(entry: Entry[Uplink]) -> Iterator[Flaw]:
    uplink = entry.item
    if uplink.sign and uplink.credentials is None and entry.ok("sign", "credentials"):
        yield ("sign",), "found true without credentials, expected some with a webhook-secret"
    if uplink.proxy is not None and entry.ok("proxy"):
        flaw = _flaw_of_proxy(uplink.proxy)
        if flaw:
            yield ("proxy",), flaw
    elif uplink.proxy_credentials is not None and entry.ok("proxy", "proxy_credentials"):
        yield ("proxy_credentials",), "found it without a proxy, expected one"


def _flaw_of_proxy(text: str) -> str:
    if text == ENVIRONMENT:
        return ""
    expected = f'expected "http://host:port" or "{ENVIRONMENT}"'
    try:
        parts = urlsplit(text)
        named = parts.scheme == "http" and parts.hostname and parts.port
    except ValueError:
        return f"found {shown(text)}, {expected}"
    if "@" in parts.netloc:
        return f"found a name in the URL, {expected} (and proxy_credentials)"
    if not named or parts.path.strip("/") or parts.query:
        return f"found {shown(text)}, {expected}"
    return ""


def _flaws_of_file(entry: Entry[Uplink]) -> Iterator[Flaw]:
    uplink = entry.item
    for key in ("messages_per_second", "bytes_per_second"):
        if key in entry.raw and entry.ok(key):
            yield (key,), 'found it with kind = "file", expected none'
    for key in ("credentials", "messages_per_second", "bytes_per_second"):
        if key in entry.raw and entry.ok(key):
            yield (key,), 'found it with kind = "file", expected none'
    if uplink.max_bytes < FILES_BYTES_MIN and entry.ok("max_bytes"):
        yield ("max_bytes",), "found less than 1MB, expected 1MB or more"
    if uplink.template is not None and entry.ok("template"):
        for key in ("rotate_bytes", "rotate_after"):
            if key in entry.raw and entry.ok(key):
                yield (key,), "found it with a template, expected none: each send is a file"
    elif entry.ok("rotate_bytes", "max_bytes") and not (
        ROTATE_BYTES_MIN <= uplink.rotate_bytes <= uplink.max_bytes
    ):
        yield ("rotate_bytes",), "found a size out of range, expected 1kB to max_bytes"
