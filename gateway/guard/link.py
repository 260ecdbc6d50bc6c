"""The gateway's end of the guard's mailbox: one session, commands with their results, samples.

The link never makes the gateway wait for the guard: what does not fit into the socket is kept in
the outbox. Whoever sends a command gets the guard's RESULT or a GuardError, never silence.
"""

import asyncio
import contextlib
import errno
import logging
import os
import random
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fastpath import messages
from fastpath.codes import LoadStep, MessageType
from fastpath.messages import Result, Welcome
from gateway.errors import GuardError
from gateway.guard.outbox import Outbox
from gateway.life.descriptors import SPARE_ONES

_LOGGER = logging.getLogger(__name__)

RECONNECT_S_FIRST: Final = 0.05
RECONNECT_S_MAX: Final = 0.5
HELLO_TIMEOUT_S: Final = 2.0
ALIVE_S: Final = 1.0  # the guard takes 3 s of silence for a dead gateway
COMMAND_TIMEOUT_S: Final = 2.0
_MESSAGES_PER_WAKE_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class LinkState:
    """Where the link stands; ``text`` is for people."""

    connected: bool  # WELCOME was received and the guard serves this version
    compatible: bool  # False: a guard answered, but does not serve this version
    welcome: Welcome | None
    text: str


@dataclass(slots=True)
class LinkStats:
    """Counts since the start."""

    connects: int = 0
    samples_sent: int = 0
    samples_overwritten: int = 0  # a newer sample of the slot came before there was room
    samples_unsent: int = 0  # no guard was there
    commands: int = 0
    timeouts: int = 0
    messages_bad: int = 0

    @property
    def dropped(self) -> dict[str, int]:
        """What was not sent or not understood, by reason."""
        return {
            "overwritten": self.samples_overwritten,
            "no_guard": self.samples_unsent,
            "bad_message": self.messages_bad,
        }


def _nothing(*_: object) -> None:
    """What a callback does that nobody set."""


