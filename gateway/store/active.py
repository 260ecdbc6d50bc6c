"""Raises as they are read back: what stands in the file must be the alert that it names.

Nothing else guards these rows, and everybody who looks at what is wrong now reads them.
"""

import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.store.alert import ActiveAlert, Alert

Fetch = Callable[[int], tuple[Any, Any] | None]  # (crc32, body) of the alert of a sequence

STORED = "SELECT crc32, body FROM alert WHERE seq = ?"


def is_sound(item: ActiveAlert) -> bool:
    """Whether the body is an alert, of the id that it has."""
    alert = _decoded(item.body)
    return alert is not None and alert.id == item.id


def seqs_of(item: ActiveAlert) -> list[int]:
    """The sequences that its alert may have."""
    return [_seq_of(ident) for ident in _idents_of(item)]


def mended(item: ActiveAlert, fetch: Fetch) -> ActiveAlert | None:
    """It as it was, where it is sound or its alert can still be read; None where neither is."""
    if is_sound(item):
        return item
    for ident in _idents_of(item):
        crc32, body = fetch(_seq_of(ident)) or (0, None)
        if isinstance(body, bytes) and zlib.crc32(body) == crc32:
            alert = _decoded(body)
            if alert is not None and alert.id == ident:
                return ActiveAlert(item.subject, ident, body)
    return None


def _decoded(body: bytes) -> Alert | None:
    try:
        return msgspec.json.decode(body, type=Alert)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _idents_of(item: ActiveAlert) -> list[str]:
    own = _decoded(item.body)
    return [own.id, item.id] if own else [item.id]


def _seq_of(ident: str) -> int:
    digits = ident.rpartition("/")[2]
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else 0
