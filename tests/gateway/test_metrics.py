"""Every metric, its text as Prometheus reads it, and what promtool says of it."""

import asyncio
import math
import re
import sqlite3
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastpath.codes import EventType, InterlockState
from fastpath.records import PAYLOADS, Event
from gateway.life.clock import synchronised
from gateway.store.sqlite_file import sqlite_outdated
from gateway.view.live import Moment
from gateway.view.metric_names import METRICS, PREFIX, MetricSpec
from gateway.view.metrics import Metrics, exposition
from gateway.view.reactions import BOUNDS_NS, Reactions
from tests.helpers.gateway_parts import gateway_of
from tests.helpers.live_guard import GAS, LiveGuard
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.programs import find

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
async def guard(tmp_path: Path) -> AsyncIterator[LiveGuard]:
    async with ModbusServer() as server, LiveGuard.at(tmp_path, server) as running:
        yield running


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def samples_of(text: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Values by sample name and labels, read by a parser that is not ours."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name.removeprefix(PREFIX), {})[labels] = sample.value
    return found


def confirmed(took_ns: int, demand_ns: int = 1_000_000) -> Event:
    """A confirmation whose first write came ``took_ns`` after the deciding sample."""
    names, layout = PAYLOADS[EventType.OUT_CONFIRMED]
    values = dict.fromkeys(names.split(), 0)
    values |= {"demand_ns": demand_ns, "wire_ns": demand_ns + took_ns}
    payload = struct.pack(layout, *values.values())
    return Event(1, 0, 0, 1, EventType.OUT_CONFIRMED, 0, 0, 0, 0, payload)


async def test_values(guard: LiveGuard) -> None:
    guard.server.set_float("ir", GAS, 2.5)
    await guard.state_of("gas-high", InterlockState.TRIPPED)
    found = samples_of(exposition(Moment.of(gateway_of(guard)), Reactions().counts()))
    assert found["tag_value"][("tag", "gas"), ("unit", "%CH4")] == 2.5
    assert found["tag_quality"][(("tag", "gas"),)] == 2
    assert found["tag_quality"][(("tag", "rain"),)] == 0
    assert (("tag", "rain"), ("unit", "mm")) not in found["tag_value"]
    assert found["tag_value"][("tag", "wind"), ("unit", 'm"/s\\\n')] == 7.25
    assert found["device_up"] == {(("device", "plc"),): 1, (("device", "weather"),): 1}
    requests = found["device_requests_total"]
    assert requests[("device", "weather"), ("result", "timeout")] == 2
    assert requests[("device", "plc"), ("result", "good")] > 0
    assert requests[("device", "plc"), ("result", "refused")] == 0
    assert found["device_poll_lateness_seconds"] == {(("device", "weather"),): 0.0025}
    assert found["guard_up"] == {(): 1}
    assert found["guard_connected"] == {(): 1}
    assert found["guard_scans_total"][()] > 0
    assert found["guard_realtime"][()] in {0, 1}
    assert found["guard_locked"][()] in {0, 1}
    assert found["interlock_state"] == {
        (("interlock", "gas-high"),): 3,
        (("interlock", "fan-stopped"),): 1,
        (("interlock", "watch-gas"),): 3,
    }
    assert found["interlock_trips_total"][(("interlock", "gas-high"),)] == 1
    assert found["interlocks_unarmed"] == {(): 1}
    assert found["outputs_unconfirmed"][()] in {0, 1, 2}
    assert found["uplink_backlog_items"][("lane", "backfill"), ("uplink", "mine")] == 40
    alert = (("lane", "alert"), ("uplink", "mine"))
    assert found["uplink_oldest_seconds"][alert] == 12.5
    assert found["uplink_backlog_bytes"][alert] == 3_600
    assert found["uplink_backlog_ratio"][alert] == 0.25
    assert found["uplink_full_seconds"][alert] == 7_200
    assert found["uplink_full_seconds"][("lane", "live"), ("uplink", "mine")] == math.inf
    assert (("lane", "backfill"), ("uplink", "mine")) not in found["uplink_backlog_bytes"]
    assert found["letters_total"] == {(("reason", "too_large"), ("uplink", "mine")): 2}
    assert found["letters_by_state"] == {
        (("state", "dead"), ("uplink", "mine")): 1,
        (("state", "resent"), ("uplink", "mine")): 1,
    }
    assert found["audit_info"] == {(("head", "ab" * 32),): 1}
    assert found["audit_entries"] == {(): 3}
    expiry = found["certificate_expiry_seconds"][("side", "server"), ("uplink", "mine")]
    assert 86_000 < expiry <= 86_400
    assert found["store_up"] == {(("store", "ledger"),): 1, (("store", "history"),): 0}
    assert found["clock_synchronised"] == {(): synchronised()}
    assert found["sqlite_outdated"] == {(): sqlite_outdated(sqlite3.sqlite_version_info)}
    assert found["alarms_active"][("kind", "alarm"), ("priority", "critical")] == 1


async def test_our_own_certificate_ends_too(guard: LiveGuard, tmp_path: Path) -> None:
    folder = tmp_path / "credentials" / "platform"
    folder.mkdir(parents=True)
    make = [find("openssl"), "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=gw"]
    make += ["-days", "3", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    await asyncio.to_thread(subprocess.run, make, check=True, capture_output=True)
    (folder / "key.pem").chmod(0o600)
    gateway = gateway_of(guard)
    uplink = msgspec.structs.replace(gateway.config.uplink[0], credentials="platform")
    gateway.config = msgspec.structs.replace(gateway.config, uplink=(uplink,))
    gateway.credentials = folder.parent
    found = samples_of(exposition(Moment.of(gateway), Reactions().counts()))
    left_s = found["certificate_expiry_seconds"][("side", "client"), ("uplink", "mine")]
    assert 2 * 86_400 < left_s <= 3 * 86_400
    (folder / "cert.pem").write_text("nonsense")
    found = samples_of(exposition(Moment.of(gateway), Reactions().counts()))
    assert (("side", "client"), ("uplink", "mine")) not in found["certificate_expiry_seconds"]


async def test_every_drop_has_its_part_and_reason(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    gateway.dropped["view", "slow_client"] = 9
    found = samples_of(exposition(Moment.of(gateway), Reactions().counts()))["dropped_total"]
    told = {(dict(labels)["part"], dict(labels)["reason"]) for labels in found}
    assert {
        ("guard", "message_bad"), ("guard", "sample_old"), ("guard", "event_lost"),
        ("guard", "sample_shed"), ("link", "overwritten"), ("scanner", "settle"),
        ("recorder", "overwritten"), ("history", "shed_rows"), ("problems", "no_room"),
        ("view", "slow_client"),
    } <= told  # fmt: skip
    assert found[("part", "view"), ("reason", "slow_client")] == 9


async def test_a_stuck_breaker_is_an_unconfirmed_output(tmp_path: Path) -> None:
    async with (
        ModbusServer() as server,
        LiveGuard.at(tmp_path, server, stuck=True) as guard,
    ):
        gateway = gateway_of(guard)
        assert gateway.commands is not None
        await gateway.commands.trip("gas-high", "", "uid:tester")
        found = samples_of(exposition(Moment.of(gateway), Reactions().counts()))
        assert found["outputs_unconfirmed"] == {(): 1}


async def test_a_dead_guard_is_down(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    guard.end()
    found = samples_of(exposition(Moment.of(gateway), Reactions().counts()))
    assert found["guard_up"] == {(): 0}
    assert found["guard_realtime"] == {(): 0}
    assert found["guard_scans_total"][()] > 0


async def test_without_any_guard(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    gateway.view = lambda: None
    found = samples_of(exposition(Moment.of(gateway), Reactions().counts()))
    assert found["guard_up"] == {(): 0}
    assert "interlock_state" not in found


async def test_promtool_accepts_it(guard: LiveGuard) -> None:
    gateway = gateway_of(guard)
    gateway.problems.raised("view", "127.0.0.1:1", "port in use")
    reactions = Reactions()
    reactions.observe(confirmed(3_000_000))
    text = exposition(Moment.of(gateway), reactions.counts())
    found = samples_of(text)
    histogram = {"trip_reaction_seconds_bucket"}
    every = {spec.name for spec in METRICS if spec.kind != "histogram"} | histogram
    assert every - set(found) == set()
    tool = await asyncio.create_subprocess_exec(
        find("promtool"), "check", "metrics",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await tool.communicate(text)
    assert tool.returncode == 0, said.decode()
    assert said == b""


def test_reactions() -> None:
    reactions = Reactions()
    for took_ns in (50_000, 50_001, 999_000_000, 2_000_000_000):
        reactions.observe(confirmed(took_ns))
    reactions.observe(confirmed(5_000, demand_ns=0))  # nothing demanded it: by hand, or restored
    trip = confirmed(5_000)._replace(type=EventType.OUT_TRIP)
    reactions.observe(trip)
    counts = reactions.counts()
    rows = dict(counts.cumulative())
    assert rows["5e-05"] == 1
    assert rows["0.0001"] == 2
    assert rows["1"] == 3
    assert rows["+Inf"] == 4
    assert counts.sum_ns == 50_000 + 50_001 + 999_000_000 + 2_000_000_000
    assert (BOUNDS_NS[0], BOUNDS_NS[-1]) == (50_000, 1_000_000_000)


async def test_rendering_is_off_the_loop_and_shared(
    guard: LiveGuard, executor: ThreadPoolExecutor
) -> None:
    gateway = gateway_of(guard)
    threads: list[int] = []
    read_all = gateway.tags.read_all

    def watched(*args: object) -> object:
        threads.append(threading.get_ident())
        return read_all(*args)  # type: ignore[arg-type]

    gateway.tags.read_all = watched  # type: ignore[method-assign, assignment]
    metrics = Metrics(gateway, Reactions(), executor)
    texts = await asyncio.gather(*(metrics.render() for _ in range(5)))
    assert len(set(texts)) == 1
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
    await metrics.render()
    assert len(threads) == 2


def test_names_follow_the_conventions() -> None:
    names = [spec.name for spec in METRICS]
    assert len(names) == len(set(names))
    for spec in METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", spec.name)
        assert spec.name.endswith("_total") == (spec.kind == "counter"), spec.name
        assert spec.help[0].isupper() or spec.help[0].isdigit()
        assert spec.help.endswith("."), spec.name


def test_the_agreed_names_are_there() -> None:
    agreed = """build_info tag_value{tag,unit} tag_quality{tag} device_up{device}
        device_requests_total{device,result} device_poll_lateness_seconds{device} guard_up
        guard_scans_total guard_overruns_total guard_realtime interlock_state{interlock}
        interlock_trips_total{interlock} interlocks_unarmed trip_reaction_seconds
        outputs_unconfirmed uplink_up{uplink} uplink_backlog_items{uplink,lane}
        uplink_oldest_seconds{uplink,lane} uplink_full_seconds{uplink,lane}
        store_bytes_written_total{store} store_bytes{store}
        dropped_total{part,reason} letters_total{uplink,reason} clock_synchronised
        certificate_expiry_seconds{uplink,side}"""
    labels = {spec.name: spec.labels for spec in METRICS}
    for word in agreed.split():
        name, _, inside = word.partition("{")
        wanted = tuple(inside.rstrip("}").split(",")) if inside else ()
        if name != "build_info":
            assert labels[name] == wanted, name


def test_which_sqlite_is_outdated() -> None:
    old = [(3, 40, 1), (3, 44, 5), (3, 50, 6), (3, 51, 2)]
    assert all(map(sqlite_outdated, old))
    assert not any(map(sqlite_outdated, [(3, 44, 6), (3, 50, 7), (3, 51, 3), (3, 54, 1)]))


def readme_row(spec: MetricSpec) -> str:
    labels = "{" + ",".join(spec.labels) + "}" if spec.labels else ""
    return f"| `{PREFIX}{spec.name}{labels}` | {spec.kind} | {spec.help} |"


def test_the_readme_has_every_metric() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [row for row in map(readme_row, METRICS) if row not in readme] == []
