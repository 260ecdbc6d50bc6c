"""Debian's mosquitto broker on a free loopback port, and a subscriber that keeps what it gets."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import aiomqtt

from tests.helpers.ports import free_port
from tests.helpers.programs import find

READY_S = 5.0


class Mosquitto:
    """One broker process; ``async with`` starts and ends it. Its port stays over a restart.

    ``acl``: lines of its ACL file. ``lines``: more of its configuration. ``certificates``: a folder
    with ca.pem, server.pem and server-key.pem; then it speaks TLS and wants client certificates.
    """

    def __init__(
        self,
        folder: Path,
        *,
        acl: Sequence[str] = (),
        lines: Sequence[str] = (),
        certificates: Path | None = None,
    ) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.log: list[str] = []
        config = ["user root", f"listener {self.port} 127.0.0.1", "log_dest stderr", *lines]
        if not any(line.startswith("allow_anonymous") for line in lines):
            config.append("allow_anonymous true")
        if acl:
            (folder / "acl").write_text("\n".join(acl) + "\n")
            config.append(f"acl_file {folder / 'acl'}")
        if certificates:
            config += [
                f"cafile {certificates / 'ca.pem'}",
                f"certfile {certificates / 'server.pem'}",
                f"keyfile {certificates / 'server-key.pem'}",
                "require_certificate true",
            ]
        (folder / "mosquitto.conf").write_text("\n".join(config) + "\n")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = await asyncio.create_subprocess_exec(
            find("mosquitto"), "-c", str(self._folder / "mosquitto.conf"),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        running = asyncio.Event()
        self._reader = asyncio.create_task(self._read(self._process, running))
        async with asyncio.timeout(READY_S):
            await running.wait()

    async def stop(self) -> None:
        """End it in an orderly way."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        await self._gone()

    async def kill(self) -> None:
        """End it as a power cut would."""
        self.send(signal.SIGKILL)
        await self._gone()

    def send(self, sent: signal.Signals) -> None:
        """SIGSTOP, SIGCONT ..."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(sent)

    async def _gone(self) -> None:
        if self._process is None:
            return
        await self._process.wait()
        if self._reader is not None:
            await self._reader
        self._process = None

    async def _read(self, process: asyncio.subprocess.Process, running: asyncio.Event) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            self.log.append(line.decode(errors="replace").rstrip())
            if b" running" in line:
                running.set()


class Subscriber:
    """Keeps every message of ``sitewarden/#`` in the order of arrival: (topic's end, payload)."""

    def __init__(self, port: int, **client: Any) -> None:
        self._port = port
        self._arguments = client
        self._stack = contextlib.AsyncExitStack()
        self._task: asyncio.Task[None] | None = None
        self._came = asyncio.Condition()
        self.received: list[tuple[str, dict[str, Any]]] = []

    async def __aenter__(self) -> Self:
        await self.subscribe()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def subscribe(self) -> None:
        """A new session; what came before is kept."""
        client = aiomqtt.Client(
            "127.0.0.1", self._port, protocol=aiomqtt.ProtocolVersion.V5, **self._arguments
        )
        await self._stack.enter_async_context(client)
        await client.subscribe("sitewarden/#", qos=1)
        self._task = asyncio.create_task(self._collect(client))

    async def leave(self) -> None:
        """End the session; harmless where the broker ended it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        with contextlib.suppress(aiomqtt.MqttError):
            await self._stack.aclose()

    def of(self, topic: str) -> list[dict[str, Any]]:
        """The payloads of one topic, in order."""
        return [payload for name, payload in self.received if name == topic]

    async def until(self, true: Callable[[], bool], timeout_s: float = 15.0) -> None:
        """Wait for what arrives."""
        async with asyncio.timeout(timeout_s), self._came:
            await self._came.wait_for(true)

    async def _collect(self, client: aiomqtt.Client) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                name = str(message.topic).rsplit("/", 1)[-1]
                async with self._came:
                    self.received.append((name, json.loads(message.payload)))
                    self._came.notify_all()
