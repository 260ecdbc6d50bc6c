"""Measure side by side: ``python -m tests.benchmarks.bench``, about 5 minutes.

One interleaved run: in every round each client has its turn, idle and with the lock held, so that
whatever else the machine does meets all of them. Figures are for comparison within one run; there
is no absolute limit here that a slower machine would miss.
"""

import argparse
import asyncio
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import reaction, storage
from tests.benchmarks.reaction import BARE, CLIENTS, LOADS, PLAIN, SITEWARDEN, Cell

Cells = dict[tuple[str, str], Cell]

ROUNDS, TRIPS = 5, 200
STORE_SAMPLES, STORE_ROUNDS, LIVE_S = 600_000, 3, 10.0
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
TRIPS_MIN = {"p50": 20, "p99": 200, "p99.9": 1_000}  # below: one or two trips decide it
LIMIT_S, LIMIT_S_PER_TRIP = 4.0, 0.06  # of one cell's round; a trip at 10 ms takes about 0.025 s


def quantile(values: Sequence[float], part: float) -> float:
    """Nearest rank; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1))]


async def run(options: argparse.Namespace) -> str:
    """Measure everything; the report."""
    load_before, begin = os.getloadavg(), time.monotonic()
    cells: Cells = {(load, client): Cell() for load in LOADS for client in CLIENTS}
    limit_s = LIMIT_S + LIMIT_S_PER_TRIP * options.trips
    for number in range(options.rounds):
        fifo = reaction.CLIENT_PRIORITY
        for load in LOADS:
            for client in CLIENTS:
                _say(f"round {number + 1}/{options.rounds}: {load}, {client}")
                cell = cells[load, client]
                await reaction.measure(cell, client, load, options.trips, limit_s, fifo)
                if client == SITEWARDEN and "other" in cell.scheduling:
                    fifo = 0  # the bare loop gets no better class than Sitewarden had
    _say("samples from the image to the history")
    stored = await storage.measure(options.directory, options.samples, STORE_ROUNDS)
    live = await storage.live(options.directory, options.live)
    _say("")
    took_s = time.monotonic() - begin
    lines = [*_head(options, load_before, took_s), *_reactions(cells, options), ""]
    lines += [*_ratios(cells), "", *_notes(cells, options), "", *_storage(stored, live)]
    return "\n".join(lines)


def _say(text: str) -> None:
    """Where it is, on a terminal alone."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


# ---- the report ----------------------------------------------------------------------------------


def _head(options: argparse.Namespace, load: tuple[float, float, float], took: float) -> list[str]:
    cores = os.cpu_count()
    return [
        f"machine: {_cpu_model()}, {cores} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}",
        f"load average before: {load[0]:.2f} {load[1]:.2f} {load[2]:.2f} (what else runs here is "
        "part of every figure)",
        f"run: {options.rounds} rounds, interleaved, {options.trips} trips per round and cell, "
        f"{took:.0f} s",
        f"poll period {reaction.PERIOD_US // 1000} ms, one block of {reaction.REGISTERS} "
        "registers, device: libmodbus on loopback",
        "",
    ]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _reactions(cells: Cells, options: argparse.Namespace) -> list[str]:
    lines = [
        "Trip reaction in µs: the reply with the trip value leaves the device -> coil write "
        "received",
        f"{'load':<10} {'client':<17} {'class':<9} {'trips':>6} "
        + " ".join(f"{name:>8}" for name in QUANTILES),
    ]
    for (load, client), cell in cells.items():
        values = cell.reactions
        columns = " ".join(f"{quantile(values, part) / 1000:>8.0f}" for part in QUANTILES.values())
        scheduling = "/".join(sorted(cell.scheduling))
        mark = " *" if len(values) < options.rounds * options.trips else ""
        lines.append(f"{load:<10} {client:<17} {scheduling:<9} {len(values):>6} {columns}{mark}")
    return lines


