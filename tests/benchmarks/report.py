"""What a run of the benchmarks found, as lines for people: tables, ratios, what to beware of."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.benchmarks import density, loads, node_red, polling, reaction, scanning, storage
from tests.benchmarks.loads import (
    BACKLOG_TAGS,
    HELD,
    HOGS_PER_CORE,
    HOLD_MS,
    IDLE,
    STORM,
)  # fmt: skip
from tests.benchmarks.reaction import BARE, PLAIN, SITEWARDEN, Cell

if TYPE_CHECKING:
    from tests.benchmarks.bench import Results

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
TRIPS_MIN = {"p50": 20, "p99": 200, "p99.9": 1_000}  # below: one or two trips decide it


def quantile(values: Sequence[float], part: float) -> float:
    """Nearest rank; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1))]


def lines(results: "Results") -> list[str]:
    """The whole report."""
    return [
        *_reactions(results), "", *_ratios(results), "", *_notes(results), "",
        *_polling(results), *_scanning(results), "", *_evaluation(results), *_memory(results), "",
        *_storage(results), *_density(results),
        *(results.outage.lines() if results.outage else []),
    ]  # fmt: skip


# ---- trips ---------------------------------------------------------------------------------------


def _every(period_us: int) -> str:
    return f"{period_us // 1000} ms"


def _reactions(results: "Results") -> list[str]:
    found = [
        "Trip reaction in µs: the reply with the trip value leaves the device -> coil write "
        "received. Total: from the demand",
        f"{'every':<6} {'load':<10} {'client':<17} {'class':<9} {'trips':>6} "
        + " ".join(f"{name:>8}" for name in QUANTILES)
        + f" {'total p99':>10}",
    ]
    asked = max((len(cell.reactions) for cell in results.cells.values()), default=0)
    for (period_us, load, client), cell in results.cells.items():
        values = cell.reactions
        if not values and client == node_red.NAME:
            continue
        columns = " ".join(f"{quantile(values, part) / 1000:>8.0f}" for part in QUANTILES.values())
        scheduling = "/".join(sorted(cell.scheduling))
        mark = " *" if len(values) < asked else ""
        total = f"{quantile(cell.totals, 0.99) / 1000:>10.0f}"
        found.append(
            f"{_every(period_us):<6} {load:<10} {client:<17} {scheduling:<9} {len(values):>6} "
            f"{columns} {total}{mark}"
        )
    return found


def _ratios(results: "Results") -> list[str]:
    names = ("p50", "p99", "p99.9")
    found = [
        "Ratios (all trips; in brackets the median of the rounds)",
        f"{'every':<6} {'load':<10} {'':<28} " + " ".join(f"{name:>16}" for name in names),
    ]
    for (period_us, load, client), cell in results.cells.items():
        pairs = []
        if client == SITEWARDEN:
            pairs.append((SITEWARDEN, BARE, cell, results.cells[period_us, load, BARE]))
            if load != IDLE:
                idle = results.cells.get((period_us, IDLE, SITEWARDEN))
                pairs += [(SITEWARDEN, "its own idle", cell, idle)] if idle else []
        elif client in (PLAIN, node_red.NAME) and cell.reactions:
            own = results.cells[period_us, load, SITEWARDEN]
            pairs.append((client, SITEWARDEN, cell, own))
        for over, under, a, b in pairs:
            columns = " ".join(f"{_ratio(a, b, QUANTILES[name]):>16}" for name in names)
            name = f"{over} / {under}"
            found.append(f"{_every(period_us):<6} {load:<10} {name:<28} {columns}")
    return found


def _ratio(over: Cell, under: Cell, part: float) -> str:
    whole = quantile(over.reactions, part) / quantile(under.reactions, part)
    rounds = [
        quantile(a, part) / quantile(b, part)
        for a, b in zip(over.rounds, under.rounds, strict=False)
        if a and b
    ]
    return f"{whole:.2f} ({statistics.median(rounds) if rounds else float('nan'):.2f})"


