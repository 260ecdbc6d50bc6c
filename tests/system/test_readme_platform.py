"""The README's platform in thirty lines, against a gateway: killed twice, nothing is missing."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fastpath.codes import Quality
from tests.helpers.harness import ROOT, Site, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = pytest.mark.system

TAGS = 3
READINGS = 20  # between two kills
SITE = """
[site]
id = "test-site"
[view]
listen = "127.0.0.1:0"
[[uplink]]
id = "platform"
kind = "http"
url = "{url}"
timeout = "2s"
[[device]]
id = "plc"
driver = "modbus-tcp"
address = "{device}"
poll = "50ms"
settle = "50ms"
record = "all"
"""
TAG = '[[tag]]\nid = "t{i}"\ndevice = "plc"\npoint = {{ address = "hr:{i}" }}\n'


class Example:
    """The README's program, run as it stands there."""

    def __init__(self, directory: Path) -> None:
        text = (ROOT / "README.md").read_text()
        block = re.search(
            r"^A platform in thirty lines.*?^```python\n(.*?)^```$", text, re.M | re.S
        )
        assert block is not None
        self.file = directory / "platform.py"
        self.file.write_text(block[1])
        self.store = directory / "platform.db"
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
            self._port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(self.file), str(self._port), str(self.store),
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await until("the platform", self._answers)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def missing(self) -> list[Any]:
        async with aiohttp.ClientSession() as session, session.get(self.url) as answer:
            found: list[Any] = json.loads(await answer.read())
            return found

    def items(self, lane: str) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT body FROM item WHERE lane = ? ORDER BY first", (lane,))
            return [json.loads(body) for (body,) in rows]

    def samples(self) -> list[dict[str, Any]]:
        return self.items("live") + self.items("backfill")

    async def _answers(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            await self.missing()
            return True
        return False


def _series(messages: list[dict[str, Any]], tag: str) -> list[int]:
    """The good values of a tag by time, as the README says they are to be read."""
    points = []
    for message in messages:
        times = [message["t0_ns"] + round(ms * 1_000_000) for ms in message["dt_ms"]]
        for i, name in enumerate(message["tags"]):
            quality = message["q"][i] if "q" in message else [Quality.GOOD] * len(times)
            points += [
                (at, int(value))
                for at, value, q in zip(times, message["v"][i], quality, strict=True)
                if name == tag and value is not None and q == Quality.GOOD
            ]
    return [value for _, value in sorted(points)]


def _newest_is_bad(example: Example) -> bool:
    live = example.items("live")
    return bool(live) and all(q == 0 or q % 4 != 2 for row in live[-1].get("q", [[2]]) for q in row)


@pytest.mark.timeout(120)
async def test_thirty_lines_lose_nothing(tmp_path: Path) -> None:
    example = Example(tmp_path)
    async with ModbusServer(tmp_path / "requests") as device:
        device.count("hr", 0, TAGS)
        await device.sync()
        text = SITE.format(url=example.url, device=device.address)
        text += "".join(TAG.format(i=i) for i in range(TAGS))
        async with Site(tmp_path, text) as site:
            try:
                await example.start()
                await site.start()
                await site.ready()
                for kill in range(1, 3):

                    async def read(more: int = READINGS * (2 * kill - 1)) -> bool:
                        return (await device.get("hr", 0))[0] >= more

                    await until("readings", read)
                    await until("some of them stored", lambda: bool(example.samples()))
                    await example.kill()

                    async def kept(more: int = READINGS * 2 * kill) -> bool:
                        return (await device.get("hr", 0))[0] >= more

                    await until("readings while nobody listens", kept)
                    await example.start()
                await until("a backlog", lambda: bool(example.items("backfill")), 40)
                os.kill(device.pid, signal.SIGSTOP)  # no reply leaves from now on
                stopped_ns = time.monotonic_ns()
                await until("the last of it", lambda: _newest_is_bad(example), 40)
                answer = await site.cli("status", "--json")
                await site.stop()
            finally:
                os.kill(device.pid, signal.SIGCONT)
                await example.kill()
        requests = await device.requests()
    replies = sum(r.kind == "r" and r.ns < stopped_ns + 500_000_000 and r.address == 0
                  for r in requests)  # fmt: skip
    assert answer.json()["uplinks"][0]["up"]
    await example.start()
    assert await example.missing() == []
    await example.kill()
    for i in range(TAGS):
        own = _series(example.samples(), f"t{i}")
        assert own[0] <= 3  # what was read while the device settled is not a sample
        assert own == list(range(own[0], replies)), f"t{i}"
    alerts = example.items("alert")
    assert [alert["seq"] for alert in alerts] == list(range(1, len(alerts) + 1))
