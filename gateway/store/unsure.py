"""A commit of which nobody knows: its sync has failed, and it may be in the file all the same.

What it would have stored is remembered until the file can be read again. A draft is told by its
identity: whoever could not append it appends the same object once more.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aiosqlite import Connection

from gateway.store.alert import AlertDraft
from gateway.store.batch import Batch
from gateway.store.sqlite_file import value_of

STORED_MAX: Final = 2_000  # the newest: not everybody comes again


class _Tried(NamedTuple):
    """One transaction; ``seqs`` are those of ``drafts``, ``first`` is its first alert."""

    epoch: int
    first: tuple[int, bytes] | None  # (seq, body); None: it has none, and may be made again
    drafts: Sequence[AlertDraft]
    seqs: Sequence[int]


class Unsure:
    """The transaction that is under way or has failed, and the drafts of such that were stored."""

    def __init__(self) -> None:
        self._tried: _Tried | None = None
        self._stored: dict[int, tuple[AlertDraft, int]] = {}  # the draft is held: its id stays its

    @property
    def told(self) -> Mapping[int, int]:
        """Numbers in the file, by the ``id()`` of drafts whose appending has failed."""
        return {ident: seq for ident, (_, seq) in self._stored.items()}

    async def look(self, connection: Connection, epoch: int) -> None:
        """See whether the one that failed is there; before the next one is worked out."""
        tried = self._tried
        if tried is None or tried.first is None or tried.epoch != epoch:
            return
        seq, body = tried.first
        found = await value_of(connection, "SELECT body FROM alert WHERE seq = ?", (seq,))
        self._tried = None  # now that it could be read
        if found != body:
            return
        for draft, seq in zip(tried.drafts, tried.seqs, strict=True):
            self._stored[id(draft)] = draft, seq
        while len(self._stored) > STORED_MAX:
            del self._stored[next(iter(self._stored))]

    def trying(self, batch: Batch, drafts: Sequence[AlertDraft]) -> None:
        """It is written, and about to be committed."""
        first = (batch.rows[0][0], batch.rows[0][-1]) if batch.rows else None
        self._tried = _Tried(batch.epoch, first, drafts, batch.seqs)

    def settle(self) -> None:
        """It is committed, and who made it is told so."""
        if self._tried is not None:
            for draft in self._tried.drafts:
                self._stored.pop(id(draft), None)
        self._tried = None
