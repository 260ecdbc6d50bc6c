"""Bypasses: timed, reasoned, audited. Begun through the ledger, ended at once.

A bypass never releases anything; what it withholds is evaluated and shown all the time. A live one
is not extended: it is ended, and another one begins with a reason of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from fastpath import blob
from fastpath.codes import BypassKind, InterlockState, MessageType, ResultCode
from gateway.guard.board import LATCHED, BypassState, GuardBoard, interlock_word
from gateway.orders.confirm import Confirmation
from gateway.orders.guard_orders import GuardOrders
from gateway.orders.outcome import Exit, Outcome, not_reached, refused, unknown
from gateway.orders.refusal import bypass_refusal, plain_refusal
from gateway.times import boot_ns, moment_words, span_words

if TYPE_CHECKING:
    from fastpath.messages import Result

_KINDS: Final = {False: BypassKind.INTERLOCK, True: BypassKind.TAG}
_WORDS: Final = {BypassKind.INTERLOCK: "interlock", BypassKind.TAG: "tag"}
SEEN_S: Final = 0.5  # until what the guard has done stands in guard.shm
_LOOK_S: Final = 0.01


class Bypasses:
    """Begins and ends bypasses of interlocks and of tags."""

    def __init__(self, orders: GuardOrders, confirmation: Confirmation) -> None:
        self._orders = orders
        self._confirmation = confirmation

    async def begin(
        self,
        ident: str,
        duration_ns: int,
        reason: str,
        who: str,
        *,
        tag: bool = False,
        not_after_ns: int | None = None,
        answered: Callable[[], Awaitable[None]],
    ) -> Outcome:
        """Withhold an interlock's effects, or let a tag's comparisons abstain, for a time."""
        state = self._confirmation.state()
        if state is None:
            return not_reached("the guard's state cannot be read")
        kind = _KINDS[tag]
        if _index(state, kind, ident) is None:
            return _unknown(state, kind, ident)
        detail = {"kind": _WORDS[kind], "for_ns": duration_ns, "reason": reason}
        sent = await self._orders.weaken(
            MessageType.BYPASS_START,
            blob.key_of(_WORDS[kind], ident),
            ident,
            detail,
            who,
            not_after_ns,
            kind=kind,
            duration_ns=duration_ns,
        )
        if isinstance(sent, Outcome):
            return sent
        await answered()
        if sent.code != ResultCode.DONE:
            return self._refused(kind, ident, sent, duration_ns)
        now = await self._seen(kind, ident, begun=True) or state
        text = _begun_words(now, kind, ident, who)
        return _done(sent, text, _details(now, kind, ident))

    async def end(
        self,
        ident: str,
        reason: str,
        who: str,
        *,
        tag: bool = False,
        answered: Callable[[], Awaitable[None]],
    ) -> Outcome:
        """End a bypass now: it strengthens, so at once and written down after."""
        kind = _KINDS[tag]
        key = blob.key_of(_WORDS[kind], ident)
        state = self._confirmation.state()
        if state is not None and _index(state, kind, ident) is None:
            return _unknown(state, kind, ident)
        result = await self._orders.strengthen(MessageType.BYPASS_END, key, who, kind=kind)
        if isinstance(result, Outcome):
            return result
        await answered()
        detail = {"kind": _WORDS[kind], "reason": reason}
        _, outcome = await asyncio.gather(
            self._orders.write_down(who, "bypass_end", ident, detail, result),
            ended_outcome(self._confirmation, ident, result, tag=tag),
        )
        return outcome

    async def _seen(self, kind: BypassKind, ident: str, *, begun: bool) -> GuardBoard | None:
        return await _until_seen(self._confirmation, kind, ident, begun=begun)

    def _refused(self, kind: BypassKind, ident: str, result: "Result", duration_ns: int) -> Outcome:
        state = self._confirmation.state()
        if state is None:
            return refused(result, plain_refusal(result), {})
        text = bypass_refusal(state, kind, ident, result, duration_ns)
        return refused(result, text, _details(state, kind, ident))


async def ended_outcome(
    confirmation: Confirmation, ident: str, result: "Result", *, tag: bool
) -> Outcome:
    """The outcome of a BYPASS_END that the guard has answered."""
    kind = _KINDS[tag]
    if result.code == ResultCode.ALREADY:
        return refused(result, f"{ident} is not bypassed: there is nothing to end", {})
    if result.code != ResultCode.DONE:
        return refused(result, plain_refusal(result), {})
    state = await _until_seen(confirmation, kind, ident, begun=False)
    text = f"the bypass of {ident} has ended"
    if state is None:
        return _done(result, text, {})
    index = state.text.interlock_index.get(ident) if kind == BypassKind.INTERLOCK else None
    if index is None:
        return _done(result, f"{text}: its value counts again", {})
    latch = state.interlock(index)
    words = {
        InterlockState.TRIPPED: "its cause is there: it has TRIPPED, its outputs are commanded",
        InterlockState.READY_TO_RESET: "it is still latched: READY_TO_RESET",
    }.get(InterlockState(latch.state), f"it is {interlock_word(latch.state)} and acts again")
    return _done(result, f"{text}; {words}", {"state": interlock_word(latch.state)})


async def _until_seen(
    confirmation: Confirmation, kind: BypassKind, ident: str, *, begun: bool
) -> GuardBoard | None:
    """The guard's state as soon as it shows the bypass, or no longer; the last one seen else."""
    state = confirmation.state()
    for _ in range(int(SEEN_S / _LOOK_S)):
        if state is not None and (_bypass_of(state, kind, ident) is not None) is begun:
            break
        await asyncio.sleep(_LOOK_S)
        state = confirmation.state()
    return state


