"""Dead letters as people and programs see them."""

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from gateway.store.alert import rfc3339

if TYPE_CHECKING:
    from gateway.store.letter import Letter

PAGE_MAX: Final = 1_000  # letters of one answer


class LetterRow(Struct, frozen=True, kw_only=True):
    """``letters --json``: a list of these."""

    id: int
    uplink: str
    lane: str
    epoch: int
    seq: int
    reason: str
    time: str  # when it was refused
    state: str
    changed: str
    note: str
    body: Any = None  # of one that is shown alone


def row_of(letter: "Letter") -> LetterRow:
    """One letter; its body only where it was read."""
    return LetterRow(
        id=letter.id,
        uplink=letter.uplink,
        lane=letter.lane,
        epoch=letter.epoch,
        seq=letter.seq,
        reason=letter.reason,
        time=rfc3339(letter.utc_ns),
        state=letter.state,
        changed=rfc3339(letter.changed_ns),
        note=letter.note,
        body=_content(letter.body),
    )


def _content(body: bytes) -> Any:
    """The JSON; what is none is shown as the text that it is."""
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode(errors="replace")
