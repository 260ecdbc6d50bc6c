"""Proof tests: an interlock is tripped on purpose, and what its outputs did is measured and kept.

A drill is a real trip: it latches, and a person resets it. It proves the way from the guard's
decision to the final element, not the sensor. Its result is in the audit, whatever it was.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, to_builtins

from fastpath import messages
from fastpath.codes import InterlockState, MessageType, OutputState, ResultCode, TripKind
from gateway.errors import StoreError
from gateway.guard.board import GuardBoard, interlock_word, output_confirmed, output_word
from gateway.orders.confirm import Confirmation
from gateway.orders.guard_orders import GuardOrders
from gateway.orders.hands import Hands
from gateway.orders.lookup import interlock_of
from gateway.orders.outcome import Exit, Outcome, refused
from gateway.orders.refusal import plain_refusal

if TYPE_CHECKING:
    from fastpath.messages import Result
    from gateway.store.ledger import Ledger

_AT_REST: Final = frozenset({InterlockState.NORMAL, InterlockState.PENDING})


class Proof(Struct, frozen=True, kw_only=True):
    """What one output did: from the order to its confirmation, ``None`` where none came."""

    id: str
    before: str  # state in which the test found it
    state: str
    confirmed: bool
    confirm_ns: int | None


class Drills:
    """Carries out proof tests."""

    def __init__(
        self, orders: GuardOrders, ledger: "Ledger", confirmation: Confirmation, hands: Hands
    ) -> None:
        self._orders = orders
        self._ledger = ledger
        self._confirmation = confirmation
        self._hands = hands

    async def run(
        self, ident: str, reason: str, who: str, *, answered: Callable[[], Awaitable[None]]
    ) -> Outcome:
        """Trip the interlock as an exercise and measure until each output has confirmed."""
        found = interlock_of(self._confirmation, ident)
        if isinstance(found, Outcome):
            return found
        state, index = found
        against = _against(state, index)
        if against is not None:
            return against
        outputs = [state.text.outputs[i].id for i in state.text.interlocks[index].outputs]
        before = {o: output_word(state.output(state.text.output_index[o]).state) for o in outputs}
        written = await self._orders.write(who, "drill", ident, {"reason": reason})
        if isinstance(written, Outcome):
            return written
        key = state.text.interlocks[index].key
        self._hands.note(key, who, reason)
        begun_ns = time.monotonic_ns()
        body = messages.command(key, who=who, kind=TripKind.EXERCISE)
        result = await self._orders.send(MessageType.TRIP, body, written)
        if isinstance(result, Outcome):
            return result
        await answered()
        if result.code != ResultCode.DONE:
            return refused(result, plain_refusal(result), {})
        await self._confirmation.tripped(outputs)
        proofs = self._proofs(outputs, before, begun_ns)
        return await self._told(ident, index, state, proofs, who, reason, written, result)

    def _proofs(self, outputs: Sequence[str], before: dict[str, str], begun_ns: int) -> list[Proof]:
        state = self._confirmation.state()
        proofs = []
        for ident in outputs:
            place = state.text.output_index.get(ident) if state else None
            if state is None or place is None:
                proofs.append(Proof(id=ident, before=before[ident], state="UNKNOWN",
                                    confirmed=False, confirm_ns=None))  # fmt: skip
                continue
            latch = state.output(place)
            done = latch.state == OutputState.TRIPPED and output_confirmed(latch)
            took_ns = latch.confirm_ns - begun_ns
            proofs.append(
                Proof(
                    id=ident,
                    before=before[ident],
                    state=output_word(latch.state),
                    confirmed=done,
                    confirm_ns=took_ns if done and took_ns > 0 else None,
                )
            )
        return proofs

    async def _told(
        self,
        ident: str,
        index: int,
        state: GuardBoard,
        proofs: Sequence[Proof],
        who: str,
        reason: str,
        order: int,
        result: "Result",
    ) -> Outcome:
        response_ns = state.text.interlocks[index].response_ns
        passed = bool(proofs) and all(_is_proved(proof, response_ns) for proof in proofs)
        details: dict[str, Any] = {
            "passed": passed,
            "generation": result.generation,
            "response_ns": response_ns,
            "outputs": to_builtins(list(proofs)),
        }
        text = _words(ident, proofs, response_ns, passed=passed)
        try:
            await self._ledger.proof_test(
                who, ident, {**details, "reason": reason, "command": order}
            )
        except StoreError as error:
            text += f"; its result is NOT in the ledger ({error}): test again"
            passed = False
        return Outcome(
            exit_code=Exit.DONE if passed else Exit.UNCONFIRMED,
            code=result.code,
            text=text,
            confirmed=passed,
            details=details,
        )


def _against(state: GuardBoard, index: int) -> Outcome | None:
    """Why nothing would be proved now, None where it would."""
    item = state.text.interlocks[index]
    latch = state.interlock(index)
    if not item.armed:
        text = f"UNARMED: {item.id} moves no output, so there is nothing to prove; nothing was done"
        return Outcome(exit_code=Exit.UNCONFIRMED, code=0, text=text)
    if state.bypass(index) is not None:
        text = f"{item.id} is bypassed and a trip would end the bypass; end it first"
        return Outcome(exit_code=Exit.REFUSED, code=ResultCode.NOT_ALLOWED, text=text)
    if latch.state not in _AT_REST:
        word = interlock_word(latch.state)
        text = f"{item.id} is {word}: reset it first, a proof test begins from NORMAL"
        return Outcome(exit_code=Exit.ALREADY, code=ResultCode.ALREADY, text=text)
    return None


def _is_proved(proof: Proof, response_ns: int) -> bool:
    """Seen to move from normal to its trip value within the response time."""
    moved = proof.before == OutputState.RELEASED.name and proof.confirmed
    return moved and proof.confirm_ns is not None and proof.confirm_ns <= response_ns


def _words(ident: str, proofs: Sequence[Proof], response_ns: int, *, passed: bool) -> str:
    told = []
    for proof in proofs:
        if proof.before != OutputState.RELEASED.name:
            told.append(f"{proof.id} was {proof.before} before: nothing proved")
        elif proof.confirm_ns is None:
            told.append(f"{proof.id} {proof.state}, NOT confirmed in time")
        else:
            late = "" if proof.confirm_ns <= response_ns else ", LATER than the response time"
            told.append(f"{proof.id} confirmed after {proof.confirm_ns / 1e6:.1f} ms{late}")
    verdict = "passed" if passed else "NOT PASSED"
    limit = f"response {response_ns / 1e9:g} s"
    after = f"it is latched: look at the plant, then 'sitewarden reset {ident}'"
    return "; ".join([f"proof test of {ident} {verdict} ({limit})", *told, after])
