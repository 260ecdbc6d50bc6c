"""``run --simulate``: every site's whole life on the desk, and nothing of its file is touched."""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.harness import ROOT, Site, site_text, until
from tests.helpers.platform import Platform
from tests.helpers.programs import find

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

# By example: what is driven, the interlock that trips by it.
DRIVES: dict[str, tuple[dict[str, float], str]] = {
    "mine-face": ({"ch4.t1": 1.9, "ch4.t2": 1.9}, "face-power-cut"),
    "tank-farm": ({"t1.level.a": 11.8}, "t1-high-high"),
}
EXAMPLES = sorted(path.stem for path in (ROOT / "config").glob("*.toml"))


@asynccontextmanager
async def simulated(directory: Path, text: str, *options: str) -> AsyncIterator[Site]:
    async with Site(directory, text) as site:
        await site.start("--simulate", *options)
        await site.ready()
        yield site


async def rows(site: Site, path: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in await site.get(path)}


async def drive(site: Site, tag: str, **how: Any) -> str:
    status, answer = await site.post("/simulate", {"id": tag, **how})
    assert status == 200
    assert answer["exit_code"] == 0, answer
    return str(answer["text"])


def every_tag_good(site: Site) -> Callable[[], Awaitable[bool]]:
    async def good() -> bool:
        return all(row["quality"] == "GOOD" for row in await site.get("/tags"))

    return good


def in_state(site: Site, interlock: str, state: str) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        return bool((await rows(site, "/interlocks"))[interlock]["state"] == state)

    return so


async def outputs_of(site: Site) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in (await site.get("/status"))["outputs"]}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_whole_life_of_every_example(name: str, tmp_path: Path) -> None:
    drives, interlock = DRIVES[name]
    text = (ROOT / "config" / f"{name}.toml").read_text()
    async with simulated(tmp_path, text) as site:
        await until("every tag GOOD", every_tag_good(site))
        await site.protecting(len((await site.get("/status"))["outputs"]))
        states = {row["state"] for row in await site.get("/interlocks")}
        assert states == {"NORMAL"}, "nothing trips while nobody drives anything"

        for tag, value in drives.items():
            await drive(site, tag, value=value)
        await until("the trip", in_state(site, interlock, "TRIPPED"))

        async def confirmed() -> bool:
            held = [row for row in (await outputs_of(site)).values() if row["held_by"]]
            return bool(held) and all(r["state"] == "TRIPPED" and r["confirmed"] for r in held)

        await until("outputs confirmed", confirmed)
        for tag in drives:
            await drive(site, tag, end=True)
        tripped = [i for i, row in (await rows(site, "/interlocks")).items()
                   if row["state"] != "NORMAL"]  # fmt: skip
        assert interlock in tripped
        for ident in tripped:
            await until(f"{ident} ready", in_state(site, ident, "READY_TO_RESET"))
            _, answer = await site.post("/reset", {"id": ident, "reason": "test"})
            assert answer["exit_code"] == 0, answer
        await site.protecting(len(await outputs_of(site)))
        await until(
            "the end of the trip in the ledger",
            lambda: any(alert["kind"] == "trip_end" for alert in site.alerts()),
        )
        assert all(alert["exercise"] for alert in site.alerts())
        assert await site.stop() == 0
    lines = site.log_text().splitlines()
    assert lines
    assert [line for line in lines if "SIMULATED" not in line] == []


class Listener:
    """A port that the site file names; counts who comes."""

    def __init__(self) -> None:
        self.callers = 0
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Listener"]:
        async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.callers += 1
            writer.close()

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()


SERIAL = """
[[device]]
id = "gauge"
driver = "modbus-rtu"
address = "{tty}"
fast = true
poll = "100ms"
timeout = "100ms"

[[tag]]
id = "level"
device = "gauge"
point = {{ address = "ir:0", type = "float32" }}
unit = "m"
range = [0, 10]

[[output]]
id = "horn"
device = "slow"
address = "c:3"
trip = true
normal = false
via = "gateway"

[[device]]
id = "slow"
driver = "modbus-tcp"
address = "127.0.0.1:{port}"
unit = 7
poll = "200ms"

[[tag]]
id = "slow.level"
device = "slow"
point = {{ address = "hr:10", type = "uint16", scale = 0.1 }}
stale_after = "15s"
unit = "m"
range = [0, 10]

[[device]]
id = "server"
driver = "opcua"
address = "opc.tcp://127.0.0.1:{port}"
security = "None"
insecure = true
poll = "200ms"

[[tag]]
id = "server.level"
device = "server"
point = {{ node = "ns=2;s=Level" }}
stale_after = "15s"
unit = "m"
range = [0, 10]

[[tag]]
id = "server.valve"
device = "server"
point = {{ path = "0:Objects/2:Plant/2:Shut", type = "bool" }}
stale_after = "15s"

[[output]]
id = "valve"
device = "server"
address = "ns=2;s=Valve"
trip = true
normal = false
via = "gateway"
readback = "server.valve"

[[device]]
id = "wind"
driver = "serial"
address = "{tty}.wind"
template = "nmea0183-wind"

[[tag]]
id = "wind.speed"
device = "wind"
point = {{ field = "speed" }}
range = [0, 60]

[[interlock]]
id = "high"
cause = "level > 9 or slow.level > 9 or server.level > 9"
effects = ["horn", "valve"]
response = "30s"
armed = true
"""