def _index(state: GuardBoard, kind: BypassKind, ident: str) -> int | None:
    tag = kind == BypassKind.TAG
    return (state.text.tag_index if tag else state.text.interlock_index).get(ident)


def _bypass_of(state: GuardBoard, kind: BypassKind, ident: str) -> BypassState | None:
    index = _index(state, kind, ident)
    if index is None:
        return None
    return state.tag_bypasses().get(index) if kind == BypassKind.TAG else state.bypass(index)


def _unknown(state: GuardBoard, kind: BypassKind, ident: str) -> Outcome:
    if kind == BypassKind.INTERLOCK and ident in state.text.tag_index:
        text = f"'{ident}' is a tag: a bypass of it needs --tag"
        return Outcome(exit_code=Exit.USAGE, code=0, text=text)
    if kind == BypassKind.TAG and ident in state.text.interlock_index:
        text = f"'{ident}' is an interlock: a bypass of it goes without --tag"
        return Outcome(exit_code=Exit.USAGE, code=0, text=text)
    known = state.text.tags if kind == BypassKind.TAG else list(state.text.interlock_index)
    return unknown(_WORDS[kind], ident, known)


def _done(result: "Result", text: str, details: dict[str, Any]) -> Outcome:
    return Outcome(
        exit_code=Exit.DONE, code=result.code, text=text, confirmed=True, details=details
    )


def _details(state: GuardBoard, kind: BypassKind, ident: str) -> dict[str, Any]:
    found = _bypass_of(state, kind, ident)
    if found is None:
        return {}
    return {
        "until": moment_words(found.until_ns),
        "left_s": max(0, found.until_ns - boot_ns()) // 1_000_000_000,
    }


def _begun_words(state: GuardBoard, kind: BypassKind, ident: str, who: str) -> str:
    """What is bypassed, until when, by whom, and what it would do meanwhile."""
    found = _bypass_of(state, kind, ident)
    index = _index(state, kind, ident)
    if found is None or index is None:
        return f"{ident} is bypassed; its end cannot be read"
    left = span_words(found.until_ns - boot_ns())
    head = f"{ident} is bypassed until {moment_words(found.until_ns)} ({left}), by {who}"
    words = _interlock_words if kind == BypassKind.INTERLOCK else _tag_words
    return "; ".join([head, *words(state, index)])


def _interlock_words(state: GuardBoard, index: int) -> list[str]:
    item = state.text.interlocks[index]
    outputs = ", ".join(state.text.outputs[i].id for i in item.outputs) or "no output"
    if state.interlock(index).state in LATCHED and item.armed:
        meanwhile = f"it is tripped: {outputs} stay tripped until a reset"
    else:
        meanwhile = f"{outputs} will not be tripped by it: it is evaluated and shown"
    return [meanwhile, "at its end it acts at once if the cause is there", _limit(state, index)]


def _tag_words(state: GuardBoard, index: int) -> list[str]:
    readers = state.text.readers.get(index, ())
    named = ", ".join(state.text.interlocks[i].id for i in readers)
    words = [f"its comparisons in {named} abstain"] if named else []
    return words + [_limit(state, i) for i in readers[:1]]


def _limit(state: GuardBoard, index: int) -> str:
    """How much of what the group allows is used."""
    used = len(state.bypassed_with(index))
    where, allowed = state.bypass_limit(index)
    return f"{used} of {allowed} bypasses {where} are used"
