"""The sessions of one uplink, one after the other: connect, work until the link fails, wait."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, Protocol

from gateway.errors import UplinkError
from gateway.life.child import start_child
from gateway.uplink.base import Uplink, Watched
from gateway.uplink.faults import session_error
from gateway.uplink.gate import Gate

_LOGGER = logging.getLogger(__name__)

QUIET_S: Final = 1.0  # sends under way end at once when the session does; no longer than this

Job = Callable[[], Coroutine[Any, Any, None]]


class SessionListener(Protocol):
    """What the pump does before, in and after a session."""

    def connecting(self) -> None:
        """A session is to begin."""

    def connected(self, *, answered: bool) -> None:
        """It has; ``answered``: the other end said so."""

    async def ended(self, error: UplinkError) -> None:
        """It is over; the next one begins when this returns."""


class Sessions:
    """``jobs``, by name, run while a session lasts; ``gate`` is what they send through."""

    def __init__(
        self,
        name: str,
        uplink: Uplink,
        gate: Gate,
        listener: SessionListener,
        jobs: Mapping[str, Job],
    ) -> None:
        self._name = name
        self._uplink = uplink
        self._gate = gate
        self._listener = listener
        self._jobs = jobs
        self.count = 0  # that were begun

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            await self._listener.ended(await self._one())

    async def _one(self) -> UplinkError:
        """In a task of its own: a group that fails hides from its task that it was cancelled."""
        session = asyncio.create_task(self._session(), name=f"{self._name}/session")
        try:
            await asyncio.wait((session,))
            return session.result()
        finally:
            session.cancel()
            await asyncio.wait((session,))

    async def _session(self) -> UplinkError:
        """Connect and work until the link fails; gives what it failed of."""
        self._listener.connecting()
        try:
            self.count += 1
            answered = await self._uplink.connect()
            self._listener.connected(answered=answered)
            async with asyncio.TaskGroup() as group:
                for name, job in self._jobs.items():
                    start_child(group, job, f"{self._name}/{name}")
                if isinstance(self._uplink, Watched):
                    start_child(group, partial(self._watch, self._uplink), f"{self._name}/watch")
        except Exception as error:  # noqa: BLE001  a fault in one uplink must not end the gateway
            return session_error(error)
        finally:
            await self._uplink.close()
        return UplinkError("ended")

    async def _watch(self, uplink: Watched) -> None:
        """Notice the session's end; what is known of sends under way comes first."""
        try:
            await uplink.lost()
        except UplinkError:
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._gate.empty()
            except TimeoutError:
                _LOGGER.debug("%s: a send goes on after the session", self._name)
            raise
