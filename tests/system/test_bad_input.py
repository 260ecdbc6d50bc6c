"""Everything wrong at once: each thing is told once, and the one good device goes on protecting.

What people read is the gateway's stderr, what machines read is ``/metrics`` and the ledger. The
good device, the outside observer, is a libmodbus server.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from fastpath.codes import InterlockState, OutputState
from tests.drivers.scripted import Conversation, Scripted, registers_reply, reply, scripted
from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, ROOT, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.small_disk import small_disk

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

MIB = 1024 * 1024
DISK_MIB = 320  # for both reserves, and more
SMALL_DISK_MIB = 48  # for a part of one
UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
FULL = 'sitewarden_problem{id="disk",kind="store"} 1.0'
LEDGER_PROBLEM = 'sitewarden_problem{id="ledger",kind="store"} 1.0'
LEDGER_DOWN = 'sitewarden_store_up{store="ledger"} 0.0'
GOOD_TAGS = {"gas0": "GOOD", "closed0": "GOOD"}
CONNECTIONS = 8  # so often the bad devices are tried before lines are counted

DEVICE = """
[[device]]
id = "{id}"
driver = "modbus-tcp"
address = "{address}"
fast = {fast}
poll = "50ms"
timeout = "100ms"
settle = "50ms"
"""
TAG = """
[[tag]]
id = "{device}.{name}"
device = "{device}"
point = {{ address = "{address}", type = "{type}" }}
stale_after = "5s"
"""
UPLINK = """
[[uplink]]
id = "platform"
kind = "http"
url = "https://127.0.0.1:9/"
credentials = "absent"
"""
METHANE, UNMAPPED = "ir:100", "ir:300"  # of the simulated mine face


def device_text(ident: str, address: str, *, fast: bool, **points: str) -> str:
    """A device with a float32 tag per point."""
    parts = [DEVICE.format(id=ident, address=address, fast=str(fast).lower())]
    for name, point in points.items():
        parts.append(TAG.format(device=ident, name=name, address=point, type="float32"))
    return "".join(parts)


@pytest_asyncio.fixture
async def good(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    """A libmodbus server with a closed breaker and clean air."""
    async with ModbusServer(tmp_path / "requests") as server:
        server.set("c", COIL, 1)
        server.link(COIL, CONTACT, ms=10)
        server.set_float("ir", GAS, 0.3)
        await server.sync()
        yield server


@contextmanager
def port(*, listening: bool) -> Iterator[str]:
    """An address that is taken, or where nobody listens and nobody else can."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        if listening:
            holder.listen(1)
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@asynccontextmanager
async def mine_face() -> AsyncIterator[str]:
    """The simulated mine face in a process of its own; its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "drivers.sim", "mine-face", cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{json.loads(await process.stdout.readline())['port']}"
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def nonsense() -> AsyncIterator[Scripted]:
    """A server with another kind of nonsense in each connection."""
    kinds: list[Callable[[bytes], bytes]] = [
        lambda _: b"HTTP/1.0 400 Bad Request\r\n\r\n",
        lambda request: registers_reply(request)[:-1],  # and nothing more
        lambda request: reply(request, bytes([request[7] ^ 1, 2, 0, 0])),
        lambda request: reply(request, bytes([request[7], 1, 0])),
        lambda request: b"\0\0" + registers_reply(request)[2:],
        lambda request: reply(request, registers_reply(request)[7:], unit=99),
    ]

    async def answer(talk: Conversation, request: bytes) -> None:
        await talk.send(kinds[talk.number // 2 % len(kinds)](request))

    async with scripted(answer) as server:
        yield server


async def get(site: Site, path: str) -> str:
    connector = aiohttp.UnixConnector(str(site.runtime / "gateway.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://site{path}") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


async def qualities(site: Site) -> dict[str, str]:
    rows: list[dict[str, Any]] = json.loads(await get(site, "/tags"))
    return {row["id"]: row["quality"] for row in rows}


async def has_metric(site: Site, line: str) -> bool:
    return line in (await get(site, "/metrics")).splitlines()


def alerts(site: Site, source: str, state: str = "raised") -> list[dict[str, Any]]:
    """The ledger's alerts about something, ``device/weather``, in one state."""
    wanted = tuple(source.split("/", 1))
    return [
        alert
        for alert in site.alerts()
        if (alert["source"]["kind"], alert["source"]["id"]) == wanted and alert["state"] == state
    ]


