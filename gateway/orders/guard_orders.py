"""How an order reaches the guard: what weakens by the ledger first, what strengthens at once.

A weakening order carries its ledger seq and an end of 30 s. The same id twice is one action, so a
lost answer is asked for once more.
"""

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fastpath import messages
from gateway.errors import GuardError, StoreError
from gateway.guard.link import COMMAND_TIMEOUT_S
from gateway.orders.outcome import Exit, Outcome, not_reached

if TYPE_CHECKING:
    from fastpath.codes import MessageType
    from fastpath.messages import Result
    from gateway.guard.link import GuardLink
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)

NOT_AFTER_NS: Final = 30_000_000_000


class GuardOrders:
    """Sends commands with their audit. No method raises anything of ours."""

    def __init__(self, ledger: "Ledger", link: "GuardLink") -> None:
        self._ledger = ledger
        self._link = link

    async def weaken(
        self,
        message: "MessageType",
        key: int,
        target: str,
        detail: Mapping[str, Any],
        who: str,
        not_after_ns: int | None,
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        **fields: int,
    ) -> "Result | Outcome":
        """Ledger first, then the guard; an Outcome where the guard gave no answer.

        ``fields`` are those of ``messages.command``: generation, kind, duration_ns.
        """
        ours_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + NOT_AFTER_NS
        limit_ns = ours_ns if not_after_ns is None else min(ours_ns, not_after_ns)
        ident = os.urandom(16)
        written = await self.write(who, message.name.lower(), target, {**detail, "id": ident.hex()})
        if isinstance(written, Outcome):
            return written
        body = messages.command(key, who=who, not_after_ns=limit_ns, ledger_seq=written, **fields)
        return await self.send(message, body, written, ident=ident, timeout_s=timeout_s)

    async def strengthen(
        self, message: "MessageType", key: int, who: str, **fields: int
    ) -> "Result | Outcome":
        """At once; whoever calls writes it down after (:meth:`write_down`)."""
        try:
            return await self._link.command(message, messages.command(key, who=who, **fields))
        except GuardError as error:
            return not_reached(str(error))

    async def write(
        self, who: str, action: str, target: str, detail: Mapping[str, Any]
    ) -> int | Outcome:
        """Put an order into the ledger before it acts; an Outcome where that cannot take it."""
        try:
            return await self._ledger.command(who, action, target, detail)
        except StoreError as error:
            text = f"not done: the ledger cannot take it ({error}); nothing was sent to the guard"
            return Outcome(exit_code=Exit.FAILED, code=0, text=text)

    async def send(
        self,
        message: "MessageType",
        body: bytes,
        seq: int,
        *,
        ident: bytes | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> "Result | Outcome":
        """Send what is entry ``seq`` of the ledger, and write its result down."""
        try:
            result = await self._send_twice(message, body, ident or os.urandom(16), timeout_s)
        except GuardError as error:
            await self.write_result(seq, 0, str(error))
            return not_reached(str(error))
        await self.write_result(seq, result.code, result.text)
        return result

    async def write_down(
        self, who: str, action: str, target: str, detail: Mapping[str, Any], result: "Result"
    ) -> None:
        """The audit of what is done already; the guard's journal has it too."""
        try:
            seq = await self._ledger.command(who, action, target, detail)
        except StoreError as error:
            _LOGGER.warning("%s of %s by %s is not in the audit: %s", action, target, who, error)
            return
        await self.write_result(seq, result.code, result.text)

    async def write_result(self, seq: int, code: int, text: str) -> None:
        """What became of the order ``seq``."""
        try:
            await self._ledger.command_result(seq, code, text)
        except StoreError as error:
            _LOGGER.warning("the result of command %d is not in the audit: %s", seq, error)

    async def _send_twice(
        self, message: "MessageType", body: bytes, ident: bytes, timeout_s: float
    ) -> "Result":
        try:
            return await self._link.command(message, body, ident=ident, timeout_s=timeout_s)
        except GuardError:
            if not self._link.state().connected:
                raise
            return await self._link.command(message, body, ident=ident, timeout_s=timeout_s)
