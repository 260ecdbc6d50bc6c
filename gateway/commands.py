"""The operator's hands: every command goes through here, whoever asks.

What weakens protection (reset, release, stop) is durable in the ledger first and goes to the guard
with its ledger seq and an end of 30 s; what strengthens it (trip) goes at once and is written down
after. The answer says what was read back, not what was asked for.
"""

import asyncio
import logging
import os
import pwd
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastpath import blob, messages
from fastpath.codes import MessageType, ResultCode, ResultDetail
from gateway.confirm import GUARD_END_S_MAX, Confirmation
from gateway.errors import GuardError, StoreError
from gateway.guard_board import GuardBoard, interlock_word
from gateway.guardlink import COMMAND_TIMEOUT_S
from gateway.outcome import (
    Exit,
    Outcome,
    listed,
    not_reached,
    refused,
    settled,
    unknown,
    with_outputs,
)
from gateway.program_text import Programs
from gateway.refusal import plain_refusal, reset_refusal

if TYPE_CHECKING:
    from fastpath.journal import GuardView
    from fastpath.messages import Result
    from gateway.guardlink import GuardLink
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)

NOT_AFTER_NS: Final = 30_000_000_000
_STOP_CONFIRMED: Final = 0  # a STOP's detail; 1: not every output has confirmed
UNARMED_TEXT: Final = "UNARMED: no output was moved"
Answered = Callable[[], Awaitable[None]]


async def _nobody() -> None:
    """Whoever waits for nothing before the confirmation."""


class Commands:
    """Trip, reset, release and stop. Every method returns an Outcome and raises nothing of ours.

    ``view`` gives the mapped guard.shm or None, ``program`` the blob of a program's hash or None.
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
        self._link = link
        self._programs = Programs(program)
        self._confirmation = Confirmation(view, self._programs)

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
        body = messages.command(blob.key_of("interlock", ident), who=who)
        try:
            result = await self._link.command(MessageType.TRIP, body)
        except GuardError as error:
            return not_reached(str(error))
        await answered()
        _, outcome = await asyncio.gather(
            self._write_down(who, "trip", ident, {"reason": reason}, result),
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
        state = self._confirmation.state()
        if state is None:
            return not_reached("the guard's state cannot be read")
        index = state.text.interlock_index.get(ident)
        if index is None:
            return unknown("interlock", ident, [item.id for item in state.text.interlocks])
        latch = state.interlock(index)
        wanted = latch.generation if generation is None else generation
        seen = {"state": interlock_word(latch.state), "generation": latch.generation}
        detail = {"generation": wanted, "reason": reason}
        key = state.text.interlocks[index].key
        sent = await self._weaken(
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
        """Let an output that is HELD go to its normal value."""
        state = self._confirmation.state()
        if state is None:
            return not_reached("the guard's state cannot be read")
        index = state.text.output_index.get(ident)
        if index is None:
            return unknown("output", ident, [item.id for item in state.text.outputs])
        item = state.text.outputs[index]
        generation = state.output(index).generation
        detail = {"generation": generation, "reason": reason}
        sent = await self._weaken(
            MessageType.RELEASE, item.key, ident, detail, who, not_after_ns, generation=generation
        )
        if isinstance(sent, Outcome):
            return sent
        await answered()
        if sent.code != ResultCode.DONE:
            return self._release_refused(ident, index, sent)
        shown = await self._confirmation.released([ident])
        return settled(sent, f"{ident} is released", shown, {})

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
        sent = await self._weaken(
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

    async def _weaken(
        self,
        kind: MessageType,
        key: int,
        target: str,
        detail: Mapping[str, Any],
        who: str,
        not_after_ns: int | None,
        *,
        generation: int = 0,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> "Result | Outcome":
        """Ledger first, then the guard; an Outcome where the guard gave no answer."""
        action = kind.name.lower()
        ours_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + NOT_AFTER_NS
        limit_ns = ours_ns if not_after_ns is None else min(ours_ns, not_after_ns)
        try:
            seq = await self._ledger.command(who, action, target, detail)
        except StoreError as error:
            text = f"not done: the ledger cannot take it ({error}); nothing was sent to the guard"
            return Outcome(exit_code=Exit.FAILED, code=0, text=text)
        body = messages.command(
            key,
            who=who,
            generation=generation,
            not_after_ns=limit_ns,
            ledger_seq=seq,
        )
        try:
            result = await self._send_twice(kind, body, timeout_s)
        except GuardError as error:
            await self._write_result(seq, 0, str(error))
            return not_reached(str(error))
        await self._write_result(seq, result.code, result.text)
        return result

    async def _send_twice(self, kind: MessageType, body: bytes, timeout_s: float) -> "Result":
        """The same id twice is one action, so a lost answer is asked for once more."""
        ident = os.urandom(16)
        try:
            return await self._link.command(kind, body, ident=ident, timeout_s=timeout_s)
        except GuardError:
            if not self._link.state().connected:
                raise
            return await self._link.command(kind, body, ident=ident, timeout_s=timeout_s)

    async def _write_down(
        self, who: str, action: str, target: str, detail: Mapping[str, Any], result: "Result"
    ) -> None:
        """The audit of what is done already; the guard's journal has it too."""
        try:
            seq = await self._ledger.command(who, action, target, detail)
        except StoreError as error:
            _LOGGER.warning("%s of %s by %s is not in the audit: %s", action, target, who, error)
            return
        await self._write_result(seq, result.code, result.text)

    async def _write_result(self, seq: int, code: int, text: str) -> None:
        try:
            await self._ledger.command_result(seq, code, text)
        except StoreError as error:
            _LOGGER.warning("the result of command %d is not in the audit: %s", seq, error)

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