def _ratios(cells: Cells) -> list[str]:
    names = ("p50", "p99", "p99.9")
    lines = [
        "Ratios (all trips; in brackets the median of the rounds)",
        f"{'load':<10} {'':<28} " + " ".join(f"{name:>16}" for name in names),
    ]
    for load in LOADS:
        for over, under in ((SITEWARDEN, BARE), (PLAIN, SITEWARDEN)):
            pair = cells[load, over], cells[load, under]
            columns = " ".join(f"{_ratio(*pair, QUANTILES[name]):>16}" for name in names)
            lines.append(f"{load:<10} {over + ' / ' + under:<28} {columns}")
    return lines


def _ratio(over: Cell, under: Cell, part: float) -> str:
    whole = quantile(over.reactions, part) / quantile(under.reactions, part)
    rounds = [
        quantile(a, part) / quantile(b, part)
        for a, b in zip(over.rounds, under.rounds, strict=True)
        if a and b
    ]
    return f"{whole:.2f} ({statistics.median(rounds) if rounds else float('nan'):.2f})"


def _notes(cells: Cells, options: argparse.Namespace) -> list[str]:
    asked = options.rounds * options.trips
    lines = []
    for (load, client), cell in cells.items():
        found = len(cell.reactions)
        if found < asked:
            lines.append(f"* warning: {load}, {client}: {found} of {asked} trips in its time")
        if load == reaction.HELD and cell.hold_ns_max < reaction.HOLD_NS_MIN:
            lines.append(f"* warning: {client}: the lock was held {cell.hold_ns_max / 1e6:.0f} ms")
        if client == SITEWARDEN and cell.scheduling != {f"fifo {reaction.CLIENT_PRIORITY}"}:
            lines.append(f"* warning: {load}, {client}: not real time, nor is bare C then")
    for name, least in TRIPS_MIN.items():
        few = [
            f"{load}, {client}" for (load, client), c in cells.items() if len(c.reactions) < least
        ]
        if few:
            which = "every cell" if len(few) == len(cells) else "; ".join(few)
            lines.append(f"{name} is noise below {least:,} trips: {which}")
    lines.append("a maximum is one trip: it says what happened once, not what to expect")
    lines.append(
        f"lock held: a thread takes the interpreter's lock whenever it is free and keeps it "
        f"{reaction.HOLD_MS:.0f} ms: in the gateway, in the plain loop's own process, beside bare "
        "C; longest measured: "
        f"{max(cell.hold_ns_max for cell in cells.values()) / 1e6:.0f} ms"
    )
    lines.append(
        "counted from the reply on: that the plain loop also polls late while the lock is held is "
        "not in its figures"
    )
    lines.append("Sitewarden journals, records and alerts each trip besides; the others only write")
    return lines


def _storage(stored: storage.Storage, live: storage.Live) -> list[str]:
    lines = [f"Image -> history ({storage.TAGS} tags, synchronous=FULL, {stored.filesystem})"]
    for batch in storage.BATCHES:
        size = batch * storage.TAGS
        per_s, slow_ms = storage.median_speed(stored, size)
        lines.append(
            f"  {size:>6} samples per commit: {per_s / 1000:,.0f}k samples/s "
            f"(commit p99 {slow_ms:.1f} ms; median of {STORE_ROUNDS})"
        )
    lines.append("Bytes per sample on disk, codec 0 (no packing of values), 100 tags per scan")
    for name, cost in (("tail", stored.tail), ("packed chunks", stored.packed)):
        lines.append(f"  {name:<14} {cost.body:.2f} in rows, {cost.file:.2f} with all of the file")
    lines.append(
        f"Whole site, device -> guard -> guard.shm -> recorder -> history, {storage.LIVE_TAGS} tags"
    )
    lines.append(
        f"  offered {live.offered_per_s / 1000:.1f}k samples/s, stored "
        f"{live.stored_per_s / 1000:.1f}k; CPU of a core: gateway {live.gateway_cpu:.1%}, guard "
        f"{live.guard_cpu:.1%}; dropped: {live.lost}"
    )
    return lines


def main() -> None:
    """Run it and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--trips", type=int, default=TRIPS, help="per round and cell")
    parser.add_argument("--samples", type=int, default=STORE_SAMPLES, help="to be stored")
    parser.add_argument("--live", type=float, default=LIVE_S, help="seconds of the whole site")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="on the state directory's disk"
    )
    print(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
