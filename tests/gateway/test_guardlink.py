"""The mailbox client against a scripted SEQPACKET server and, at the end, what a CLI sends."""

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from fastpath import messages
from fastpath.codes import MessageType, ResultCode
from gateway.errors import GuardError
from gateway.guard import link as guardlink
from gateway.guard.link import GuardLink, LinkState
from gateway.orders.direct import send_directly
from tests.helpers.linking import connected

JOURNAL_ID = 77


class FakeGuard:
    """A SEQPACKET server that answers HELLO and whatever ``answer`` returns bytes for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compatible = 1
        self.version = messages.VERSION
        self.read = True
        self.received: list[tuple[int, bytes, bytes]] = []
        self.answer: Callable[[int, bytes, bytes], list[bytes]] = lambda *_: []
        self.event = asyncio.Event()
        self.connection: socket.socket | None = None
        self._listener: socket.socket | None = None

    def start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self.path.unlink(missing_ok=True)
        self._listener.bind(os.fspath(self.path))
        self._listener.listen(4)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def stop(self) -> None:
        self.drop()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def drop(self) -> None:
        if self.connection is not None:
            asyncio.get_running_loop().remove_reader(self.connection)
            self.connection.close()
            self.connection = None

    def pause(self) -> None:
        assert self.connection is not None
        asyncio.get_running_loop().remove_reader(self.connection)

    def resume(self) -> None:
        assert self.connection is not None
        asyncio.get_running_loop().add_reader(self.connection, self._readable)

    def send(self, message: bytes) -> None:
        assert self.connection is not None
        self.connection.send(message)

    def of(self, kind: MessageType) -> list[tuple[bytes, bytes]]:
        return [(ident, body) for k, ident, body in self.received if k == kind]

    async def wait_for(self, kind: MessageType, count: int = 1) -> list[tuple[bytes, bytes]]:
        while len(self.of(kind)) < count:
            self.event.clear()
            await self.event.wait()
        return self.of(kind)

    def _accept(self) -> None:
        assert self._listener is not None
        self.connection, _ = self._listener.accept()
        self.connection.setblocking(False)
        self.resume()

    def _readable(self) -> None:
        assert self.connection is not None
        message = self.connection.recv(4096)
        if not message:
            self.drop()
            return
        kind, ident, body = messages.unpack(message)
        self.received.append((kind, ident, body))
        self.event.set()
        if kind == MessageType.HELLO:
            welcome = messages.WELCOME.pack(
                self.version, self.compatible, 0, JOURNAL_ID, 5, 3, 9, b"p" * 32, 2
            )
            self.send(messages.pack(MessageType.WELCOME, welcome))
        for answer in self.answer(kind, ident, body):
            self.send(answer)


def result(ident: bytes, code: ResultCode, text: str = "") -> bytes:
    body = messages.RESULT.pack(code, MessageType.RESET, 41, 7, 0, text.encode())
    return messages.pack(MessageType.RESULT, body, ident)


def sample(slot: int, value: float, mono_ns: int = 1) -> bytes:
    return messages.SAMPLE.pack(slot, 2, 0, 0, value, mono_ns, mono_ns)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sw") as name:
        yield Path(name)


@pytest.fixture
async def guard(directory: Path) -> AsyncIterator[FakeGuard]:
    fake = FakeGuard(directory / "guard.sock")
    fake.start()
    yield fake
    fake.stop()


@contextlib.asynccontextmanager
async def running(link: GuardLink) -> AsyncIterator[GuardLink]:
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_hello_brings_the_welcome(guard: FakeGuard) -> None:
    async with running(GuardLink(guard.path)) as link:
        welcome = await connected(link)
    assert (welcome.journal_id, welcome.event_tail, welcome.program) == (JOURNAL_ID, 3, b"p" * 32)
    version, oldest, _, _ = messages.HELLO.unpack(guard.of(MessageType.HELLO)[0][1])
    assert (version, oldest) == (messages.VERSION, messages.VERSION_OLDEST)


async def test_result_is_matched_by_id(guard: FakeGuard) -> None:
    held: list[bytes] = []

    def backwards(kind: int, ident: bytes, _: bytes) -> list[bytes]:
        if kind != MessageType.RESET:
            return []
        held.append(ident)
        if len(held) < 2:
            return []
        return [
            result(os.urandom(16), ResultCode.LIMIT),
            result(held[1], ResultCode.CAUSE_PRESENT, "leg 2"),
            result(held[0], ResultCode.DONE),
        ]

    guard.answer = backwards
    async with running(GuardLink(guard.path)) as link:
        await connected(link)
        first, second = await asyncio.gather(
            link.command(MessageType.RESET, messages.command(1, who="0", ledger_seq=1)),
            link.command(MessageType.RESET, messages.command(2, who="0", ledger_seq=2)),
        )
    assert first.code == ResultCode.DONE
    assert (second.code, second.text, second.generation) == (ResultCode.CAUSE_PRESENT, "leg 2", 7)


async def test_no_answer_is_an_error_after_the_timeout(guard: FakeGuard) -> None:
    async with running(GuardLink(guard.path)) as link:
        await connected(link)
        with pytest.raises(GuardError, match="no answer"):
            await link.command(MessageType.TRIP, messages.command(1, who="0"), timeout_s=0.02)
        assert link.stats().timeouts == 1


async def test_guard_gone_fails_what_waits_and_reconnects(guard: FakeGuard) -> None:
    states: list[LinkState] = []
    async with running(GuardLink(guard.path, on_state=states.append)) as link:
        await connected(link)
        waiting = asyncio.create_task(
            link.command(MessageType.RESET, messages.command(1, who="0", ledger_seq=1))
        )
        await guard.wait_for(MessageType.RESET)
        guard.drop()
        with pytest.raises(GuardError, match="went away"):
            await waiting
        await connected(link)
        assert link.stats().connects == 2
    assert [state.connected for state in states] == [True, False, True, False]


async def test_nobody_there_says_so_at_once(directory: Path) -> None:
    link = GuardLink(directory / "guard.sock")
    with pytest.raises(GuardError, match="not connected"):
        await link.command(MessageType.TRIP, messages.command(1, who="0"))
    link.send_samples(sample(0, 1.0), 0)
    assert link.stats().samples_unsent == 1


@pytest.mark.parametrize("ahead", [-1, 1], ids=["older", "newer"])
async def test_a_guard_of_a_neighbouring_version_is_spoken_with(
    guard: FakeGuard, ahead: int
) -> None:
    guard.version += ahead
    async with running(GuardLink(guard.path)) as link:
        await connected(link)
        link.send_samples(sample(0, 1.0), 0)
        await guard.wait_for(MessageType.SAMPLES)


@pytest.mark.parametrize("ahead", [-2, 2], ids=["older", "newer"])
async def test_version_skew_is_told_and_nothing_sent(guard: FakeGuard, ahead: int) -> None:
    guard.compatible = 0
    guard.version = max(guard.version + ahead, 0)
    told = asyncio.Event()
    async with running(GuardLink(guard.path, on_state=lambda _: told.set())) as link:
        await told.wait()
        state = link.state()
        assert not state.connected
        assert not state.compatible
        link.send_samples(sample(0, 1.0), 0)
        link.ack(JOURNAL_ID, 4)
        with pytest.raises(GuardError, match="version"):
            await link.command(MessageType.TRIP, messages.command(1, who="0"))
        assert link.stats().dropped["no_guard"] == 1
    assert [kind for kind, _, _ in guard.received] == [MessageType.HELLO]


async def test_a_quiet_link_says_that_it_is_alive(
    guard: FakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardlink, "ALIVE_S", 0.01)
    async with running(GuardLink(guard.path)):
        touches = await guard.wait_for(MessageType.TOUCH, 3)
    assert {messages.TOUCH.unpack(body) for _, body in touches} == {(0, 0)}


async def test_samples_go_in_messages_of_126(guard: FakeGuard) -> None:
    async with running(GuardLink(guard.path)) as link:
        await connected(link)
        link.send_samples(b"".join(sample(i, float(i)) for i in range(130)), 0xABCD)
        sent = await guard.wait_for(MessageType.SAMPLES, 2)
    assert [len(body) // 32 for _, body in sent] == [126, 4]
    assert messages.SAMPLE.unpack_from(sent[1][1], 3 * 32)[0] == 129


async def test_without_room_the_newest_sample_per_slot_is_kept(guard: FakeGuard) -> None:
    async with running(GuardLink(guard.path)) as link:
        await connected(link)
        guard.pause()
        rounds = 0
        while link.stats().samples_overwritten == 0:
            rounds += 1
            link.send_samples(b"".join(sample(i, float(rounds), rounds) for i in range(126)), 5)
        link.send_samples(sample(3, -1.0, rounds + 1), 5)
        overwritten = link.stats().samples_overwritten
        assert overwritten == 127
        guard.resume()
        await guard.wait_for(MessageType.SAMPLES, rounds - 1)
    newest: dict[int, float] = {
        slot: value
        for _, body in guard.of(MessageType.SAMPLES)
        for slot, _, _, _, value, _, _ in messages.SAMPLE.iter_unpack(body)
    }
    assert newest[3] == -1.0
    assert {value for slot, value in newest.items() if slot != 3} == {float(rounds)}


async def test_commands_and_ack_pass_waiting_samples(guard: FakeGuard) -> None:
    def done(kind: int, ident: bytes, _: bytes) -> list[bytes]:
        return [result(ident, ResultCode.DONE)] if kind == MessageType.TRIP else []

    guard.answer = done
    async with running(GuardLink(guard.path)) as link:
        await connected(link)
        guard.pause()
        while link.stats().samples_overwritten == 0:
            link.send_samples(b"".join(sample(i, 1.0) for i in range(126)), 5)
        link.ack(JOURNAL_ID, 4)
        link.ack(JOURNAL_ID, 9)
        trip = asyncio.create_task(link.command(MessageType.TRIP, messages.command(1, who="0")))
        await asyncio.sleep(0)
        guard.resume()
        assert (await trip).code == ResultCode.DONE
        acks = await guard.wait_for(MessageType.ACK)
        samples_before = len(guard.of(MessageType.SAMPLES))
        await guard.wait_for(MessageType.SAMPLES, samples_before)
    assert [messages.ACK.unpack(body) for _, body in acks] == [(JOURNAL_ID, 9)]
    kinds = [kind for kind, _, _ in guard.received]
    assert kinds.index(MessageType.TRIP) < kinds.index(MessageType.ACK)


async def test_nudge_and_nonsense(guard: FakeGuard) -> None:
    heads: list[tuple[int, int]] = []
    nudged = asyncio.Event()

    def on_nudge(event_head: int, sample_head: int) -> None:
        heads.append((event_head, sample_head))
        nudged.set()

    async with running(GuardLink(guard.path, on_nudge=on_nudge)) as link:
        await connected(link)
        guard.send(b"rubbish")
        guard.send(messages.pack(MessageType.RESULT, b"short"))
        guard.send(messages.pack(MessageType.HELLO, bytes(24)))
        guard.send(messages.pack(MessageType.NUDGE, messages.NUDGE.pack(12, 34)))
        await nudged.wait()
        assert link.stats().messages_bad == 3
        assert link.state().connected
    assert heads == [(12, 34)]


def test_direct_trip_without_a_guard(directory: Path) -> None:
    with pytest.raises(GuardError, match="not reached"):
        send_directly(directory / "guard.sock", MessageType.TRIP, 5, "0", timeout_s=0.2)


@pytest.mark.parametrize("answers", [True, False])
def test_direct_trip(directory: Path, answers: bool) -> None:
    path = directory / "guard.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(os.fspath(path))
    listener.listen(1)
    seen: list[tuple[int, int, bytes]] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            kind, ident, body = messages.unpack(connection.recv(4096))
            key, _, _, _, _, _, who = messages.COMMAND.unpack(body)
            seen.append((kind, key, who.rstrip(b"\0")))
            if answers:
                connection.send(messages.pack(MessageType.NUDGE, messages.NUDGE.pack(1, 1)))
                connection.send(result(ident, ResultCode.ALREADY))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        if answers:
            assert send_directly(path, MessageType.TRIP, 5, "uid 7").code == ResultCode.ALREADY
        else:
            with pytest.raises(GuardError, match="closed the connection"):
                send_directly(path, MessageType.TRIP, 5, "uid 7")
    finally:
        thread.join()
        listener.close()
    assert seen == [(MessageType.TRIP, 5, b"uid 7")]
