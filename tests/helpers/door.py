"""Starts the gateway with signals at the scanner's door, in the place of its devices' sessions.

``python -m tests.helpers.door --socket PATH --base-ms MS [...] -- run SITE.toml ...``
Everything from ``Scanner.deliver`` on is the product's own and runs as ``run`` has it. Accelerated,
each second of the signals is delivered poll by poll and committed, and every tenth is followed by
the housekeeping, as the recorder's own loops do by the clock; the history's clock is that of the
signals. Live, a poll comes when it is due.
A line of JSON on the socket is a request, a line of JSON its answer.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.helpers import inside

KEEP_EVERY: Final = 10  # seconds of the signals


class Door:
    """The signals, how far they are, and when the samples of each live poll came and were taken."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.signals: Any = inside.load("signals").Signals(
            options.tags, options.per_group, options.base_ms,
            jitter_ms=options.jitter_ms, seed=options.seed,
        )  # fmt: skip
        self.gateway: Any = None
        self.seconds = 0  # delivered whole
        self._base_ms: int = options.base_ms
        self.taken_live: list[
            tuple[int, int]
        ] = []  # when it came, how long after the platform had it
        self._socket = options.socket
        self._arrived: dict[tuple[int, int], int] = {}  # (group, second): when
        self._live: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """The scanner's one job: serve the socket."""
        server = await asyncio.start_unix_server(self._serve, self._socket)
        async with server:
            try:
                await server.serve_forever()
            finally:
                if self._live is not None:
                    self._live.cancel()

    def taken(self, item: Any) -> None:
        """The platform has this live message."""
        now_ns, name = time.monotonic_ns(), item.tags[0]
        group = self.signals.names[name] // self.signals.per_group
        seconds = {self.signals.second_of(name, item.t0_ns + dt_ns) for dt_ns in item.dt_ns}
        for second in seconds:
            if (came_ns := self._arrived.pop((group, second), None)) is not None:
                self.taken_live.append((came_ns, now_ns - came_ns))

    def utc_ns(self) -> int:
        """What time it is where the signals are."""
        return min(time.time_ns(), (self._base_ms + 1000 * (self.seconds + 1)) * 1_000_000)

    async def feed(self, seconds: int) -> None:
        """So many seconds of the signals, as fast as the stores take them."""
        recorder = self.gateway.recorder
        for _ in range(seconds):
            for group in range(self.signals.groups):
                self._deliver(group)
            self.seconds += 1
            await recorder.commit()
            if self.seconds % KEEP_EVERY == 0:
                await recorder.keep()

    async def catch_up(self) -> None:
        """The seconds that have gone by meanwhile, until the signals are at the present."""
        while self._ahead_s() < -1:
            await self.feed(1)

    async def live(self) -> None:
        """Poll by poll as they are due, until cancelled; a second that was begun is finished."""
        loop, signals = asyncio.get_running_loop(), self.signals
        begin_s, number = loop.time() + self._ahead_s(), 0
        while True:
            for group in range(signals.groups):
                due_s = begin_s + number + signals.phase_ms(group) / 1000
                try:
                    await asyncio.sleep(max(0.0, due_s - loop.time()))
                except asyncio.CancelledError:
                    if group:
                        for left in range(group, signals.groups):
                            self._deliver(left)
                        self.seconds += 1
                    raise
                self._arrived[group, self.seconds] = time.monotonic_ns()
                self._deliver(group)
            self.seconds += 1
            number += 1

    def _ahead_s(self) -> float:
        """How long it is until the next second of the signals; below zero: it is over."""
        return self._base_ms / 1000 + self.seconds - time.time()

    def _deliver(self, group: int) -> None:
        samples = self.signals.poll(group, time.monotonic_ns())
        self.gateway.scanner.deliver(samples)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the gateway ends first
            while line := await reader.readline():
                answer = await self._answer(json.loads(line))
                writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    async def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["do"] == "feed":
            await self.feed(asked["seconds"])
        elif asked["do"] == "catch up":
            await self.catch_up()
        elif asked["do"] == "live":
            self._live = asyncio.create_task(self.live())
        elif asked["do"] == "stop" and self._live is not None:
            self._live.cancel()
            await asyncio.gather(self._live, return_exceptions=True)
        elif asked["do"] == "look":
            found, self.taken_live = self.taken_live, []
            (pump,) = self.gateway.pumps
            return {"taken": found, "backlog": pump.stats().backlog}
        toggles = self.signals.toggles(asked.get("switches", ()))
        return {"seconds": self.seconds, "toggles": toggles}


def stand_in(door: Door) -> None:
    """From the next start on the product's parts are built with the door in them."""
    from gateway import daemon
    from gateway.build import build_gateway
    from gateway.uplink.base import LIVE, Accepted
    from gateway.uplink.mqtt import MqttUplink

    send = MqttUplink.send

    def built(*arguments: Any, **named: Any) -> Any:
        door.gateway = gateway = build_gateway(*arguments, **named)
        gateway.history._state.utc_ns = door.utc_ns
        gateway.scanner.jobs = lambda: {"door": door.run}  # type: ignore[method-assign]
        return gateway

    async def sent(self: MqttUplink, lane: str, items: Any) -> Any:
        verdicts = await send(self, lane, items)
        if lane == LIVE:
            for out, verdict in zip(items, verdicts, strict=True):
                if isinstance(verdict, Accepted) and getattr(out.item, "tags", None):
                    door.taken(out.item)
        return verdicts

    setattr(daemon, "build_gateway", built)  # noqa: B010  it is not the daemon's to export
    MqttUplink.send = sent  # type: ignore[method-assign]


class Client:
    """The test's end of the socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Client":
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def ask(self, do: str, **what: Any) -> dict[str, Any]:
        """Ask for one thing; its answer comes when it is done."""
        self._writer.write(json.dumps({"do": do, **what}).encode() + b"\n")
        line = await self._reader.readline()
        if not line:
            raise ConnectionError("the gateway has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    """Arrange the door, then be the gateway."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--tags", type=int, default=1_200)
    parser.add_argument("--per-group", type=int, default=100)
    parser.add_argument("--base-ms", type=int, required=True)
    parser.add_argument("--jitter-ms", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    stand_in(Door(options))
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    sys.argv = ["sitewarden", *command]
    from gateway.__main__ import main as product

    sys.exit(product())


if __name__ == "__main__":
    main()
