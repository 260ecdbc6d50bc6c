"""What the guard says stands, beside what a ledger has that began from a damaged one.

A raise whose alert was lost would have an end that belongs to nothing, and a raise whose end was
lost would stand for ever. The guard knows both: by its journal as far back as that goes, and by the
states of its interlocks.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.store.alert import AlertDraft

if TYPE_CHECKING:
    from fastpath.journal import GuardView
    from fastpath.records import Event

BATCH_MAX: Final = 256  # records between two turns of the loop
AGAIN: Final = "told anew, the ledger that had it was damaged"


async def differences(
    view: "GuardView",
    before: int,
    words: "Callable[[Event], Iterable[AlertDraft]]",
    standing: "Callable[[GuardView, int], Iterable[AlertDraft]]",
    raised: Callable[[], Collection[str]],
) -> list[AlertDraft]:
    """The raises and ends to be told so that the ledger has what the guard has.

    Of the journal's records below ``before``; the others come by themselves. ``standing`` gives
    what is known without the journal, ``raised`` the ledger's subjects.
    """
    newest = {draft.subject: draft for draft in standing(view, before)}
    seq = 1
    while events := [event for event in view.events(seq, BATCH_MAX) if event.seq < before]:
        for event in events:
            newest |= {draft.subject: draft for draft in words(event) if _tells(draft)}
        seq = events[-1].seq + 1
        await asyncio.sleep(0)
    there = raised()
    return [
        msgspec.structs.replace(draft, cause=f"{draft.cause} ({AGAIN})", journal_seq=0)
        for draft in newest.values()
        if (draft.state == "raised") is not (draft.subject in there)
    ]


def _tells(draft: AlertDraft) -> bool:
    """Whether something stands, or does no more, by this."""
    return bool(draft.subject) and draft.state != "event"
