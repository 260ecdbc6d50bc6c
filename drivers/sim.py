"""Simulated devices: ``python -m drivers.sim mine-face --port 0``, ``python -m drivers.sim plant``.

Modbus TCP on loopback. The mine face is a model of its own; a plant is whatever its description
says (``sitewarden simulate --describe SITE.toml`` makes one of a site file). Both print one line of
JSON with their ports when they listen, take commands as lines on stdin, and end when stdin closes
or on SIGTERM.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from drivers.errors import DriverError, LinkError

HOST: Final = "127.0.0.1"
TICK_S: Final = 0.01
LINE_MAX: Final = 65_536

Obey = Callable[[bytes], str]  # one line: what to print, "" for nothing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run simulated devices until told to end; 1 where they cannot listen, 2 for a bad plant."""
    parser = argparse.ArgumentParser(prog="python -m drivers.sim", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kinds = parser.add_subparsers(metavar="DEVICE", required=True)
    _add_mine_face(kinds.add_parser("mine-face", help="methane, air, fan, breaker and siren"))
    _add_plant(kinds.add_parser("plant", help="the devices of a site, from a description"))
    options = parser.parse_args(arguments)
    try:
        code: int = asyncio.run(options.run(options))
    except LinkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return code


def _add_mine_face(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--stuck-breaker", action="store_true", help="the breaker never opens")
    parser.add_argument("--seed", type=int, default=1, help="of the noise")
    parser.add_argument(
        "--seconds-per-cycle", type=float, default=0.0, help="an inflow by itself this often"
    )
    parser.set_defaults(run=_run_mine_face)


def _add_plant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("description", type=Path, help="a file of JSON")
    parser.set_defaults(run=_run_plant)


async def _run_mine_face(options: argparse.Namespace) -> int:
    from pymodbus.server import ModbusTcpServer

    from drivers.mine_face import SECOND_NS, MineFace
    from drivers.mine_face_plc import MineFacePlc

    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    face = MineFace(time.monotonic_ns(), stuck_breaker=options.stuck_breaker, seed=options.seed)
    plc = MineFacePlc(face)
    server = ModbusTcpServer(plc.device(), address=(HOST, options.port))
    try:
        await server.serve_forever(background=True)
    except RuntimeError:
        text = f"{HOST}:{options.port}: cannot listen, is the port in use?"
        raise LinkError(text) from None

    async def live() -> None:
        """Step the face; with a cycle, let gas in once per cycle."""
        cycle_ns = int(options.seconds_per_cycle * SECOND_NS)
        inflow_ns = time.monotonic_ns() + cycle_ns // 2
        while True:
            now_ns = time.monotonic_ns()
            face.step(now_ns)
            if cycle_ns and now_ns >= inflow_ns:
                face.inflow = True
                inflow_ns += cycle_ns
            await asyncio.sleep(TICK_S)

    listener: Any = server.transport
    living = asyncio.create_task(live())
    await _serve({"port": listener.sockets[0].getsockname()[1]}, plc.obey_line)
    living.cancel()
    server.close()
    return 0


async def _run_plant(options: argparse.Namespace) -> int:
    from drivers.plant import PlantText
    from drivers.plant_server import PlantServers

    try:
        text = msgspec.json.decode(_bytes_of(options.description), type=PlantText)
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{options.description}: no description of a plant: {error}\n")
        return 2
    try:
        servers = PlantServers(text)
    except DriverError as error:
        sys.stderr.write(f"{options.description}: {error}\n")
        return 2
    try:
        ports = await servers.start()
        await _serve({"ports": dict(ports)}, lambda line: json.dumps(servers.obey(line)))
    finally:
        await servers.close()
    return 0


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes()


async def _serve(ready: dict[str, Any], obey: Obey) -> None:
    """Say that we listen, obey lines, return when told to end."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    _say(json.dumps(ready))
    _listen_to_stdin(loop, obey, ending)
    await ending.wait()


def _listen_to_stdin(loop: asyncio.AbstractEventLoop, obey: Obey, ending: asyncio.Event) -> None:
    """Obey lines from a thread of its own, which any kind of stdin allows."""

    def obey_and_say(line: bytes) -> None:
        if line.strip() and (answer := obey(line)):
            _say(answer)

    def listen() -> None:
        rest = b""
        while data := os.read(0, LINE_MAX):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-LINE_MAX:]
            for line in lines:
                loop.call_soon_threadsafe(obey_and_say, line)
        loop.call_soon_threadsafe(ending.set)

    threading.Thread(target=listen, daemon=True).start()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
