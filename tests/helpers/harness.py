"""A whole site in processes of its own, and the outside observer's view of it.

The device is a libmodbus server, the platform a small HTTP server, the ledger is opened read-only
with sqlite3: none of them asks the product what happened.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

from fastpath.codes import InterlockState, OutputState
from fastpath.journal import GuardView, JournalError
from tests.helpers.modbus_server import Edge
from tests.helpers.spawner import Life, Spawner

ROOT = Path(__file__).parent.parent.parent
T = TypeVar("T")

WAIT_S = 20.0
STEP_S = 0.005

GAS = 100  # ir: a float32
COIL = 16  # 1 permits, 0 opens
CONTACT = 5  # di: follows the coil
LIMIT = 1.0

DEVICE = """
[[device]]
id = "plc{i}"
driver = "modbus-tcp"
address = "{address}"
fast = {fast}
poll = "{poll}"
timeout = "200ms"
settle = "100ms"
heartbeat = {{ address = "hr:90", watchdog = "5s" }}

[[tag]]
id = "gas{i}"
device = "plc{i}"
point = {{ address = "ir:{gas}", type = "float32" }}
unit = "%CH4"
range = [0, 4]
stale_after = "2s"

[[tag]]
id = "closed{i}"
device = "plc{i}"
point = {{ address = "di:{contact}" }}
stale_after = "2s"

[[output]]
id = "power{i}"
device = "plc{i}"
address = "c:{coil}"
trip = false
normal = true
readback = "closed{i}"
confirm_within = "500ms"

[[interlock]]
id = "cut{i}"
cause = "gas{i} >= {limit}"
effects = ["power{i}"]
response = "5s"
latch = {latch}
armed = true
"""


def site_text(
    addresses: Sequence[str],
    *,
    url: str = "",
    poll: str = "10ms",
    latch: bool = True,
    extra: str = "",
) -> str:
    """A site file: one gas value, one output with its contact and one interlock per device."""
    parts = ['[site]\nid = "test-site"\n\n[view]\nlisten = "127.0.0.1:0"\n']
    if url:
        parts.append(f'[[uplink]]\nid = "platform"\nkind = "http"\nurl = "{url}"\n')
    for i, address in enumerate(addresses):
        parts.append(
            DEVICE.format(
                i=i, address=address, fast="true", poll=poll, latch=str(latch).lower(),
                gas=GAS, coil=COIL, contact=CONTACT, limit=LIMIT,
            )
        )  # fmt: skip
    return "\n".join([*parts, extra])


@dataclass(frozen=True)
class Answer:
    """What a command of the command line gave."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its standard output, read as JSON."""
        return json.loads(self.out)


async def until(
    what: str, ready: Callable[[], bool | Awaitable[bool]], wait_s: float = WAIT_S
) -> None:
    """Wait for something that only looking can tell. Raises TimeoutError, naming it."""
    deadline = time.monotonic() + wait_s
    while True:
        result = ready()
        if result if isinstance(result, bool) else await result:
            return
        if time.monotonic() > deadline:
            message = f"not within {wait_s} s: {what}"
            raise TimeoutError(message)
        await asyncio.sleep(STEP_S)