async def test_nothing_of_the_file_is_contacted(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    device, platform = Listener(), Listener()
    try:
        tty = os.ttyname(slave)
        async with device.open(), platform.open():
            text = site_text(
                [f"127.0.0.1:{device.port}"],
                url=f"http://127.0.0.1:{platform.port}",
                extra=SERIAL.format(tty=tty, port=device.port),
            )
            async with simulated(tmp_path, text) as site:
                await until("every tag GOOD", every_tag_good(site))
                await site.protecting()  # the horn has no read-back: it waits for a release
                await drive(site, "slow.level", value=9.5)
                await until("the trip", in_state(site, "high", "TRIPPED"))

                async def sounding() -> bool:
                    outputs = await outputs_of(site)
                    return bool(outputs["horn"]["confirmed"] and outputs["valve"]["confirmed"])

                await until("the horn and the valve, by way of the gateway", sounding)
                users = [
                    link
                    for entry in Path("/proc").glob("[0-9]*/fd/*")
                    if (link := _target(entry)) == tty and entry.parts[2] != str(os.getpid())
                ]
                assert users == [], "somebody has the serial port of the file open"
                assert (await site.get("/status"))["uplinks"] == []
            assert (device.callers, platform.callers) == (0, 0)
    finally:
        os.close(master)
        os.close(slave)


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:  # it has gone meanwhile, or is not ours to see
        return ""


async def test_strace_sees_no_address_of_the_file(tmp_path: Path) -> None:
    program = find("strace")
    text = (ROOT / "config" / "tank-farm.toml").read_text()
    text = text.replace("http://127.0.0.1:8480", "http://192.0.2.44:8480")
    trace = tmp_path / "trace"
    async with Site(tmp_path, text) as site:
        process = await asyncio.create_subprocess_exec(
            program, "-f", "-qq", "-e", "trace=connect,openat,sendto", "-o", str(trace),
            sys.executable, "-m", "gateway", "run", str(site.file),
            "--simulate", *site.directories, cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await until("endpoints.json", lambda: bool(site.endpoints()), 60)
            await until("every tag GOOD", every_tag_good(site), 60)
        finally:
            pid = site.endpoints().get("pid", process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
            await asyncio.wait_for(process.wait(), 20)
    seen = trace.read_text(errors="replace")
    assert "127.0.0.1" in seen, "the trace shows connections"
    hosts = set(re.findall(r'inet_addr\("([\d.]+)"\)', seen))
    assert hosts == {"127.0.0.1"}
    assert "/dev/serial" not in seen


async def test_it_is_driven_and_says_so_everywhere(tmp_path: Path) -> None:
    async with (
        Platform() as platform,
        simulated(tmp_path, site_text(["192.0.2.1:502"], url=platform.url), "--uplinks") as site,
    ):
        status = await site.cli("status")
        assert status.out.startswith("SIMULATED")
        assert (await site.get("/status"))["simulated"] is True
        for command in ("tags", "interlocks"):
            assert (await site.cli(command)).out.startswith("SIMULATED"), command
        assert "\nsitewarden_simulated 1.0\n" in (await _http(site, "/metrics")).decode()
        assert json.loads(await _http(site, "/healthz"))["simulated"] is True

        await until("every tag GOOD", every_tag_good(site))
        answer = await site.cli("simulate", "gas0", "3.5", "--ramp", "1s")
        assert answer.out == "gas0 is driven to 3.5\n"
        await until("the trip", in_state(site, "cut0", "TRIPPED"))
        assert await drive(site, "") == "gas0"
        assert "not a number" in (await site.cli("simulate", "gas0", "--bad")).out

        async def bad() -> bool:
            return bool((await rows(site, "/tags"))["gas0"]["reason"] == "not_a_number")

        await until("a bad tag", bad)
        await until("alerts and samples", lambda: bool(platform.alerts and platform.samples))
        assert all(alert["exercise"] is True for alert in platform.unique().values())
        messages = [message for body in platform.samples for message in body["samples"]]
        assert all(message["exercise"] is True for message in messages)
        assert "its own way" in await drive(site, "gas0", end=True)
        plant = next(pid for pid in _processes() if "drivers.sim" in _command(pid))
        os.kill(plant, 9)
        await until("the plant's end is told", lambda: any(
            "every device is gone" in str(alert.get("cause")) for alert in site.alerts()
        ))  # fmt: skip
        await until("every tag GOOD again", every_tag_good(site))
        nobody = await site.cli("simulate", "nobody", "1")
        assert (nobody.code, "no measured tag nobody" in nobody.err) == (2, True)
        await site.kill_gateway()
        assert (await site.cli("status")).out.startswith("SIMULATED"), "with the gateway dead too"


PUMP = """
[[device]]
id = "pump"
driver = "modbus-tcp"
address = "192.0.2.2:502"
fast = true
poll = "20ms"
timeout = "100ms"

[[tag]]
id = "flow"
device = "pump"
point = { address = "ir:5", type = "float32" }
unit = "m3/h"
range = [0, 100]

[[interlock]]
id = "dry"
cause = "flow < 5"
effects = ["power0"]
response = "2s"
armed = true
"""


def loaded_anew(site: Site) -> int:
    return sum("loaded anew" in str(alert.get("cause")) for alert in site.alerts())


async def test_another_site_file_is_simulated_in_the_same_way(tmp_path: Path) -> None:
    """No trip by it, what is driven stays so, and a device more has a place in the plant."""
    text = site_text(["192.0.2.1:502"])
    async with simulated(tmp_path, text) as site:
        await until("every tag GOOD", every_tag_good(site))
        await site.protecting()
        await drive(site, "gas0", value=0.75)
        site.file.write_text(text + PUMP)
        assert site.process is not None
        os.kill(site.process.pid, signal.SIGHUP)
        await until("the exchange", lambda: loaded_anew(site) == 1)
        await until("every tag GOOD", every_tag_good(site))
        tags = await rows(site, "/tags")
        assert tags["gas0"]["value"] == 0.75
        assert {row["state"] for row in await site.get("/interlocks")} == {"NORMAL"}
        await drive(site, "flow", value=2.0)
        await until("the new trip", in_state(site, "dry", "TRIPPED"))

        site.file.write_text(text.replace("armed = true", "armed = false"))
        answer = await site.cli("reload")
        assert answer.code == 4, "gone while it is tripped, and weaker"
        assert "dry" in await rows(site, "/interlocks")
        await drive(site, "flow", value=50.0)
        await until("ready", in_state(site, "dry", "READY_TO_RESET"))
        _, reset = await site.post("/reset", {"id": "dry", "reason": "test"})
        assert reset["exit_code"] == 0, reset
        site.file.write_text(text)
        answer = await site.cli("reload", "--weakens", "the pump is gone again")
        assert answer.code == 0, answer
        await until("the exchange", lambda: loaded_anew(site) == 2)
        assert set(await rows(site, "/tags")) == set(tags) - {"flow"}
        await until("every tag GOOD", every_tag_good(site))
        assert await drive(site, "") == "gas0"
        assert all(alert["exercise"] for alert in site.alerts())


def _processes() -> list[int]:
    """The processes of this test run."""
    mark = os.environ["SITEWARDEN_TEST_RUN"].encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


async def _http(site: Site, path: str) -> bytes:
    host, _, port = site.endpoints()["http"].removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def test_its_directories_are_its_own_and_each_run_begins_anew(tmp_path: Path) -> None:
    async with Site(tmp_path, site_text(["192.0.2.1:502"])) as site:
        (site.runtime / "keep").write_text("mine")
        await site.start("--simulate")
        assert site.process is not None
        assert await asyncio.wait_for(site.process.wait(), 20) == 1
        assert "is not empty and not of a simulated run" in site.log_text()
        assert (site.runtime / "keep").read_text() == "mine"
        (site.runtime / "keep").unlink()

        await site.start("--simulate")
        await site.ready()
        await site.protecting()
        await drive(site, "gas0", value=2.0)
        await until("the trip", in_state(site, "cut0", "TRIPPED"))
        guard = site.guard_pid()
        await site.kill_gateway()
        await site.start("--simulate")
        await site.ready()
        await site.protecting()
        assert site.guard_pid() != guard, "the guard of the killed run has ended"
        assert site.trips_recorded() == 0
        assert await site.stop() == 0

        await site.start()
        assert await asyncio.wait_for(site.process.wait(), 20) == 1
        assert "are of simulated runs" in site.log_text()