async def alerted(site: Site, source: str, state: str = "raised") -> None:
    await until(f"alert {source} {state}", lambda: bool(alerts(site, source, state)))


def lines(site: Site, word: str) -> list[str]:
    """What people were told with this word in it."""
    return [line for line in site.log_text().splitlines() if word in line]


async def protecting(site: Site) -> None:
    """Start it; everything that can be up is up."""
    await site.start()
    await site.ready()
    await site.protecting()


async def trips(site: Site, device: ModbusServer) -> None:
    """A real rise of the gas reaches the coil, and the ledger."""
    assert site.outputs(1) == [OutputState.RELEASED]
    before = len(alerts(site, "interlock/cut0"))
    await device.trip_by("ir", GAS, LIMIT + 0.5, COIL)
    assert await device.get("c", COIL) == [0]
    await until("the trip", lambda: site.interlock() == InterlockState.TRIPPED)
    await until("its alert", lambda: len(alerts(site, "interlock/cut0")) == before + 1)


TOLD = {
    # a word that only its line has: (the alert's source, a line of /metrics)
    "away-slow": ("device/away-slow", 'sitewarden_device_up{device="away-slow"} 0.0'),
    "away-fast": ("device/away-fast", 'sitewarden_device_up{device="away-fast"} 0.0'),
    "odd-slow": ("device/odd-slow", 'sitewarden_device_up{device="odd-slow"} 0.0'),
    "odd-fast": ("device/odd-fast", 'sitewarden_device_up{device="odd-fast"} 0.0'),
    "face-slow.wrong": ("points/face-slow", 'sitewarden_problem{id="face-slow",kind="points"} 1.0'),
    "face-fast.wrong": ("points/face-fast", 'sitewarden_problem{id="face-fast",kind="points"} 1.0'),
    '"absent"': ("uplink/platform", 'sitewarden_uplink_up{uplink="platform"} 0.0'),
}


async def test_each_is_told_once_and_the_good_device_trips_among_them(
    tmp_path: Path, good: ModbusServer
) -> None:
    with port(listening=False) as away, port(listening=True) as taken:
        async with mine_face() as face, nonsense() as odd:
            odd_address = f"127.0.0.1:{odd.port}"
            parts = [UPLINK]
            for fast, kind in ((False, "slow"), (True, "fast")):
                parts += [
                    device_text(f"away-{kind}", away, fast=fast, x="hr:0"),
                    device_text(f"odd-{kind}", odd_address, fast=fast, x="hr:0"),
                    device_text(f"face-{kind}", face, fast=fast, good=METHANE, wrong=UNMAPPED),
                ]
            text = site_text([good.address], extra="".join(parts))
            text = text.replace('listen = "127.0.0.1:0"', f'listen = "{taken}"')
            told = TOLD | {
                taken: (f"view/{taken}", f'sitewarden_problem{{id="{taken}",kind="view"}} 1.0')
            }
            async with Site(tmp_path, text) as site:
                await protecting(site)
                for source, metric in told.values():
                    await alerted(site, source)
                    await until(metric, partial(has_metric, site, metric))
                await until("more tries", lambda: odd.connections >= CONNECTIONS)
                await trips(site, good)

                wanted = {"gas0", "closed0", "face-slow.good", "face-fast.good"}
                found = await qualities(site)
                assert {tag for tag, quality in found.items() if quality == "GOOD"} == wanted
                for word, (source, _) in told.items():
                    assert len(lines(site, word)) == 1, (word, lines(site, word))
                    assert len(alerts(site, source)) == 1, source
                    assert not alerts(site, source, "cleared"), source
                assert not lines(site, "Traceback")
                assert site.process is not None
                assert site.process.returncode is None


async def test_second_instance_is_refused_and_the_first_protects_on(
    tmp_path: Path, good: ModbusServer
) -> None:
    async with Site(tmp_path, site_text([good.address])) as site:
        await protecting(site)
        answer = await site.cli("run", str(site.file))
        assert answer.code == 1
        assert len(answer.err.splitlines()) == 1
        assert "another gateway" in answer.err
        assert await qualities(site) == GOOD_TAGS
        await trips(site, good)


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A tmpfs of its own where the state directory will be."""
    with small_disk(tmp_path / "state", 1024 * request.param, "mode=750") as mount:
        yield mount


class Filler:
    """Another program's file that grows into every free byte of a disk."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "of-another-program"

    def fill(self) -> None:
        """Take what is free now."""
        with self._path.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017

    async def keep_filling(self) -> None:
        """Take what is given back, too, until cancelled."""
        while True:
            await asyncio.to_thread(self.fill)
            await asyncio.sleep(0.01)

    def free(self) -> None:
        """Give all of it back."""
        self._path.unlink()


