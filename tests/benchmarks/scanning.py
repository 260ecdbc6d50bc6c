"""The gateway's own polling: what a site of 10,000 tags costs, and what bad neighbours do to it.

The whole ``sitewarden run`` each time: drivers, scanner, image, alarms, recorder, history. Every
register moves with every read, so every sample is recorded. Lateness is what the device's own log
says of 46 good devices: beside four more good ones, and beside a dead, a slow, a holed and a
hostile one.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from drivers.session import phase_of
from tests.benchmarks.loads import output_of
from tests.benchmarks.storage import cpu_s, samples_stored
from tests.helpers.bad_devices import dead, holed, hostile, serving, slow
from tests.helpers.harness import Site, until
from tests.helpers.modbus_server import ModbusServer, Request

DEVICES, TAGS_PER_DEVICE = 100, 100
SECONDS = 10.0
WARM_S = 3.0
GOOD, BAD, TAGS = 46, 4, 10
POLL_MS, TIMEOUT_MS = 100, 400
MS = 1_000_000
SETTLED_S = 1.0

HEAD = '[site]\nid = "bench"\n\n[view]\nlisten = "127.0.0.1:0"\n'
DEVICE = """
[[device]]
id = "d{number}"
driver = "modbus-tcp"
address = "127.0.0.1:{port}"
poll = "{poll}"
timeout = "{timeout}"
settle = "100ms"
"""
TAG = """
[[tag]]
id = "d{number}.t{tag}"
device = "d{number}"
point = {{ address = "ir:{register}", type = "float32" }}
"""


@dataclass
class SiteCost:
    """One round: CPU as a share of one core, samples recorded a second, requests a second."""

    cpu: float
    rss_bytes: int
    samples_per_s: float
    requests_per_s: float


@dataclass
class Scanning:
    """Rounds of the site and of pymodbus per tag; lateness of good devices' polls, ns."""

    site: list[SiteCost] = field(default_factory=list)
    per_tag: list[SiteCost] = field(default_factory=list)
    healthy: list[list[int]] = field(default_factory=list)
    with_bad: list[list[int]] = field(default_factory=list)


def site_text(ports: Iterable[int], tags: int, *, poll: str, timeout: str, apart: int = 0) -> str:
    """A site of equal devices; each one's registers begin ``apart`` behind those before."""
    parts = [HEAD]
    for number, port in enumerate(ports):
        parts.append(DEVICE.format(number=number, port=port, poll=poll, timeout=timeout))
        parts += [
            TAG.format(number=number, tag=tag, register=number * apart + 2 * tag)
            for tag in range(tags)
        ]
    return "".join(parts)


# ---- cost ----------------------------------------------------------------------------------------


async def cost(result: Scanning, seconds: float = SECONDS) -> None:
    """One round of each."""
    async with ModbusServer() as server:
        server.count("ir", 0, 2 * TAGS_PER_DEVICE)
        await server.sync()
        result.site.append(await _site_cost(server.port, seconds))
        words = [sys.executable, "-m", "tests.benchmarks.plain_tags", server.port]
        said = await output_of([*words, DEVICES, TAGS_PER_DEVICE, seconds])
    reads, cpu_ns, rss = (int(word) for word in said.split())
    per_s = reads / seconds
    result.per_tag.append(SiteCost(cpu_ns / 1e9 / seconds, rss, per_s, per_s))


async def _site_cost(port: int, seconds: float) -> SiteCost:
    text = site_text([port] * DEVICES, TAGS_PER_DEVICE, poll="1s", timeout="1s")
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench", dir="/var/tmp") as name:
        async with Site(Path(name), text) as site:
            await site.start()
            await site.ready(60)
            assert site.process is not None
            pid = site.process.pid
            await until("every device", lambda: _up(site), 60)
            await asyncio.sleep(min(WARM_S, seconds))
            before, begin = await _counted(site), time.monotonic()
            cpu = cpu_s(pid)
            await asyncio.sleep(seconds)  # the measurement itself
            cpu, took = cpu_s(pid) - cpu, time.monotonic() - begin
            after = await _counted(site)
            rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    samples, requests = (b - a for a, b in zip(before, after, strict=True))
    return SiteCost(cpu / took, rss, samples / took, requests / took)


async def _up(site: Site) -> bool:
    devices = (await _get(site, "/status"))["devices"]
    return all(device["up"] for device in devices)


async def _counted(site: Site) -> tuple[int, int]:
    """(samples in the history, requests made) so far."""
    devices = (await _get(site, "/status"))["devices"]
    return samples_stored(site), sum(device["requests"] for device in devices)


async def _get(site: Site, path: str) -> Any:
    connector = aiohttp.UnixConnector(str(site.runtime / "gateway.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://site{path}") as answer,
    ):
        return await answer.json()


# ---- bad neighbours ------------------------------------------------------------------------------


async def neighbours(result: Scanning, seconds: float = SECONDS) -> None:
    """One round of each."""
    result.healthy.append(await _lateness([], seconds))
    late_s = 0.9 * TIMEOUT_MS / 1000
    async with contextlib.AsyncExitStack() as stack:
        bad = [
            await stack.enter_async_context(serving(serve))
            for serve in (dead, slow(late_s), holed, hostile)
        ]
        result.with_bad.append(await _lateness(bad, seconds))


async def _lateness(bad: list[int], seconds: float) -> list[int]:
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench", dir="/var/tmp") as name:
        log = Path(name) / "requests"
        async with ModbusServer(log) as good, ModbusServer() as more:
            ports = [good.port] * GOOD + (bad or [more.port] * BAD)
            text = site_text(
                ports, TAGS, poll=f"{POLL_MS}ms", timeout=f"{TIMEOUT_MS}ms", apart=2 * TAGS
            )
            async with Site(Path(name), text) as site:
                await site.start()
                await site.ready(60)
                await asyncio.sleep(SETTLED_S + seconds)  # the measurement itself
            return lateness(await good.requests())


def lateness(requests: Iterable[Request]) -> list[int]:
    """Of each good device's reads after its first second: how long after its due time, ns.

    Within that second it connects and reads at once, whatever its phase is.
    """
    times: dict[int, list[int]] = {}
    for request in requests:
        if request.kind == "r":
            times.setdefault(request.address // (2 * TAGS), []).append(request.ns)
    period_ns = POLL_MS * MS
    return [
        (ns - phase_of(f"d{number}", period_ns)) % period_ns
        for number, found in times.items()
        for ns in found
        if ns >= found[0] + SETTLED_S * 1e9
    ]