def _notes(results: "Results") -> list[str]:
    found = [*_warnings(results)]
    for name, least in TRIPS_MIN.items():
        few = {key for key, cell in results.cells.items() if len(cell.reactions) < least}
        if few:
            which = "every cell" if few == set(results.cells) else f"{len(few)} cells"
            found.append(f"{name} is noise below {least:,} trips: {which}")
    held = max((cell.hold_ns_max for cell in results.cells.values()), default=0)
    drained = sum(cell.drained for cell in results.cells.values())
    found += [
        "a maximum is one trip: it says what happened once, not what to expect",
        f"lock held: a thread takes the interpreter's lock whenever it is free and keeps it "
        f"{HOLD_MS:.0f} ms: in the gateway, in the plain loop's own process, beside bare C; "
        f"longest measured: {held / 1e6:.0f} ms",
        f"storm: that, {HOGS_PER_CORE} busy processes a core and, in Sitewarden's own gateway, a "
        f"backlog of {loads.BACKLOG_SECONDS * BACKLOG_TAGS:,} samples on its way to mosquitto with "
        f"the disk full ({drained:,} messages were taken while trips were measured)",
        "counted from the reply on: that the plain loop also polls late while the lock is held is "
        "not in its figures",
        "Sitewarden journals, records and alerts each trip besides; the others only write",
    ]
    if results.node_red:
        found.append(f"Node-RED was not measured: {results.node_red}")
    return found


def _warnings(results: "Results") -> list[str]:
    found = []
    for (period_us, load, client), cell in results.cells.items():
        name = f"{_every(period_us)}, {load}, {client}"
        if load != IDLE and cell.hold_ns_max < reaction.HOLD_NS_MIN:
            found.append(f"* warning: {name}: the lock was held {cell.hold_ns_max / 1e6:.0f} ms")
        if client == SITEWARDEN and cell.scheduling != {f"fifo {reaction.CLIENT_PRIORITY}"}:
            found.append(f"* warning: {name}: not real time, nor is bare C then")
        if client == SITEWARDEN and load == STORM and not cell.disk_full:
            found.append(f"* warning: {name}: no right to mount a small disk, so none was full")
        if client == SITEWARDEN and load == STORM and not cell.drained:
            found.append(f"* warning: {name}: nothing of the backlog was taken")
        if load == HELD and not cell.reactions:
            found.append(f"* warning: {name}: no trip in its time")
    return found


# ---- the rest ------------------------------------------------------------------------------------


def _polling(results: "Results") -> list[str]:
    found = [
        f"Native polling, {polling.CONNECTIONS} connections, {polling.REGISTERS} registers a "
        f"read, {polling.FLOATS} values of it decoded and kept; one core (medians)"
    ]
    speeds = results.polling.speed
    own = speeds[SITEWARDEN]
    for client, speed in speeds.items():
        per_s, cpu = statistics.median(speed.per_s), statistics.median(speed.cpu_ns)
        ratio = statistics.median(
            a / b for a, b in zip(own.per_s, speed.per_s, strict=True)
        )  # fmt: skip
        cpu_ratio = statistics.median(
            a / b for a, b in zip(own.cpu_ns, speed.cpu_ns, strict=True)
        )  # fmt: skip
        found.append(
            f"  {client:<17} {per_s:>9,.0f} reads/s {cpu / 1000:>7.2f} µs CPU a read; "
            f"{SITEWARDEN} / it: reads {ratio:.2f}, CPU {cpu_ratio:.2f}"
        )
    healthy = [quantile(values, 0.99) / 1000 for values in results.polling.healthy]
    mixed = [quantile(values, 0.99) / 1000 for values in results.polling.with_dead]
    more = statistics.median(b - a for a, b in zip(healthy, mixed, strict=True))
    found.append(
        f"  lateness of {polling.HEALTHY} devices' polls, p99, median of {len(healthy)} rounds: "
        f"{statistics.median(healthy):.0f} µs beside healthy ones, "
        f"{statistics.median(mixed):.0f} µs beside {polling.DEAD} dead and {polling.SLOW} slow "
        f"ones ({more:+.0f} µs)"
    )
    return found


def _scanning(results: "Results") -> list[str]:
    found = results.scanning
    tags = scanning.DEVICES * scanning.TAGS_PER_DEVICE
    lines = [
        f"The gateway's polling: {tags:,} tags (float32) of {scanning.DEVICES} devices every "
        f"second, every sample recorded (medians)"
    ]
    for name, rounds in (("Sitewarden", found.site), ("pymodbus per tag", found.per_tag)):
        cpu = statistics.median(each.cpu for each in rounds)
        per_s = statistics.median(each.samples_per_s for each in rounds)
        lines.append(
            f"  {name:<17} {cpu:>6.1%} of a core, "
            f"{statistics.median(e.rss_bytes for e in rounds) / 1e6:.0f} MB resident, "
            f"{per_s:,.0f} samples/s in "
            f"{statistics.median(e.requests_per_s for e in rounds):,.0f} requests/s, "
            f"{1e6 * cpu / per_s:.1f} µs CPU a sample"
        )
    healthy = [quantile(values, 0.99) / 1e6 for values in found.healthy]
    bad = [quantile(values, 0.99) / 1e6 for values in found.with_bad]
    ratio = statistics.median(b / a for a, b in zip(healthy, bad, strict=True))
    lines.append(
        f"  lateness of {scanning.GOOD} good devices' polls, p99, median of {len(bad)} rounds: "
        f"{statistics.median(healthy):.2f} ms beside {scanning.BAD} more good ones, "
        f"{statistics.median(bad):.2f} ms beside a dead, a slow, a holed and a hostile one "
        f"(ratio {ratio:.2f}, {statistics.median(bad) - statistics.median(healthy):+.2f} ms)"
    )
    return lines