async def told_once_that_it_is_full(site: Site) -> None:
    """The disk is one line, one alert and one metric from full to free."""
    await alerted(site, "store/disk", "cleared")
    assert len(alerts(site, "store/disk")) == 1
    assert len(lines(site, "the disk of")) == 1
    assert len(lines(site, "there is room again")) == 1
    assert not await has_metric(site, FULL)
    assert not lines(site, "Traceback")
    assert await qualities(site) == GOOD_TAGS


@pytest.mark.parametrize("disk", [DISK_MIB], indirect=True)
async def test_a_full_disk_is_told_at_once_by_the_reserve_and_heals(
    tmp_path: Path, good: ModbusServer, disk: Path
) -> None:
    filler = Filler(disk)
    async with Site(tmp_path, site_text([good.address])) as site:
        await protecting(site)
        filler.fill()
        await alerted(site, "store/disk")
        assert await has_metric(site, FULL)
        await trips(site, good)
        assert await qualities(site) == GOOD_TAGS
        filler.free()
        await told_once_that_it_is_full(site)
        assert not lines(site, "ledger.db")  # it was never in need


async def has_no_ledger(site: Site) -> bool:
    """Ask for what must be written down first; True once that fails and people are told."""
    status, _ = await site.post("/reset", {"id": "cut0", "reason": "a long one " * 40})
    assert status != 400
    metrics = (await get(site, "/metrics")).splitlines()
    return {FULL, LEDGER_DOWN, LEDGER_PROBLEM} <= set(metrics)


@pytest.mark.alone
@pytest.mark.parametrize("disk", [SMALL_DISK_MIB], indirect=True)
async def test_a_ledger_without_any_room_takes_everything_when_there_is_some(
    tmp_path: Path, good: ModbusServer, disk: Path
) -> None:
    filler = Filler(disk)
    async with Site(tmp_path, site_text([good.address])) as site:
        await protecting(site)
        filling = asyncio.create_task(filler.keep_filling())
        try:
            await until("no room for the ledger", partial(has_no_ledger, site))
            await good.trip_by("ir", GAS, LIMIT + 0.5, COIL)
            assert await good.get("c", COIL) == [0]
            assert await qualities(site) == GOOD_TAGS
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
        filler.free()
        await alerted(site, "interlock/cut0")
        await alerted(site, "store/ledger")
        await told_once_that_it_is_full(site)
        assert len(alerts(site, "store/ledger")) == 1
        assert len(lines(site, "store ledger: ledger.db cannot be used")) == 1
        assert len(lines(site, "store ledger")) == 2  # the other one: it is written again


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "No such file or directory": lambda _: None,
    "Is a directory": Path.mkdir,
    "Permission denied": lambda path: path.touch(mode=0),
}


@pytest.mark.parametrize("why", UNREADABLE)
async def test_a_site_file_that_cannot_be_read_is_one_line(tmp_path: Path, why: str) -> None:
    file = tmp_path / "site.toml"
    UNREADABLE[why](file)
    command = [sys.executable, "-m", "gateway", "run", str(file)]
    command += ["--runtime-dir", str(tmp_path / "r"), "--state-dir", str(tmp_path / "s")]
    if why == "Permission denied" and os.geteuid() == 0:
        command = [*UNPRIVILEGED, *command]  # root reads everything
    answer = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr == f"{file}:1: cannot be read: {why}\n"
    assert not answer.stdout
    assert not (tmp_path / "s").exists()


async def test_a_log_that_nobody_reads_holds_nobody(tmp_path: Path, good: ModbusServer) -> None:
    """stderr is a pipe that is full: trips, the ledger and the page go on."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        async with Site(tmp_path, site_text([good.address])) as site:
            site.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "run", str(site.file), "--verbose",
                *site.directories, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stderr=writer,
            )  # fmt: skip
            await site.ready()
            await site.protecting()
            await trips(site, good)
            assert await qualities(site) == GOOD_TAGS
            assert await site.stop() == 0
    finally:
        os.close(reader)
        os.close(writer)
