"""What a platform's answer to a POST means. The table is in :mod:`gateway.uplink.http`."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.uplink.base import ACCEPTED, LinkRefusedError, Refused, Retry, Verdict

DENIED_RETRY_S: Final = 30.0
RETRY_AFTER_S_MAX: Final = 3_600.0
ANSWER_BYTES_MAX: Final = 256 * 1024  # an answer that is longer says nothing that we could check
REFUSED_ITEM: Final = "platform"  # the reason of an item that the answer names

_BAD_ITEM: Final = frozenset({400, 413, 422})
_LATER: Final = frozenset({408, 425, 429})
_MULTI_STATUS: Final = 207
_DETAIL_CHARS: Final = 200
_PAGE_TYPES: Final = ("text/html", "application/xhtml+xml")
_NO_CERTIFICATE: Final = b"ssl certificate"  # nginx answers so, by status 400, and lets nobody in
_JSON_BEGINS: Final = (b"{", b"[")
_FAILURE_WORDS: Final = frozenset({"error", "errors", "exception", "fail", "failed", "failure"})


class ItemError(Struct, frozen=True):
    """One item that the platform did not take: its ``id`` (alerts) or ``seq``, and why."""

    id: str = ""
    seq: int = 0
    reason: str = ""


Answer = Verdict | tuple[ItemError, ...]  # some items by name: every other one is accepted


def answer_of(status: int, headers: Mapping[str, str], body: bytes, url: str) -> Answer:
    """The verdict on a whole POST, or on the items that the answer names.

    Raises LinkRefusedError where a server in front refuses our certificate by a page.
    """
    if status < 400 and _is_page(headers, body):
        return _failed(status, f"{url}: a page came, not an answer (status {status})")
    if 200 <= status < 300:
        return _taken(status, body, url)
    reason = f"{url}: status {status}"
    if status in _BAD_ITEM:
        if _is_page(headers, body) and _NO_CERTIFICATE in body.lower():
            msg = f"{reason}: the server does not accept our certificate, or we showed none"
            raise LinkRefusedError(msg)
        return Refused(f"http_{status}", body[:_DETAIL_CHARS].decode("utf-8", "replace"))
    if status in _LATER:
        return Retry(_retry_after_s(headers), reason)
    if status >= 500:
        return _failed(status, reason, _retry_after_s(headers))
    if status >= 400:
        return Retry(DENIED_RETRY_S, reason, denied=True, fault=f"http_{status}")
    return _failed(status, reason)


def _failed(status: int, reason: str, after_s: float = 0.0) -> Retry:
    """Nobody has stored it, and nobody says whose fault that is."""
    return Retry(after_s, reason, fault=f"http_{status}")


def _taken(status: int, body: bytes, url: str) -> Answer:
    """A status of success, and what the body says beside it."""
    if len(body) > ANSWER_BYTES_MAX:
        return _failed(status, f"{url}: status {status} with an answer that does not end")
    try:
        said = _object(body)
    except (ValueError, RecursionError):
        return _failed(status, f"{url}: status {status} with errors that cannot be read")
    errors = None if said is None else said.get("errors")
    if errors and isinstance(errors, list):
        try:
            named = msgspec.convert(errors, tuple[ItemError, ...])
        except msgspec.ValidationError:
            named = ()
        if named and all(each.id or each.seq for each in named):
            return named
        return _failed(status, f"{url}: status {status} with errors that name no item")
    if said is not None and _tells_failure(said):
        detail = body[:_DETAIL_CHARS].decode("utf-8", "replace")
        return _failed(status, f"{url}: status {status} with an error: {detail}")
    if status == _MULTI_STATUS and errors != []:
        return _failed(status, f"{url}: status {status} without a list of errors")
    return ACCEPTED


def _object(body: bytes) -> dict[str, Any] | None:
    """The JSON object that the answer is; None where it is none.

    Raises ValueError or RecursionError where it begins as JSON does, something in it tells of
    errors and nothing can read it. Some write JSON in another code page or with NaN.
    """
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        try:
            said = json.loads(body.decode("utf-8", "replace"))
        except ValueError:
            if body.lstrip()[:1] in _JSON_BEGINS and b"error" in body.lower():
                raise
            return None  # a word of their own: "OK, 0 errors"
    return said if isinstance(said, dict) else None


def _tells_failure(said: Mapping[str, Any]) -> bool:
    """What gateways and message buses answer with status 200 when they have not taken it."""
    if any(said.get(key) for key in ("error", "errors", "exception")):
        return True
    if any(said.get(key) is False for key in ("success", "ok")):
        return True
    status = said.get("status")
    return isinstance(status, str) and status.lower() in _FAILURE_WORDS


def _is_page(headers: Mapping[str, str], body: bytes) -> bool:
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in _PAGE_TYPES or body.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds or a date, measured by the server's own clock where it says its time; 0: not said."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), RETRY_AFTER_S_MAX)
    try:
        until = parsedate_to_datetime(text)
        if "Date" in headers:
            now = parsedate_to_datetime(headers["Date"])
        else:
            now = datetime.fromtimestamp(time.time_ns() / 1e9, UTC)
        return min(max((until - now).total_seconds(), 0.0), RETRY_AFTER_S_MAX)
    except (TypeError, ValueError):
        return 0.0