class GuardLink:
    """A reconnecting SEQPACKET session with the guard behind ``path``.

    ``on_nudge(event_head, sample_head)`` is called for each NUDGE, ``on_state(LinkState)`` for each
    change. Both are plain functions and must not block.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_nudge: Callable[[int, int], None] = _nothing,
        on_state: Callable[[LinkState], None] = _nothing,
    ) -> None:
        self._path = path
        self._on_nudge = on_nudge
        self._on_state = on_state
        self._instance = os.urandom(16)
        self._retry = asyncio.Event()
        self._state = LinkState(False, True, None, "not connected yet")
        self._stats = LinkStats()
        self._socket: socket.socket | None = None
        self._gone: asyncio.Future[str] | None = None  # set by whoever finds the session at its end
        self._welcome: asyncio.Future[Welcome] | None = None
        self._results: dict[bytes, asyncio.Future[Result]] = {}
        self._outbox = Outbox(self._put)

    def state(self) -> LinkState:
        """Where the link stands now."""
        return self._state

    def stats(self) -> LinkStats:
        """A copy of the counts."""
        return replace(
            self._stats,
            samples_sent=self._outbox.samples_sent,
            samples_overwritten=self._outbox.samples_overwritten,
        )

    async def run(self) -> None:
        """Connect, serve, reconnect; returns only by cancellation."""
        delay_s = RECONNECT_S_FIRST
        while True:
            try:
                reached = await self._session()
            finally:
                self._close()
            delay_s = RECONNECT_S_FIRST if reached else min(2 * delay_s, RECONNECT_S_MAX)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s * random.uniform(0.5, 1.0)):  # noqa: S311  jitter
                    await self._retry.wait()
            self._retry.clear()

    def retry(self) -> None:
        """A guard has just started: try at once."""
        self._retry.set()

    async def command(
        self,
        kind: MessageType,
        body: bytes,
        *,
        ident: bytes | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        program: int = 0,
    ) -> Result:
        """Send one command and return the guard's RESULT.

        The same ``ident`` (16 bytes) again gives the same answer and no second action. Raises
        GuardError when no guard is there, it does not serve this version, or no answer came in
        time: then the command may or may not have acted.
        """
        self._require_session()
        if self._outbox.full:
            msg = "the guard takes no messages at the moment"
            raise GuardError(msg)
        ident = os.urandom(16) if ident is None else ident
        future = asyncio.get_running_loop().create_future()
        self._results[ident] = future
        self._stats.commands += 1
        self._outbox.message(messages.pack(kind, body, ident, program))
        try:
            self._flush()
            async with asyncio.timeout(timeout_s):
                result: Result = await future
        except TimeoutError as error:
            self._stats.timeouts += 1
            msg = f"no answer from the guard within {timeout_s:g} s"
            raise GuardError(msg) from error
        finally:
            self._results.pop(ident, None)
        return result

    def tell(self, kind: MessageType, body: bytes) -> bool:
        """Send what has no RESULT. False where it was not sent: no guard, or no room.

        Never waits; whoever tells looks at the guard's state and tells again.
        """
        if not self._state.connected or self._outbox.full:
            return False
        self._outbox.message(messages.pack(kind, body, os.urandom(16)))
        self._flush()
        return True

    async def load(
        self,
        program: bytes,
        expected: bytes,
        ledger_seq: int,
        *,
        step: LoadStep = LoadStep.SWAP,
        flags: int = 0,
        timeout_s: float = 5.0,
    ) -> Result:
        """Ask the guard to verify, or to swap to, the program of that hash (32 bytes).

        ``expected`` is the hash that the caller believes to run. Raises GuardError.
        """
        body = messages.LOAD.pack(program, expected, ledger_seq, step, flags)
        return await self.command(MessageType.LOAD, body, timeout_s=timeout_s)

    def send_samples(self, samples: bytes, program: int) -> None:
        """Send n x 32 B SAMPLE records whose slots are those of ``program`` (its u64).

        Never waits: without room the newest sample per slot is kept and sent as soon as there is
        some. Without a session the samples are counted and dropped.
        """
        if not self._state.connected:
            self._stats.samples_unsent += len(samples) // messages.SAMPLE.size
            return
        self._outbox.samples(samples, program)
        self._flush()

    def touch(self, slots: Sequence[int], mono_ns: int, program: int) -> None:
        """The values of these slots of ``program`` (ascending) still hold at ``mono_ns``.

        Never waits, and says nothing while samples wait: it would make them look old.
        """
        if not self._state.connected or not self._outbox.idle:
            return
        ranges = _ranges(slots)
        for start in range(0, len(ranges), messages.RANGES_PER_TOUCH_MAX):
            part = ranges[start : start + messages.RANGES_PER_TOUCH_MAX]
            body = messages.TOUCH.pack(mono_ns, len(part))
            body += b"".join(messages.RANGE.pack(*each) for each in part)
            self._put(messages.pack(MessageType.TOUCH, body, program=program))

    def ack(self, journal_id: int, event_tail: int) -> None:
        """Tell the guard that every event below ``event_tail`` is in the ledger. Never waits."""
        if not self._state.connected:
            return
        self._outbox.ack(journal_id, event_tail)
        self._flush()

    # The session

    async def _session(self) -> bool:
        """One connection from connect to its end; True when the guard answered."""
        loop = asyncio.get_running_loop()
        try:
            with SPARE_ONES.lent():
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket = connection
            connection.setblocking(False)
            connection.connect(os.fspath(self._path))
        except OSError as error:
            self._tell(LinkState(False, True, None, f"guard not reached: {error.strerror}"))
            return False
        self._gone = loop.create_future()
        self._welcome = loop.create_future()
        loop.add_reader(connection, self._readable)
        hello = messages.HELLO.pack(messages.VERSION, messages.VERSION_OLDEST, 0, self._instance)
        self._put(messages.pack(MessageType.HELLO, hello))
        either: set[asyncio.Future[Any]] = {self._gone, self._welcome}
        await asyncio.wait(either, timeout=HELLO_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._welcome.done():
            text = self._gone.result() if self._gone.done() else "no WELCOME in time"
            self._tell(LinkState(False, True, None, f"guard not reached: {text}"))
            return False
        self._open(self._welcome.result())
        while not self._gone.done():
            self._say_alive()
            await asyncio.wait({self._gone}, timeout=ALIVE_S)
        self._tell(LinkState(False, True, None, self._gone.result()))
        return True

    def _say_alive(self) -> None:
        """Sign of life: TOUCH of nothing. A full socket holds signs enough."""
        if self._state.connected:
            self._put(messages.pack(MessageType.TOUCH, messages.TOUCH.pack(0, 0)))

    def _open(self, welcome: Welcome) -> None:
        self._stats.connects += 1
        if welcome.compatible:
            self._tell(LinkState(True, True, welcome, "connected"))
            return
        text = (
            f"the guard speaks version {welcome.version} and does not serve gateways of version "
            f"{messages.VERSION}; it protects on, nothing is sent to it"
        )
        self._tell(LinkState(False, False, welcome, text))

    def _close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            loop = asyncio.get_running_loop()
            with contextlib.suppress(ValueError):
                loop.remove_reader(connection)
                loop.remove_writer(connection)
            connection.close()
        self._outbox.clear()
        for future in self._results.values():
            if not future.done():
                future.set_exception(GuardError("the guard went away before it answered"))
        if self._state.connected:
            self._tell(LinkState(False, True, None, "closed"), level=logging.INFO)

    def _tell(self, state: LinkState, *, level: int = logging.WARNING) -> None:
        before, self._state = self._state, state
        if (before.connected, before.compatible) != (state.connected, state.compatible):
            level = logging.INFO if state.connected else level
            _LOGGER.log(level, "guard link: %s", state.text)
        if before != state:
            self._on_state(state)

    def _require_session(self) -> None:
        if self._state.connected:
            return
        raise GuardError(self._state.text)

    # Reading

    def _readable(self) -> None:
        for _ in range(_MESSAGES_PER_WAKE_MAX):
            if self._socket is None:
                return
            try:
                message, _, flags, _ = self._socket.recvmsg(messages.MESSAGE_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(f"guard link broke: {error.strerror}")
                return
            if not message:
                self._end("the guard closed the link")
                return
            if flags & socket.MSG_TRUNC:
                self._stats.messages_bad += 1
                continue
            self._take(message)

    def _take(self, message: bytes) -> None:
        try:
            kind, ident, body = messages.unpack(message)
            if kind == MessageType.RESULT:
                self._take_result(ident, messages.result_of(body))
            elif kind == MessageType.NUDGE:
                self._on_nudge(*messages.NUDGE.unpack_from(body))
            elif kind == MessageType.WELCOME:
                if self._welcome is not None and not self._welcome.done():
                    self._welcome.set_result(messages.welcome_of(body))
            else:
                self._stats.messages_bad += 1
        except (ValueError, struct.error):
            self._stats.messages_bad += 1

    def _take_result(self, ident: bytes, result: Result) -> None:
        future = self._results.get(ident)
        if future is not None and not future.done():
            future.set_result(result)

    def _end(self, text: str) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(text)

    # Writing

    def _put(self, message: bytes) -> bool:
        """True when the kernel took it, or the session is at its end and nothing will."""
        if self._socket is None:
            return True
        try:
            self._socket.send(message)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return False
            self._end(f"guard link broke: {error.strerror}")
        return True

    def _flush(self) -> None:
        """Send what waits; ask to be woken for what does not fit."""
        if not self._outbox.flush() and self._socket is not None:
            asyncio.get_running_loop().add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)
            self._flush()


def _ranges(slots: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending slots as (first, count) of those that follow each other."""
    found: list[tuple[int, int]] = []
    for slot in slots:
        if found and slot == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((slot, 1))
    return found
