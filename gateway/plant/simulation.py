"""A simulated run: the plant's process, the directories of its own, and who drives a tag.

The plant ends with the process that started it: its stdin closes.
"""

import asyncio
import contextlib
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import structs

from drivers.plant import PlantText
from fastpath.journal import GuardView, JournalError
from gateway.check import Checked
from gateway.errors import GatewayError, StoreError
from gateway.guard.process import is_guard
from gateway.orders.outcome import Exit, Outcome
from gateway.paths import SIMULATED, Paths
from gateway.plant.simulated_site import at_ports, encoded, joined, simulated_site

if TYPE_CHECKING:
    from gateway.life.problems import Problems
    from gateway.parts import Gateway

_LOGGER = logging.getLogger(__name__)

START_S: Final = 20.0
ANSWER_S: Final = 2.0
END_S: Final = 2.0
AGAIN_S: Final = 1.0
GUARD_END_S: Final = 3.0
LINE_BYTES_MAX: Final = 1 << 20
DESCRIPTION: Final = "plant.json"
NEXT_DESCRIPTION: Final = "plant-next.json"
_ENDED: Final = "it has ended"
_SILENT: Final = "no answer in time"


class Simulation:
    """The simulated plant of one run. ``begin`` once, ``close`` at the end."""

    def __init__(self, paths: Paths, *, uplinks: bool = False) -> None:
        self._paths = paths
        self._uplinks = uplinks
        self._plant = PlantText()
        self._before = self._next = self._plant  # between prepare and settle
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._asking = threading.Lock()  # one question, one answer
        self._asked = 0  # questions so far: an answer that comes late is none to the next

    def begin(self, checked: Checked) -> Checked:
        """Empty the directories, start the plant; the site over it. Raises GatewayError."""
        self._empty_directories()
        site = simulated_site(checked.config, uplinks=self._uplinks)
        ports = self._start(site.plant)
        self._plant = _at_ports(site.plant, ports)  # it comes back where it was
        _LOGGER.info("%d simulated devices; no device of the site file is opened", len(ports))
        directories = f"--runtime-dir {self._paths.runtime} --state-dir {self._paths.state}"
        _LOGGER.info("in a second terminal: sitewarden status %s", directories)
        return at_ports(site, ports, checked)

    def prepare(self, checked: Checked) -> Checked:
        """Let the plant be that of another site file too; that site over it. Blocks.

        Its own devices go on, and ``settle`` ends what is only of one of them. Raises GatewayError.
        """
        site = simulated_site(checked.config, uplinks=self._uplinks)
        both = joined(self._plant, site.plant)
        ports = self._become(both)
        self._next = _at_ports(site.plant, ports)
        self._before, self._plant = self._plant, _at_ports(both, ports)
        return at_ports(site, ports, checked)

    def settle(self, *, taken: bool) -> None:
        """The guard runs the new site (or the old one): the plant is that one's alone."""
        self._plant = self._next if taken else self._before
        with contextlib.suppress(GatewayError):  # a plant that has ended is started again as this
            self._become(self._plant)

    async def watch(self, problems: "Problems") -> None:
        """Start the plant again where it dies, with nothing driven; ends by cancellation alone."""
        while True:
            await self._ended()
            text = "the simulated plant has ended: every device is gone"
            problems.raised("simulation", "plant", text, priority="critical")
            try:
                await asyncio.to_thread(self._start_again)
            except GatewayError as error:
                _LOGGER.warning("%s", error)
                await asyncio.sleep(AGAIN_S)
            else:
                problems.cleared("simulation", "plant", "it was started again; nothing is driven")

    def close(self) -> None:
        """End the plant."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def tell(self, command: Mapping[str, Any]) -> Outcome:
        """One command to the plant, and what it said; blocks for ANSWER_S at most.

        ``command`` is that of ``drivers.plant_server``.
        """
        try:
            answer = self._ask(command)
        except OSError as error:
            text = f"the simulated plant does not answer: {error}"
            return Outcome(exit_code=Exit.NOT_REACHED, code=0, text=text)
        if "error" in answer:
            return Outcome(exit_code=Exit.USAGE, code=0, text=str(answer["error"]))
        text = str(answer.get("text", "")) or ", ".join(answer.get("driven", ())) or "none"
        return Outcome(exit_code=Exit.DONE, code=0, text=text, confirmed=True)

    # ---- the plant ---------------------------------------------------------------------------

    async def _ended(self) -> None:
        """Until the plant's process has."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        handle, loop, ended = (
            os.pidfd_open(process.pid),
            asyncio.get_running_loop(),
            asyncio.Event(),
        )
        loop.add_reader(handle, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    def _start_again(self) -> None:
        with self._asking:
            self.close()
            self._rest = b""
            self._start(self._plant)

    def _start(self, plant: PlantText) -> dict[str, int]:
        """The ports by device. Raises GatewayError."""
        description = self._paths.runtime / DESCRIPTION
        command = [sys.executable, "-m", "drivers.sim", "plant", os.fspath(description)]
        try:
            description.write_bytes(encoded(plant))
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            line = self._line(time.monotonic() + START_S)
            ports: dict[str, int] = msgspec.json.decode(line)["ports"]
        except (OSError, KeyError, TypeError, msgspec.MsgspecError) as error:
            self.close()
            msg = f"the simulated plant did not start: {error}"
            raise GatewayError(msg) from error
        return ports

    def _become(self, plant: PlantText) -> dict[str, int]:
        """The running plant as another one; the ports by device. Raises GatewayError."""
        description = self._paths.runtime / NEXT_DESCRIPTION
        try:
            description.write_bytes(encoded(plant))
            answer = self._ask({"do": "become", "description": os.fspath(description)})
        except OSError as error:
            msg = f"the simulated plant does not answer: {error}"
            raise GatewayError(msg) from error
        if "error" in answer:
            raise GatewayError(str(answer["error"]))
        ports: dict[str, int] | None = answer.get("ports")
        if ports is None:
            msg = "the simulated plant does not say where it listens"
            raise GatewayError(msg)
        return ports

    def _ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Raises OSError where the plant has gone or says nothing in time."""
        with self._asking:
            if self._process is None or self._process.stdin is None:
                raise ConnectionError(_ENDED)
            self._asked += 1
            self._process.stdin.write(msgspec.json.encode({**command, "number": self._asked}))
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            until_s = time.monotonic() + ANSWER_S
            while True:
                answer: dict[str, Any] = msgspec.json.decode(self._line(until_s))
                if answer.get("number") == self._asked:
                    return answer

    def _line(self, until_s: float) -> bytes:
        """The plant's next line, by that time (monotonic). Raises OSError."""
        if self._process is None or self._process.stdout is None:
            raise ConnectionError(_ENDED)
        stream = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([stream], [], [], max(0.0, until_s - time.monotonic()))
            if not ready:
                raise TimeoutError(_SILENT)
            data = os.read(stream, 65_536)
            if not data or len(self._rest) > LINE_BYTES_MAX:
                raise ConnectionError(_ENDED)
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    # ---- directories -------------------------------------------------------------------------

    def _empty_directories(self) -> None:
        """Each run begins anew, in directories that no real site has. Raises GatewayError."""
        paths = self._paths
        for directory in (paths.runtime, paths.state):
            strange = any(not entry.is_dir() for entry in directory.rglob("*"))
            if strange and not (directory / SIMULATED).exists():
                msg = (
                    f"{directory} is not empty and not of a simulated run; name others with "
                    f"--runtime-dir and --state-dir"
                )
                raise GatewayError(msg)
        _end_guard(paths)
        for directory in (paths.runtime, paths.state):
            for entry in directory.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        for directory in (paths.programs, paths.last_good.parent):
            directory.mkdir(mode=0o750)
        for directory in (paths.runtime, paths.state):
            (directory / SIMULATED).write_text("of simulated runs; each of them empties it\n")


async def simulate(
    gateway: "Gateway",
    tag: str,
    value: float | None,
    over_s: float,
    who: str,
    *,
    bad: bool,
    end: bool,
) -> Outcome:
    """An operator drives a tag: to a value, bad, or no more. "" asks which tags are driven.

    Refused on a real site. It is written into the audit after.
    """
    if gateway.simulation is None:
        text = "this site is real: its values come from its devices, nothing was changed"
        return Outcome(exit_code=Exit.REFUSED, code=0, text=text)
    command: dict[str, Any] = {"do": "driven"}
    if tag and (bad or end):
        command = {"do": "bad" if bad else "end", "tag": tag}
    elif tag and value is not None:
        command = {"do": "drive", "tag": tag, "value": value, "over_s": over_s}
    elif tag:
        return Outcome(exit_code=Exit.USAGE, code=0, text="a value, --bad or --end is needed")
    outcome = await asyncio.to_thread(gateway.simulation.tell, command)
    if tag and outcome.exit_code == Exit.DONE:
        with contextlib.suppress(StoreError):
            seq = await gateway.ledger.command(who, "simulate", tag, command)
            await gateway.ledger.command_result(seq, 0, outcome.text)
    return outcome


def _at_ports(plant: PlantText, ports: Mapping[str, int]) -> PlantText:
    """The plant where it listens by now."""
    servers = tuple(structs.replace(server, port=ports[server.name]) for server in plant.servers)
    return structs.replace(plant, servers=servers)


def _end_guard(paths: Paths) -> None:
    """End the guard that a simulated run left behind when it was killed."""
    try:
        view = GuardView(os.fspath(paths.guard_shm))
    except JournalError:
        return
    try:
        alive, pid = view.guard_alive(), view.header().pid
    except JournalError:
        return
    finally:
        view.close()
    if not alive or not is_guard(pid):
        return
    handle = os.pidfd_open(pid)
    try:
        for number, wait_s in ((signal.SIGTERM, GUARD_END_S), (signal.SIGKILL, GUARD_END_S)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], wait_s)[0]:
                return
    finally:
        os.close(handle)
