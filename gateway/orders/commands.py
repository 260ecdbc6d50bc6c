"""The operator's hands: every command goes through here, whoever asks.

What weakens protection (reset, release, bypass, stop) is durable in the ledger first and goes to
the guard with its ledger seq and an end of 30 s; what strengthens it (trip, the end of a bypass)
goes at once and is written down after. The answer says what was read back, not what was asked for.
"""

import asyncio
import logging
import os
import pwd
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastpath import blob
from fastpath.codes import MessageType, ResultCode, ResultDetail
from gateway.errors import StoreError
from gateway.guard.board import GuardBoard, interlock_word
from gateway.guard.program_text import Programs
from gateway.orders.bypasses import Bypasses
from gateway.orders.confirm import GUARD_END_S_MAX, Confirmation
from gateway.orders.drills import Drills
from gateway.orders.guard_orders import GuardOrders
from gateway.orders.hands import Hands
from gateway.orders.letter_orders import LetterOrders
from gateway.orders.lookup import interlock_of, output_of
from gateway.orders.outcome import (
    Exit,
    Outcome,
    listed,
    refused,
    settled,
    unknown,
    with_outputs,
)
from gateway.orders.refusal import plain_refusal, reset_refusal
from gateway.times import boot_ns, moment_words, span_words

if TYPE_CHECKING:
    from fastpath.journal import GuardView
    from fastpath.messages import Result
    from gateway.guard.link import GuardLink
    from gateway.orders.substitutions import Substitutions
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)

_STOP_CONFIRMED: Final = 0  # a STOP's detail; 1: not every output has confirmed
UNARMED_TEXT: Final = "UNARMED: no output was moved"
Answered = Callable[[], Awaitable[None]]


async def _nobody() -> None:
    """Whoever waits for nothing before the confirmation."""


