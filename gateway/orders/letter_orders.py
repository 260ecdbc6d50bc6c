"""What people do with dead letters: have them sent again, or give them up; all of it audited."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import StoreError
from gateway.orders.outcome import Exit, Outcome
from gateway.store.letter import DEAD, DISCARDED, QUEUED

if TYPE_CHECKING:
    from gateway.store.ledger import Ledger
    from gateway.store.letter import Letter

_LOGGER = logging.getLogger(__name__)

RESEND: Final = "letters resend"
DISCARD: Final = "letters discard"
ORDER_MAX: Final = 1_000  # letters of one order
_TOLD_MAX: Final = 10


class LetterOrders:
    """Each order is carried out for all of its letters or for none, and raises nothing."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger

    async def resend(self, idents: Sequence[int], reason: str, who: str) -> Outcome:
        """Queue dead letters: their uplinks send them as soon as their links are up."""
        return await self._order(RESEND, idents, reason, who)

    async def discard(self, idents: Sequence[int], reason: str, who: str) -> Outcome:
        """Give letters up, for a reason. What they held is not kept."""
        return await self._order(DISCARD, idents, reason, who)

    async def _order(self, action: str, idents: Sequence[int], reason: str, who: str) -> Outcome:
        idents = sorted(set(idents))
        try:
            found = {letter.id: letter for letter in await self._ledger.letters.some(idents)}
            if refusal := _refusal(action, idents, found):
                return refusal
            uplinks = ",".join(sorted({letter.uplink for letter in found.values()}))
            detail: dict[str, Any] = {"letters": idents, "reason": reason}
            seq = await self._ledger.command(who, action, uplinks, detail)
            done = await self._carry_out(action, idents, reason)
        except StoreError as error:
            text = f"not done: the ledger cannot take it ({error})"
            return Outcome(exit_code=Exit.FAILED, code=0, text=text)
        text = f"{_words(len(done))} {'discarded' if action == DISCARD else 'queued to be sent'}"
        try:
            await self._ledger.command_result(seq, 1, text)
        except StoreError as error:
            _LOGGER.warning("the result of %s is not in the audit: %s", action, error)
        details = {"letters": [letter.id for letter in done], "uplinks": uplinks.split(",")}
        return Outcome(exit_code=Exit.DONE, code=0, text=text, confirmed=True, details=details)

    async def _carry_out(self, action: str, idents: Sequence[int], reason: str) -> "list[Letter]":
        if action == DISCARD:
            return await self._ledger.letters.discard(idents, reason)
        return await self._ledger.letters.mark(idents)


def _refusal(action: str, idents: Sequence[int], found: "dict[int, Letter]") -> Outcome | None:
    """The outcome of an order that is not carried out, None where nothing stands against it."""
    if not idents or len(idents) > ORDER_MAX:
        text = f"an order is for 1 to {ORDER_MAX} letters"
        return Outcome(exit_code=Exit.USAGE, code=0, text=text)
    if missing := [ident for ident in idents if ident not in found]:
        text = f"there is no letter {_list(missing)}; look with 'sitewarden letters --all'"
        return Outcome(exit_code=Exit.USAGE, code=0, text=text, details={"unknown": missing})
    allowed = (DEAD, QUEUED) if action == DISCARD else (DEAD,)
    if wrong := [found[ident] for ident in idents if found[ident].state not in allowed]:
        text = "nothing was done: " + "; ".join(
            f"letter {letter.id} is {letter.state} already" for letter in wrong[:_TOLD_MAX]
        )
        code = Exit.ALREADY if all(_is_so(action, letter) for letter in wrong) else Exit.FAILED
        return Outcome(exit_code=code, code=0, text=text)
    return None


def _is_so(action: str, letter: "Letter") -> bool:
    """True where what was ordered is so."""
    return (letter.state == DISCARDED) == (action == DISCARD)


def _list(idents: Sequence[int]) -> str:
    more = f" and {len(idents) - _TOLD_MAX} more" if len(idents) > _TOLD_MAX else ""
    return ", ".join(map(str, idents[:_TOLD_MAX])) + more


def _words(count: int) -> str:
    return f"{count} letter" if count == 1 else f"{count} letters"