class Site:
    """``sitewarden run`` of a site file, with directories of its own; an async context manager.

    Leaving it ends the gateway and any guard, and removes the runtime directory. ``spawner`` makes
    its gateways where starting them must be quick.
    """

    def __init__(self, directory: Path, text: str, spawner: Spawner | None = None) -> None:
        self.directory = directory
        self._spawner = spawner
        self.file = directory / "site.toml"
        self.file.write_text(text)
        self.state = directory / "state"
        ours = f"sitewarden-test-{os.getpid()}-"  # by this name the leak check knows its own
        self.runtime = Path(tempfile.mkdtemp(prefix=ours, dir="/dev/shm"))
        self.log = directory / "gateway.log"
        self.process: asyncio.subprocess.Process | Life | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.stop()
        finally:
            shutil.rmtree(self.runtime, ignore_errors=True)

    # ---- life ----

    async def start(
        self,
        *options: str,
        hogs: Sequence[str] | None = None,
        through: Sequence[str] | None = None,
    ) -> None:
        """Start the gateway; ``hogs``: through the launcher, with these options.

        ``through``: a module that starts it, and that module's own options.
        """
        if self._spawner is not None:
            words = ["run", str(self.file), *options, *self.directories]
            self.process = await self._spawner.start(self.log, words)
            return
        program = ["-m", "gateway"]
        if hogs is not None:
            through = ["tests.helpers.launcher", *hogs]
        if through is not None:
            program = ["-m", *through, "--"]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, *program, "run", str(self.file), *options, *self.directories,
                cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    async def ready(self, wait_s: float = WAIT_S) -> None:
        """Until the gateway says that it is ready."""
        process = self._running()

        def ready() -> bool:
            if process.returncode is not None:
                message = f"the gateway ended with {process.returncode}:\n{self.log_text()}"
                raise RuntimeError(message)
            return self.endpoints().get("pid") == process.pid

        await until("endpoints.json", ready, wait_s)

    async def protecting(self, outputs: int = 1, wait_s: float = WAIT_S) -> None:
        """Until every output is released: devices connected, program loaded, nothing tripped."""
        await until(
            "outputs released",
            lambda: self.outputs(outputs) == [OutputState.RELEASED] * outputs,
            wait_s,
        )

    async def stop(self, wait_s: float = WAIT_S) -> int | None:
        """End the gateway by SIGTERM, then a guard that is left; the gateway's exit code."""
        code = None
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
            try:
                code = await asyncio.wait_for(self.process.wait(), wait_s)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        if (guard := self.guard_pid()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(guard, signal.SIGCONT)
                os.kill(guard, signal.SIGTERM)
            await until("the guard's end", lambda: self.guard_pid() is None)
        return code

    async def kill_gateway(self) -> int:
        """SIGKILL; the moment in CLOCK_MONOTONIC ns."""
        process = self._running()
        now = time.monotonic_ns()
        process.kill()
        await process.wait()
        return now

    def kill_guard(self) -> int:
        """SIGKILL; the moment in CLOCK_MONOTONIC ns."""
        pid = self.guard_pid()
        assert pid is not None
        now = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        return now

    # ---- eyes ----

    @property
    def directories(self) -> list[str]:
        """The options that name this site to every command."""
        return ["--runtime-dir", str(self.runtime), "--state-dir", str(self.state)]

    def endpoints(self) -> dict[str, Any]:
        """endpoints.json, {} while there is none."""
        try:
            found: dict[str, Any] = json.loads((self.runtime / "endpoints.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def log_text(self) -> str:
        """What the gateway and its guard have said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def view(self) -> GuardView | None:
        """guard.shm, to be closed by the caller; None while there is none."""
        try:
            return GuardView(str(self.runtime / "guard.shm"))
        except JournalError:
            return None

    def guard_pid(self) -> int | None:
        """The living guard's pid."""
        return self._look(lambda view: view.header().pid if view.guard_alive() else None)

    def outputs(self, count: int) -> list[int]:
        """OutputState of the first outputs of the running program; [] without a guard."""
        return self._look(lambda view: [view.output(i).state for i in range(count)]) or []

    def interlock(self, index: int = 0) -> int | None:
        """InterlockState of an interlock of the running program."""
        return self._look(lambda view: view.interlock(index).state)

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert in the ledger, in order, each with its ``seq`` of the table."""
        ledger = self.state / "ledger.db"
        if not ledger.exists():
            return []
        rows = self.ledger("SELECT seq, body FROM alert ORDER BY seq")
        return [json.loads(body) | {"seq": seq} for seq, body in rows]

    def ledger(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the ledger, read beside the gateway."""
        file = f"file:{self.state / 'ledger.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(file, uri=True)) as database:
            return database.execute(query).fetchall()

    def trips_recorded(self) -> int:
        """How many trips the ledger has."""
        return sum(a["kind"] == "trip" and a["state"] == "raised" for a in self.alerts())

    # ---- hands ----

    async def cli(self, *arguments: str, wait_s: float = WAIT_S) -> Answer:
        """Run a command against this site."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *arguments, *self.directories,
            cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), wait_s)
        assert process.returncode is not None
        return Answer(process.returncode, out.decode(), err.decode())

    async def get(self, path: str) -> Any:
        """What gateway.sock serves there."""
        connector = aiohttp.UnixConnector(str(self.runtime / "gateway.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://site{path}") as answer,
        ):
            return await answer.json()

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """A command over gateway.sock, which is faster than a process per command."""
        connector = aiohttp.UnixConnector(str(self.runtime / "gateway.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://site{path}", json=body) as answer,
        ):
            return answer.status, await answer.json()

    async def reset(self, interlock: str = "cut0", index: int = 0) -> None:
        """Reset when it is ready for it; returns when it is NORMAL."""
        await until(
            f"{interlock} ready to reset",
            lambda: self.interlock(index) == InterlockState.READY_TO_RESET,
        )
        status, answer = await self.post("/reset", {"id": interlock, "reason": "test"})
        assert status == 200, answer
        await until(f"{interlock} normal", lambda: self.interlock(index) == InterlockState.NORMAL)

    # ---- private ----

    def _running(self) -> asyncio.subprocess.Process | Life:
        assert self.process is not None
        return self.process

    def _look(self, what: Callable[[GuardView], T]) -> T | None:
        view = self.view()
        if view is None:
            return None
        try:
            return what(view)
        finally:
            view.close()


def evidence_gaps(
    edges: Sequence[Edge],
    alerts: Sequence[dict[str, Any]],
    received: dict[str, dict[str, Any]],
) -> list[str]:
    """What does not agree between the device, the ledger and the platform; [] when all does.

    Every edge to the trip value is exactly one trip alert, sequences have no gap, ids no double,
    and every alert of the ledger is at the platform.
    """
    wrong = []
    trips = sum(edge.value == 0 for edge in edges)
    raised = [alert for alert in alerts if alert["kind"] == "trip" and alert["state"] == "raised"]
    if trips != len(raised):
        wrong.append(f"the device saw {trips} trips, the ledger has {len(raised)}")
    sequence = [alert["seq"] for alert in alerts]
    if sequence != list(range(1, len(alerts) + 1)):
        wrong.append(f"the ledger's sequence has gaps: {sequence}")
    ids = [alert["id"] for alert in alerts]
    if len(set(ids)) != len(ids):
        wrong.append("the ledger has an id twice")
    if missing := set(ids) - received.keys():
        wrong.append(f"{len(missing)} alerts of the ledger are not at the platform")
    if unknown := received.keys() - set(ids):
        wrong.append(f"{len(unknown)} alerts at the platform are not in the ledger")
    return wrong
