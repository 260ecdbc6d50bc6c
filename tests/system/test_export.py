"""export and the history query, of a real run: beside the gateway, after it, after its kill.

What comes out is compared with what libmodbus sent, whose registers go up by one with every
reading, and with what a receiving platform has.
"""

import contextlib
import csv
import json
import os
import signal
import sqlite3
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.harness import Site, until
from tests.helpers.modbus_server import ModbusServer, Request
from tests.helpers.receiving import receiving

pytestmark = pytest.mark.system

TAGS = 3
READINGS = 40
TEXT = """
[site]
id = "test-site"
[view]
listen = "127.0.0.1:0"
[[uplink]]
id = "platform"
kind = "http"
url = "{url}"
[[device]]
id = "plc"
driver = "modbus-tcp"
address = "{device}"
poll = "50ms"
settle = "50ms"
record = "all"
"""
TAG = '[[tag]]\nid = "t{i}"\ndevice = "plc"\npoint = {{ address = "hr:{i}" }}\nunit = "mm"\n'


async def _exported(site: Site, *options: str) -> list[dict[str, Any]]:
    answer = await site.cli("export", *options)
    assert answer.code == 0, answer.err
    if "ndjson" in options:
        return [json.loads(line) for line in answer.out.splitlines()]
    return list(csv.DictReader(answer.out.splitlines()))


def _good(rows: list[dict[str, Any]], tag: str) -> list[int]:
    return [int(row["value"]) for row in rows if row["tag"] == tag and row["quality"] == "GOOD"]


def _received(store: Path, tag: str) -> dict[int, float]:
    """UTC ns: value of the good samples that the platform has."""
    found: dict[int, float] = {}
    with contextlib.closing(sqlite3.connect(store)) as database:
        for (body,) in database.execute("SELECT body FROM message"):
            message = json.loads(zlib.decompress(body))
            i = message["tags"].index(tag) if tag in message["tags"] else -1
            for j, ms in enumerate(message["dt_ms"] if i >= 0 else ()):
                quality = message["q"][i][j] if "q" in message else 2
                if quality == 2 and message["v"][i][j] is not None:
                    found[message["t0_ns"] + round(ms * 1e6)] = message["v"][i][j]
    return found


def _sent(requests: list[Request], before_ns: int) -> int:
    return sum(r.kind == "r" and r.address == 0 and r.ns < before_ns for r in requests)


@pytest.mark.timeout(120)
async def test_what_the_device_sent_comes_out(tmp_path: Path) -> None:
    store = tmp_path / "received.db"
    async with receiving(store=store) as url, ModbusServer(tmp_path / "requests") as device:
        device.count("hr", 0, TAGS)
        await device.sync()
        text = TEXT.format(url=url, device=device.address)
        text += "".join(TAG.format(i=i) for i in range(TAGS))
        async with Site(tmp_path, text) as site:
            try:
                await _run(site, device, store)
            finally:
                os.kill(device.pid, signal.SIGCONT)


async def _run(site: Site, device: ModbusServer, store: Path) -> None:
    async def read() -> bool:
        return (await device.get("hr", 0))[0] >= READINGS

    await site.start()
    await site.ready()
    await until("readings", read)
    beside = await _exported(site, str(site.file), "t1")
    own = _good(beside, "t1")
    assert own == list(range(own[0], own[0] + len(own)))
    assert len(own) >= READINGS // 2
    assert {row["unit"] for row in beside} == {"mm"}
    assert {row["tag"] for row in beside} == {"t1"}

    answer = await site.get(f"/api/history?tag=t1&from={beside[0]['time']}&limit=5")
    assert [row["value"] for row in answer["samples"] if row["quality"] == "GOOD"] == own[
        : sum(row["quality"] == "GOOD" for row in answer["samples"])
    ]
    assert not answer["complete"]
    assert "error" in await site.get("/api/history?tag=nonsense")
    assert "error" in await site.get("/api/history?tag=t1&limit=1000000")

    os.kill(device.pid, signal.SIGSTOP)  # no reply leaves from now on
    stopped_ns = time.monotonic_ns()

    async def is_bad() -> bool:
        rows = await _exported(site, "t0", "--from", "2s", "--format", "ndjson")
        return bool(rows) and rows[-1]["quality"] == "BAD"

    await until("the loss", is_bad)
    await site.kill_gateway()
    os.kill(device.pid, signal.SIGCONT)
    replies = _sent(await device.requests(), stopped_ns + 500_000_000)
    killed = await _exported(site, "--format", "ndjson")
    os.kill(device.pid, signal.SIGSTOP)
    for i in range(TAGS):
        own = _good(killed, f"t{i}")
        assert own[0] <= 3  # what was read while the device settled is not a sample
        assert own == list(range(own[0], replies)), f"t{i}"
    for tag in ("t0", "t2"):
        came = _received(store, tag)
        assert len(came) >= READINGS
        assert sorted(came.values()) == _good(killed, tag)[: len(came)]

    await site.start()
    await site.ready()
    await site.stop()
    before = {each.name for each in site.state.iterdir()}
    stopped = await _exported(site, "--format", "ndjson", "--to", killed[-1]["time"])
    assert {each.name for each in site.state.iterdir()} == before
    assert {json.dumps(row) for row in stopped} >= {json.dumps(row) for row in killed}
    for i in range(TAGS):
        assert _good(stopped, f"t{i}") == _good(killed, f"t{i}")
