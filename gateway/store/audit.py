"""The audit's entries and the chain that they form.

An entry's ``body`` is canonical JSON: UTF-8, keys sorted by code point at every depth, no blanks,
no line's end. Its hash is the SHA-256 of exactly these bytes, and ``prev`` of the next entry is
that hash in hexadecimal; the first entry's ``prev`` is empty. So whoever
has the bodies, one to a line, and a head that left the box needs nothing of ours::

    prev=; while IFS= read -r body; do
      test "$(jq -r .prev <<<"$body")" = "$prev" || echo "does not fit: $body"
      prev=$(printf %s "$body" | sha256sum | cut -d' ' -f1)
    done; echo "$prev"
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

import msgspec

from gateway.store.alert import rfc3339

COMMAND: Final = "command"
RESULT: Final = "result"
NOTE: Final = "note"
PROOF: Final = "proof"  # the result of a proof test
ROWS: Final = (  # as the disk has them: an edited text may be none any more
    "SELECT seq, CAST(kind AS BLOB), CAST(action AS BLOB), body, hash FROM audit "
    "WHERE seq > ? ORDER BY seq LIMIT ?"
)

PAGE: Final = 1_000  # of ROWS, at a time

_NS_PER_S: Final = 1_000_000_000
_CANONICAL: Final = msgspec.json.Encoder(order="sorted")


@dataclass(slots=True)
class AuditEntry:
    """One link of the chain; ``detail`` is JSON."""

    seq: int
    utc_ns: int
    kind: str
    ref: int | None  # result: the command's seq
    who: str
    action: str
    target: str
    detail: str

    def sealed(self, before: bytes, was: str = "") -> tuple[bytes, bytes]:
        """(body, hash) of this entry after the one whose hash is ``before``.

        ``was``: the hash, hexadecimal, that this entry had in a chain before this one.
        """
        fields: dict[str, Any] = {
            "seq": self.seq,
            "time": rfc3339(self.utc_ns),
            "kind": self.kind,
            "ref": self.ref,
            "who": self.who,
            "action": self.action,
            "target": self.target,
            "detail": _decoded(self.detail),
            "prev": before.hex(),
        }
        if was:
            fields["was"] = was
        body = _CANONICAL.encode(fields)
        return body, hashlib.sha256(body).digest()

    @classmethod
    def of(cls, body: bytes) -> Self:
        """The entry of a body. Raises ValueError where it is none of ours."""
        try:
            f = msgspec.json.decode(body, type=_Body)
            utc_ns = _utc_ns(f.time)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            msg = f"no entry of an audit: {error}"
            raise ValueError(msg) from error
        detail = msgspec.json.encode(f.detail).decode()
        return cls(f.seq, utc_ns, f.kind, f.ref, f.who, f.action, f.target, detail)


class ChainError(Exception):
    """The chain does not hold at entry ``seq``; the text says how."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(f"entry {seq} {why}")
        self.seq = seq


class Chain:
    """Fed with the rows of ``ROWS`` in order."""

    def __init__(self) -> None:
        self.entries = 0
        self.head = b""

    def take(self, row: tuple[Any, ...]) -> tuple[AuditEntry, str]:
        """The entry of the next row, and the hash that it had before. Raises ChainError."""
        seq, kind, action, body, stated = row
        due = self.entries + 1
        if seq != due:
            raise ChainError(due, "is missing")
        if not isinstance(body, bytes) or hashlib.sha256(body).digest() != stated:
            raise ChainError(due, "has another content than the one that was hashed")
        try:
            fields = msgspec.json.decode(body, type=_Body)
            entry = AuditEntry.of(body)
        except (msgspec.MsgspecError, ValueError):
            raise ChainError(due, "is no entry of an audit") from None
        if fields.prev != self.head.hex():
            raise ChainError(due, "does not follow the entry before it")
        if (entry.seq, entry.kind.encode(), entry.action.encode()) != (seq, kind, action):
            raise ChainError(due, "is filed as something else than it is")
        self.entries, self.head = due, stated
        return entry, fields.was


class _Body(msgspec.Struct):
    seq: int
    time: str
    kind: str
    ref: int | None
    who: str
    action: str
    target: str
    detail: Any
    prev: str
    was: str = ""


def _decoded(detail: str) -> Any:
    """The JSON; a text that is none stays a text."""
    try:
        return msgspec.json.decode(detail)
    except msgspec.DecodeError:
        return detail


def _utc_ns(text: str) -> int:
    """UTC ns of our RFC 3339 text with 9 digits. Raises ValueError."""
    if len(text) != len("2026-01-01T00:00:00.000000000Z"):
        msg = "its time is none"
        raise ValueError(msg)
    seconds = int(datetime.fromisoformat(f"{text[:19]}+00:00").timestamp())
    return seconds * _NS_PER_S + int(text[20:29])