class Commands:
    """Trip, reset, release, stop; bypasses, drills, substitutions, dead letters.

    Each gives an Outcome and raises nothing. ``view`` gives the mapped guard.shm or None,
    ``program`` the blob of a program's hash or None.
    ``answered`` is awaited as soon as the guard has answered, before the outputs confirm.
    ``not_after_ns`` (boot time) is when whoever asks gives up: nothing weakens after that.
    """

    def __init__(
        self,
        ledger: "Ledger",
        link: "GuardLink",
        view: "Callable[[], GuardView | None]",
        program: Callable[[bytes], bytes | None],
    ) -> None:
        self._ledger = ledger
        self._programs = Programs(program)
        self._confirmation = confirmation = Confirmation(view, self._programs)
        self._orders = orders = GuardOrders(ledger, link)
        self._hands = hands = Hands()
        self.bypasses: Final = Bypasses(orders, confirmation)
        self.substitutions: Substitutions | None = None  # of a gateway that scans
        self.letters: Final = LetterOrders(ledger)
        self.drills: Final = Drills(orders, ledger, confirmation, hands)

    @property
    def hands(self) -> Hands:
        """Who tripped what by hand a moment ago."""
        return self._hands

    @property
    def programs(self) -> Programs:
        """The texts of the guard's programs, shared with the view."""
        return self._programs

    async def trip(
        self, ident: str, reason: str, who: str, *, answered: Answered = _nobody
    ) -> Outcome:
        """Trip an interlock by hand: at once, written into the ledger after."""
        state = self._confirmation.state()
        if state and ident not in state.text.interlock_index:
            return unknown("interlock", ident, [item.id for item in state.text.interlocks])
        key = blob.key_of("interlock", ident)
        self._hands.note(key, who, reason)
        result = await self._orders.strengthen(MessageType.TRIP, key, who)
        if isinstance(result, Outcome):
            return result
        await answered()
        _, outcome = await asyncio.gather(
            self._orders.write_down(who, "trip", ident, {"reason": reason}, result),
            tripped_outcome(self._confirmation, ident, result),
        )
        return outcome

    async def reset(
        self,
        ident: str,
        generation: int | None,
        reason: str,
        who: str,
        *,
        not_after_ns: int | None = None,
        answered: Answered = _nobody,
    ) -> Outcome:
        """Reset an interlock at the latch generation that was seen (None: the present one)."""
        found = interlock_of(self._confirmation, ident)
        if isinstance(found, Outcome):
            return found
        state, index = found
        latch = state.interlock(index)
        wanted = latch.generation if generation is None else generation
        seen = {"state": interlock_word(latch.state), "generation": latch.generation}
        detail = {"generation": wanted, "reason": reason}
        key = state.text.interlocks[index].key
        sent = await self._orders.weaken(
            MessageType.RESET, key, ident, detail, who, not_after_ns, generation=wanted
        )
        if isinstance(sent, Outcome):
            return sent
        await answered()
        details = {"seen": seen, "generation": wanted}
        if sent.code != ResultCode.DONE:
            return self._reset_refused(ident, sent, wanted, details)
        outputs = _outputs_of(state, index)
        shown = await self._confirmation.released(outputs, besides=ident)
        text = f"{ident} is reset (it was {seen['state']}, generation {wanted})"
        return settled(sent, text, shown, details)

    async def release(
        self,
        ident: str,
        reason: str,
        who: str,
        *,
        not_after_ns: int | None = None,
        answered: Answered = _nobody,
    ) -> Outcome:
        """Let an output that is HELD go to its normal value; a siren falls silent for a time."""
        found = output_of(self._confirmation, ident)
        if isinstance(found, Outcome):
            return found
        state, index = found
        item = state.text.outputs[index]
        generation = state.output(index).generation
        detail = {"generation": generation, "reason": reason}
        sent = await self._orders.weaken(
            MessageType.RELEASE, item.key, ident, detail, who, not_after_ns, generation=generation
        )
        if isinstance(sent, Outcome):
            return sent
        await answered()
        if sent.code != ResultCode.DONE:
            return self._release_refused(ident, index, sent)
        silence = bool(item.silence_ns)
        shown = await self._confirmation.released([ident], silence=silence)
        text, details = self._released_words(ident, index)
        return settled(sent, text, shown, details)

    async def stop_gateway(self, who: str, end: Callable[[], None]) -> Outcome:
        """End this gateway; ``end`` begins it. A ledger that is full does not keep it running."""
        try:
            await self._ledger.command(who, "stop", "gateway", {})
        except StoreError as error:
            _LOGGER.warning("stop by %s is not in the audit: %s", who, error)
        end()
        return Outcome(exit_code=Exit.DONE, code=0, text="stopping", details={"pid": os.getpid()})

    async def stop_guard(
        self,
        reason: str,
        who: str,
        *,
        not_after_ns: int | None = None,
        answered: Answered = _nobody,
    ) -> Outcome:
        """End protection on purpose; with on_stop = trip the guard writes the trip values first.

        It answers when they are confirmed, or their time is over, and then ends.
        """
        state = self._confirmation.state()
        trips = state is None or state.text.stop_trips
        outputs = [item.id for item in state.text.outputs] if state and trips else []
        within_s = self._confirmation.within_ns(outputs) / 1e9 + GUARD_END_S_MAX
        sent = await self._orders.weaken(
            MessageType.STOP, 0, "guard", {"reason": reason}, who, not_after_ns, timeout_s=within_s
        )
        if isinstance(sent, Outcome):
            return sent
        await answered()
        if sent.code != ResultCode.DONE:
            return refused(sent, plain_refusal(sent), {})
        ended = await self._confirmation.guard_ended(GUARD_END_S_MAX)
        text = "the guard has ended" if ended else "the guard has taken it but has not ended"
        if not trips:
            text += "; the outputs were left as they were (on_stop)"
        outcome = settled(
            sent, text, self._confirmation.seen_tripped(outputs), {"guard_alive": not ended}
        )
        if ended and sent.detail == _STOP_CONFIRMED:
            return outcome
        return msgspec.structs.replace(outcome, exit_code=Exit.UNCONFIRMED, confirmed=False)

    def _reset_refused(
        self, ident: str, result: "Result", generation: int, details: dict[str, Any]
    ) -> Outcome:
        state = self._confirmation.state()
        index = state.text.interlock_index.get(ident) if state else None
        if state is None or index is None:
            text = plain_refusal(result)
        else:
            text = reset_refusal(state, index, result, generation)
        return refused(result, text, details)

    def _released_words(self, ident: str, index: int) -> tuple[str, dict[str, Any]]:
        """Released, or only silenced while whoever demands it still does."""
        state = self._confirmation.state()
        until_ns = state.silenced_until_ns(index) if state else 0
        if not until_ns:
            return f"{ident} is released", {}
        left = span_words(until_ns - boot_ns())
        text = (
            f"{ident} is silenced until {moment_words(until_ns)} ({left}); a new trip, or the end "
            "of that time with the trip still there, sounds it again"
        )
        return text, {"silenced_until": moment_words(until_ns)}

    def _release_refused(self, ident: str, index: int, result: "Result") -> Outcome:
        state = self._confirmation.state()
        if state is None:
            return refused(result, plain_refusal(result), {})
        if result.code == ResultCode.ALREADY:
            return refused(result, f"{ident} is not held: there is nothing to release", {})
        holders = state.holders(index)
        if holders:
            text = f"{ident} is kept tripped by {', '.join(holders)}; missing: a reset of it"
            return refused(result, text, {"held_by": holders})
        return refused(result, plain_refusal(result), {})


async def tripped_outcome(confirmation: Confirmation, ident: str, result: "Result") -> Outcome:
    """The outcome of a TRIP that the guard has answered, after its outputs have confirmed."""
    if result.code not in (ResultCode.DONE, ResultCode.ALREADY):
        return refused(result, plain_refusal(result), {})
    state = confirmation.state()
    index = state.text.interlock_index.get(ident) if state else None
    if result.detail == ResultDetail.UNARMED:
        return Outcome(exit_code=Exit.UNCONFIRMED, code=result.code, text=UNARMED_TEXT)
    outputs = _outputs_of(state, index) if state and index is not None else []
    shown = await confirmation.tripped(outputs)
    details: dict[str, Any] = {"generation": result.generation}
    if result.code == ResultCode.ALREADY:
        text = f"{ident} is tripped already"
        return refused(result, with_outputs(text, shown), details | listed(shown))
    if not outputs:
        text = f"{ident} is tripped; its outputs cannot be read"
        return Outcome(exit_code=Exit.UNCONFIRMED, code=result.code, text=text, details=details)
    return settled(result, f"{ident} is tripped", shown, details)


def who_of(uid: int) -> str:
    """``uid:NAME`` as it stands in audit and alert; the number where the uid has no name."""
    try:
        return f"uid:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid:{uid}"


def _outputs_of(state: GuardBoard, index: int) -> list[str]:
    return [state.text.outputs[i].id for i in state.text.interlocks[index].outputs]
