"""Measure side by side: ``python -m tests.benchmarks.bench [--full]``.

One interleaved run: in every round each client has its turn under each load, so that whatever
else the machine does meets all of them. Figures are for comparison within one run; there is no
absolute limit here that a slower machine would miss.
"""

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import (
    density,
    evaluation,
    loads,
    memory,
    node_red,
    polling,
    reaction,
    report,
    scanning,
    storage,
)
from tests.benchmarks.density import Density
from tests.benchmarks.evaluation import Evaluation
from tests.benchmarks.loads import IDLE, LOADS
from tests.benchmarks.memory import Memory
from tests.benchmarks.polling import Polling
from tests.benchmarks.reaction import BARE, PLAIN, SITEWARDEN, Cell, Measurement, clients_of
from tests.benchmarks.scanning import Scanning
from tests.helpers import outage
from tests.helpers.outage import Figures as Outage

LIMIT_S, LIMIT_S_PER_TRIP = 4.0, 0.06  # of one cell's round; a trip at 10 ms takes about 0.025 s
STORE_SAMPLES, STORE_ROUNDS, LIVE_S = 600_000, 3, 10.0


@dataclass
class Results:
    """Everything that a run found."""

    cells: dict[tuple[int, str, str], Cell] = field(default_factory=dict)  # period us, load, client
    polling: Polling = field(default_factory=Polling)
    scanning: Scanning = field(default_factory=Scanning)
    evaluation: Evaluation = field(default_factory=Evaluation)
    memory: Memory | None = None
    stored: storage.Storage | None = None
    live: storage.Live | None = None
    density: Density | None = None
    outage: Outage | None = None
    node_red: str = ""  # why it is not there


def plan(full: bool) -> list[tuple[int, str, str]]:
    """The cells of a run: the short one has the shortest period idle alone."""
    cells = []
    for period_us in reaction.PERIODS_US:
        for load in LOADS:
            if period_us == reaction.PERIODS_US[0] or full:
                cells += [(period_us, load, client) for client in clients_of(load)]
            elif load == IDLE:
                cells += [(period_us, load, client) for client in (SITEWARDEN, BARE)]
    return cells


async def run(options: argparse.Namespace) -> str:
    """Measure everything; the report."""
    load_before, begin = os.getloadavg(), time.monotonic()
    loads.BACKLOG_SECONDS = options.backlog
    results = Results(cells={key: Cell() for key in plan(options.full)})
    for number in range(options.rounds):
        await _reactions(results, options, f"round {number + 1}/{options.rounds}")
        _say(f"round {number + 1}/{options.rounds}: polling")
        await polling.throughput(results.polling, SITEWARDEN, BARE, PLAIN, options.live)
        with tempfile.TemporaryDirectory(prefix="sitewarden-bench") as name:
            await polling.neighbours(results.polling, Path(name), options.live)
        _say(f"round {number + 1}/{options.rounds}: the gateway's polling")
        await scanning.cost(results.scanning, options.live)
        await scanning.neighbours(results.scanning, options.live)
    _say("evaluation")
    await asyncio.to_thread(evaluation.measure, results.evaluation, options.rounds)
    _say("memory")
    results.memory = await memory.measure(options.live)
    _say("samples from the image to the history")
    results.stored = await storage.measure(options.directory, options.samples, STORE_ROUNDS)
    results.live = await storage.live(options.directory, options.live)
    _say("the history beside a plain table")
    results.density = await density.measure(
        options.directory, min(options.rounds, STORE_ROUNDS), 2 * options.samples,
        peer=not options.own,
    )  # fmt: skip
    _say("an outage and the drain after it")
    with tempfile.TemporaryDirectory(prefix="sitewarden-bench", dir=options.directory) as name:
        live_min = min(outage.LIVE_MIN, options.outage)
        results.outage = await outage.measure(Path(name), options.outage, live_min)
    _say("")
    lines = [*_head(options, load_before, time.monotonic() - begin), *report.lines(results)]
    return "\n".join(lines)


async def _reactions(results: Results, options: argparse.Namespace, said: str) -> None:
    limit_s = LIMIT_S + LIMIT_S_PER_TRIP * options.trips
    fifo = reaction.CLIENT_PRIORITY
    for (period_us, load, client), cell in results.cells.items():
        _say(f"{said}: {load}, {client}, every {period_us // 1000} ms")
        await Measurement(client, load, period_us, options.trips, limit_s, fifo).run(cell)
        if client == SITEWARDEN and "other" in cell.scheduling:
            fifo = 0  # the bare loop gets no better class than Sitewarden had
    if options.full:
        _say(f"{said}: Node-RED")
        cell = results.cells.setdefault((reaction.PERIODS_US[0], IDLE, node_red.NAME), Cell())
        results.node_red = await node_red.measure(cell, options.trips, limit_s)


def _say(text: str) -> None:
    """Where it is, on a terminal alone."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _head(options: argparse.Namespace, load: tuple[float, float, float], took: float) -> list[str]:
    cores = os.cpu_count()
    return [
        f"machine: {_cpu_model()}, {cores} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}",
        f"load average before: {load[0]:.2f} {load[1]:.2f} {load[2]:.2f} (what else runs here is "
        "part of every figure)",
        f"run: {options.rounds} rounds, interleaved, {options.trips} trips per round and cell, "
        f"{took:.0f} s",
        f"one block of {reaction.REGISTERS} registers, device: libmodbus on loopback",
        "",
    ]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    """Run it and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench")
    parser.add_argument("--full", action="store_true", help="every load at every period, Node-RED")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--trips", type=int, help="per round and cell")
    parser.add_argument("--samples", type=int, default=STORE_SAMPLES, help="to be stored")
    parser.add_argument("--own", action="store_true", help="without peers that are installed")
    parser.add_argument("--backlog", type=int, default=10_000, help="seconds of 1,000 tags")
    parser.add_argument("--outage", type=int, default=3_600, help="seconds of the outage's worth")
    parser.add_argument(
        "--live",
        type=float,
        default=LIVE_S,
        help="seconds of the whole site, and the most of any other watching",
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="on the state directory's disk"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (5 if options.full else 3)
    options.trips = options.trips or (1_000 if options.full else 200)
    print(asyncio.run(run(options)))


if __name__ == "__main__":
    main()