def _evaluation(results: "Results") -> list[str]:
    e = results.evaluation
    guard, c = statistics.median(e.guard_ns), statistics.median(e.c_ns)
    ratio = statistics.median(a / b for a, b in zip(e.guard_ns, e.c_ns, strict=True))
    return [
        f"Evaluation of {e.instructions:,} instructions (the most that are permitted): "
        f"{guard / 1000:.0f} µs, a C interpreter {c / 1000:.0f} µs, ratio {ratio:.2f}; one round "
        f"trip of a byte through a socket {statistics.median(e.socket_ns) / 1000:.0f} µs",
    ]


def _memory(results: "Results") -> list[str]:
    m = results.memory
    if m is None:
        return []
    return [
        f"Guard at {m.tags:,} tags: {m.private / 1e6:.1f} MB of its own (resident less shared), "
        f"shared file {m.shared_file / 1048576:.1f} MiB, major faults after start "
        f"{m.major_faults}",
    ]


def _storage(results: "Results") -> list[str]:
    stored, live = results.stored, results.live
    if stored is None or live is None:
        return []
    found = [f"Image -> history ({storage.TAGS} tags, synchronous=FULL, {stored.filesystem})"]
    for batch in storage.BATCHES:
        size = batch * storage.TAGS
        per_s, slow_ms = storage.median_speed(stored, size)
        found.append(
            f"  {size:>6} samples per commit: {per_s / 1000:,.0f}k samples/s "
            f"(commit p99 {slow_ms:.1f} ms)"
        )
    found.append("Bytes per sample on disk, float64 noise, 100 tags per scan")
    for name, cost in (("tail", stored.tail), ("packed chunks", stored.packed)):
        found.append(f"  {name:<14} {cost.body:.2f} in rows, {cost.file:.2f} with all of the file")
    found.append(
        f"Whole site, device -> guard -> guard.shm -> recorder -> history, {storage.LIVE_TAGS} tags"
    )
    found.append(
        f"  offered {live.offered_per_s / 1000:.1f}k samples/s, stored "
        f"{live.stored_per_s / 1000:.1f}k; CPU of a core: gateway {live.gateway_cpu:.1%}, guard "
        f"{live.guard_cpu:.1%}; dropped: {live.lost}"
    )
    return found


def _density(results: "Results") -> list[str]:
    found = results.density
    if found is None:
        return []
    jitter, shared, rows = (
        density.median(kept) for kept in (found.jitter, found.shared, found.rows)
    )
    lines = [
        f"History beside a plain table ({density.TAGS} tags at 1 Hz: half walk with 3 decimals, "
        "30 % stand still, 20 % switch)"
    ]
    for name, kept in (
        (f"history, each tag {density.JITTER_MS} ms off", jitter),
        ("history, one time per poll", shared),
        (f"row per sample, index, {density.BATCH} a commit", rows),
    ):
        lines.append(
            f"  {name:<40} {kept.bytes:6.2f} bytes/sample {kept.per_s / 1000:7,.0f}k samples/s"
        )
    lines.append(
        f"  the table is {rows.bytes / jitter.bytes:.0f} to {rows.bytes / shared.bytes:.0f} times "
        f"as large; the history takes {jitter.per_s / rows.per_s:.1f} to "
        f"{shared.per_s / rows.per_s:.1f} times as many samples a second (both synchronous=FULL)"
    )
    if isinstance(found.peer, str):
        return [*lines, f"  {density.PEER_NAME}: {found.peer}"]
    return [
        *lines,
        f"  {density.PEER + ', its defaults':<40} {found.peer.bytes:6.2f} bytes/sample "
        f"{found.peer.per_s / 1000:7,.0f}k samples/s (synchronous=NORMAL)",
    ]
