"""The receiving platform over HTTP, its file, and the pump through the HTTP uplink into it."""

import asyncio
import contextlib
import json
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.__main__ import main
from gateway.errors import GatewayError
from gateway.receiver import web
from gateway.receiver.archive import Archive
from gateway.receiver.arrival import SAMPLES, Arrival
from gateway.receiver.platform import Platform
from gateway.receiver.ranges import Ranges
from gateway.uplink import link_state
from gateway.uplink.http import HttpUplink
from gateway.uplink.pump import Pump
from tests.helpers.receiving import (
    Receiver,
    alert_of,
    event_of,
    gap_of,
    receiving,
    samples_of,
)
from tests.helpers.uplinks import (
    EPOCH,
    SENDER,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    config_of,
    until,
)


@asynccontextmanager
async def receiver(**settings: Any) -> AsyncIterator[Receiver]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with receiving(**settings) as url, aiohttp.ClientSession(timeout=timeout) as session:
        yield Receiver(session, url)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8))))
def test_ranges_are_a_set_of_numbers(parts: list[tuple[int, int]]) -> None:
    ranges, numbers = Ranges(), set[int]()
    for first, more in parts:
        ranges.add(first, first + more)
        numbers.update(range(first, first + more + 1))
    assert {n for first, last in ranges for n in range(first, last + 1)} == numbers
    assert all((n in ranges) == (n in numbers) for n in range(80))
    assert ranges.count() == len(numbers)
    assert (ranges.first, ranges.last) == (min(numbers, default=0), max(numbers, default=0))
    missing = {n for first, last in ranges.missing(5, 50) for n in range(first, last + 1)}
    assert missing == set(range(5, 51)) - numbers
    ends = [each for pair in ranges for each in pair]
    assert all(b > a + 1 for a, b in zip(ends[1::2], ends[2::2], strict=False)), "they never meet"


def test_a_backlog_of_72_hours_is_one_range() -> None:
    ranges = Ranges()
    for number in range(1, 311_041):
        ranges.add(number, number)
    assert list(ranges) == [(1, 311_040)]


async def test_counts_order_and_doubles() -> None:
    async with receiver() as platform:
        await platform.post("alerts", alerts=[event_of(alert_of(1)), event_of(alert_of(2))])
        await platform.post("samples", samples=[samples_of(1)])
        await platform.post("samples", samples=[samples_of(1, historical=True)])
        await platform.post("alerts", alerts=[event_of(alert_of(2)), alert_of(4)])
        report = await platform.report()
        alerts = await platform.alerts()
        later = await platform.alerts(after=2)
    assert (report["alerts"], report["alerts_arrived"], report["duplicates"]) == (3, 4, 1)
    assert report["values"] == 6
    assert [alert["seq"] for alert in alerts] == [1, 2, 4]
    assert [alert["seq"] for alert in later] == [4]
    assert report["order"] == [
        ["alert", 1, 2], ["live", 1, 1], ["backfill", 1, 1], ["alert", 2, 2], ["alert", 4, 4],
    ]  # fmt: skip
    rows = {row["lane"]: row for row in report["streams"]}
    assert (rows["alert"]["from"], rows["alert"]["to"]) == (1, 4)
    assert rows["alert"]["missing_ranges"] == [[3, 3]]
    assert not report["complete"]


async def test_a_numbered_gap_is_not_missing_and_may_come_after_all() -> None:
    async with receiver() as platform:
        await platform.post("samples", samples=[samples_of(1), gap_of(2, 5), samples_of(6)])
        before = await platform.stream("live")
        await platform.post("samples", samples=[gap_of(2, 5), samples_of(3)])
        after = await platform.stream("live")
        report = await platform.report()
    assert (before["missing"], before["from"], before["to"]) == (0, 1, 6)
    assert before["gaps"] == [{"first": 2, "last": 5, "reason": "shed", "lost": 4}]
    assert after["gaps"] == [{"first": 2, "last": 5, "reason": "shed", "lost": 3}]
    assert (after["doubles"], after["messages"]) == (1, 3)
    assert report["complete"]


async def test_sequences_are_of_gateway_uplink_epoch_and_lane() -> None:
    others: list[dict[str, Any]] = [
        {}, {"gateway": "gw-2"}, {"uplink": "other"}, {"epoch": EPOCH + 2}, {"historical": True},
    ]  # fmt: skip
    async with receiver() as platform:
        for other in others:
            await platform.post("samples", samples=[samples_of(1, **other)])
        report = await platform.report()
    assert len(report["streams"]) == len(others)
    assert report["duplicates"] == report["differing"] == 0


async def test_a_double_with_other_content_is_told_and_does_not_replace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "r.db"
    async with receiver(store=store) as platform:
        await platform.post("alerts", alerts=[alert_of(1)])
        await platform.post("alerts", alerts=[alert_of(1, historical=True, audit_head="a9")])
        await platform.post("samples", samples=[samples_of(1)])
        assert not caplog.records
        await platform.post("samples", samples=[samples_of(1, t0_ns=5)])
        await platform.post("alerts", alerts=[alert_of(1, value=2.0)])
        report = await platform.report()
        alerts = await platform.alerts()
    assert (report["duplicates"], report["differing"]) == (1, 2)
    assert not report["complete"]
    assert "value" not in alerts[0]
    assert "gw-1 alert: number 1" in caplog.text
    assert "OTHER content" in caplog.text


async def test_alerts_are_open_until_a_clear_refers_to_them() -> None:
    ref = alert_of(1)["id"]
    async with receiver() as platform:
        await platform.post(
            "alerts",
            alerts=[
                alert_of(1),
                alert_of(2),
                alert_of(3, ref=ref),  # raised: said again
                alert_of(4, ref=ref, state="cleared", kind="alarm_end"),
                alert_of(5, state="event", kind="command"),
            ],
        )
        states = (await platform.report())["alert_states"]
    assert (states["open"], states["closed"]) == (1, 1)
    assert [row["id"] for row in states["open_alerts"]] == [alert_of(2)["id"]]


async def test_the_file_has_each_item_once_and_goes_on_where_it_was(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    numbers = list(range(1, 201))
    random.Random(7).shuffle(numbers)
    async with receiver(store=store) as platform:
        for number in numbers[:100]:
            await platform.post("samples", samples=[samples_of(number)])
    async with receiver(store=store) as platform:
        assert (await platform.stream("live"))["messages"] == 100
        await platform.post("samples", samples=[samples_of(number) for number in numbers[50:]])
        row = await platform.stream("live")
    assert (row["from"], row["to"], row["missing"], row["doubles"]) == (1, 200, 0, 50)
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("SELECT count(*), sum(n) FROM message").fetchone() == (200, 600)
        assert database.execute("SELECT first, last FROM came").fetchall() == [(1, 200)]


async def test_counting_alone_keeps_no_samples(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    async with receiver(store=store, samples=False) as platform:
        await platform.post("samples", samples=[samples_of(1), samples_of(1), samples_of(3)])
        row = await platform.stream("live")
    assert (row["samples"], row["doubles"], row["missing_ranges"]) == (6, 1, [[2, 2]])
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("SELECT count(*) FROM message").fetchone() == (0,)


@pytest.mark.parametrize(
    ("columns", "samples"),
    [
        ({"v": [[1.0, None], [None, None]]}, 1),
        ({"v": [[1.0, None], [None, 2.0]], "q": [[2, 2], [None, 2]]}, 3),  # not a number, good
        ({"v": [], "tags": [], "dt_ms": []}, 0),
    ],
)
async def test_null_is_a_sample_where_it_has_a_quality(
    columns: dict[str, Any], samples: int
) -> None:
    async with receiver() as platform:
        assert await platform.post("samples", samples=[samples_of(1, **columns)]) == 200
        assert (await platform.stream("live"))["samples"] == samples


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("alerts", b"not JSON", 422),
        ("alerts", b"[]", 422),
        ("alerts", b'{"alerts": {}}', 422),
        ("alerts", b'{"alerts": [1]}', 422),
        ("alerts", b'{"alerts": [{"specversion": "1.0", "data": {}}]}', 422),
        ("alerts", json.dumps({"alerts": [alert_of(0)]}).encode(), 422),
        ("samples", b'{"samples": [{}]}', 422),
        ("samples", json.dumps({"samples": [samples_of(1, v=[[1.0]])]}).encode(), 422),
        ("samples", json.dumps({"samples": [samples_of(1, dt_ms=[0])]}).encode(), 422),
        ("samples", json.dumps({"samples": [samples_of(1, q=[[2, 2]])]}).encode(), 422),
        ("samples", json.dumps({"samples": [gap_of(5, 4)]}).encode(), 422),
        ("samples", json.dumps({"samples": [samples_of(2**64)]}).encode(), 422),
        ("samples", json.dumps({"samples": [samples_of(1, dt_ms=[0, 1e305])]}).encode(), 422),
        ("samples", json.dumps({"samples": [samples_of(1, t0_ns=2**63 - 1)]}).encode(), 422),
        ("samples", json.dumps({"samples": [samples_of(1, t0_ns=-(2**64))]}).encode(), 422),
        ("samples", b"[" * 100_000, 422),
        ("control", b'{"down": 1}', 422),
        ("control", b"\xff", 422),
    ],
)
async def test_nonsense_is_refused_as_a_whole(path: str, body: bytes, status: int) -> None:
    async with receiving() as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/{path}", data=body) as response:
            assert response.status == status
        report = await Receiver(session, url).report()
    assert not report["streams"]
    assert report["refused"].get("not understood", 0) == (path != "control")


async def test_an_alert_under_anothers_id_does_not_take_its_place() -> None:
    async with receiving() as url, aiohttp.ClientSession() as session:
        platform = Receiver(session, url)
        assert await platform.post("alerts", alerts=[alert_of(2, id="gw-1/1/2")]) == 422
        assert await platform.post("alerts", alerts=[alert_of(2, id=alert_of(1)["id"])]) == 422
        assert await platform.post("alerts", alerts=[alert_of(1), alert_of(2)]) == 200
        report = await platform.report()
    assert (report["alerts"], report["duplicates"], report["complete"]) == (2, 0, True)


async def test_bodies_that_never_come_to_their_end_hold_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of uplinks whose link is gone without a word: nobody closes their connections."""
    monkeypatch.setattr(web, "BODY_S", 0.2)
    async with receiving() as url, aiohttp.ClientSession() as session:
        port = int(url.rpartition(":")[2])
        stuck = [await asyncio.open_connection("127.0.0.1", port) for _ in range(web.WAITING_MAX)]
        try:
            for _reader, writer in stuck:
                writer.write(b"POST /alerts HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
                await writer.drain()
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                assert await Receiver(session, url).post("alerts", alerts=[alert_of(1)]) == 200
                for reader, _writer in stuck:
                    with contextlib.suppress(ConnectionResetError):
                        assert await reader.read() == b""
        finally:
            for _reader, writer in stuck:
                writer.close()


async def test_bodies_that_trickle_in_hold_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BODY_S_MAX", 0.3)
    async with receiving() as url, aiohttp.ClientSession() as session:
        port = int(url.rpartition(":")[2])
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(web.WAITING_MAX)]

        async def trickle(writer: asyncio.StreamWriter) -> None:
            writer.write(b"POST /alerts HTTP/1.1\r\nHost: x\r\nContent-Length: 16000000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b" " * 1_000)
                    await writer.drain()
                    await asyncio.sleep(0.02)

        trickles = [asyncio.create_task(trickle(writer)) for _reader, writer in slow]
        try:
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                assert await Receiver(session, url).post("alerts", alerts=[alert_of(1)]) == 200
                await asyncio.gather(*trickles)  # each was cut
        finally:
            for one, (_reader, writer) in zip(trickles, slow, strict=True):
                one.cancel()
                writer.close()


@pytest.mark.parametrize(("source", "status"), [("127.0.0.1", 200), ("127.0.0.2", 403)])
async def test_the_link_is_cut_from_this_machine_alone(source: str, status: int) -> None:
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with receiving() as url, aiohttp.ClientSession(connector=connector) as session:
        async with session.post(f"{url}/control", json={"down": True}) as response:
            assert response.status == status
        assert (await Receiver(session, url).report())["down"] == (status == 200)


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:http", "256.1.1.1:0", "127.0.0.1:99999"])
async def test_an_address_that_cannot_be_used(listen: str) -> None:
    with pytest.raises(GatewayError):
        async with receiving(listen=listen):
            pass


async def test_a_port_in_use() -> None:
    async with receiving() as url:
        with pytest.raises(GatewayError, match="cannot receive on"):
            async with receiving(listen=url.removeprefix("http://")):
                pass


@pytest.mark.parametrize("content", [b"not a database, but long enough" * 40, None])
async def test_a_file_of_somebody_else_is_not_touched(
    tmp_path: Path, content: bytes | None
) -> None:
    store = tmp_path / "other.db"
    if content:
        store.write_bytes(content)
    else:
        with closing(sqlite3.connect(store)) as database:
            database.execute("CREATE TABLE theirs (a)")
    before = store.read_bytes()
    with pytest.raises(GatewayError, match=r"other\.db"):
        async with receiving(store=store):
            pass
    assert store.read_bytes() == before
    assert main(["receive", "--show", str(store)]) == 1


async def test_what_cannot_be_stored_is_not_answered_with_yes(tmp_path: Path) -> None:
    store = tmp_path / "r.db"
    async with receiver(store=store) as platform:
        await platform.post("samples", samples=[samples_of(1)])
        with closing(sqlite3.connect(store, isolation_level=None)) as other:
            other.execute("CREATE TRIGGER full BEFORE INSERT ON message "
                          "BEGIN SELECT raise(ABORT, 'disk full'); END")  # fmt: skip
            assert await platform.post("samples", samples=[samples_of(2)]) == 503
            assert await platform.post("alerts", alerts=[alert_of(1)]) == 200
            assert (await platform.stream("live"))["to"] == 1
            other.execute("DROP TRIGGER full")
        assert await platform.post("samples", samples=[samples_of(2)]) == 200
        row = await platform.stream("live")
    assert (row["to"], row["messages"], row["doubles"]) == (2, 2, 0)


def test_what_no_check_foresees_is_refused_alone(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "r.db")
    archive.open()
    long = int("7" * 4_000)
    with closing(archive):
        platform = Platform(archive)
        platform.take([arrival_of(samples_of(1, more=long))])
        # The same number with an integer that Python does not read: to compare it raises.
        body = json.dumps(samples_of(1, more=long)).encode().replace(b"7777", b"77777777")
        batch = [arrival_of(samples_of(2)), Arrival(SAMPLES, body), arrival_of(samples_of(3))]
        outcomes = platform.take(batch)
        again = platform.take([arrival_of(samples_of(4))])
        report = platform.report()
    assert [outcome.stored for outcome in (*outcomes, *again)] == [1, 0, 1, 1]
    assert "4300 digits" in outcomes[1].refused
    (row,) = report["streams"]
    assert (row["from"], row["to"], row["messages"], row["doubles"]) == (1, 4, 4, 0)
    assert report["refused"] == {"failed": 1}
    assert report["order"] == [["live", 1, 4]]


def arrival_of(message: dict[str, Any]) -> Arrival:
    return Arrival(SAMPLES, json.dumps(message).encode())


@pytest.mark.parametrize(
    ("name", "said"), [("", "is a directory, expected a file"), ("none", "there is no such file")]
)
def test_what_is_no_file_is_not_shown(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["receive", "--show", str(tmp_path / name)]) == 1
    assert said in capsys.readouterr().err


async def test_show_tells_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "r.db"
    async with receiver(store=store) as platform:
        await platform.post("samples", samples=[samples_of(1), gap_of(2, 3), samples_of(9)])
        await platform.post("alerts", alerts=[alert_of(1)])
        assert await asyncio.to_thread(main, ["receive", "--show", str(store)]) == 1
        text = capsys.readouterr().out
        await platform.post("samples", samples=[samples_of(n) for n in range(4, 9)])
        assert await asyncio.to_thread(main, ["receive", "--show", str(store), "--json"]) == 0
    assert "5: 4-8" in text
    assert "2 shed" in text
    assert "alerts: 1, open 1, closed 0" in text
    report = json.loads(capsys.readouterr().out)
    assert report["complete"]
    assert {row["lane"]: row["to"] for row in report["streams"]} == {"alert": 1, "live": 9}


async def test_a_cut_link_and_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_state, "BACKOFF_S", 0.01)
    monkeypatch.setattr(link_state, "BACKOFF_S_MAX", 0.05)
    monkeypatch.setattr(link_state, "LOOK_S", 0.02)
    ledger, history, problems = MemoryLedger(), MemoryHistory(), MemoryProblems()
    async with receiving() as url, aiohttp.ClientSession() as session:
        platform = Receiver(session, url)
        config = config_of(url, kind="http")
        made = Pump(config, HttpUplink(config, SENDER), ledger, history, problems, SENDER)
        task = asyncio.create_task(made.run())
        ledger.put(2)
        await until(lambda: made.stats().up)
        await platform.control(down=True)
        ledger.put(30)
        made.nudge()
        await until(lambda: not made.stats().up)
        assert history.lane == "backfill"
        history.put("backfill", 40)
        await until(lambda: made.stats().connects >= 4)
        assert made.stats().backlog == {"alert": 30, "live": 0, "backfill": 40}
        await platform.control(down=False)
        await until(lambda: not any(made.stats().backlog.values()))
        report = await platform.report()
        alerts = await platform.alerts()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert report["order"] == [["alert", 1, 32], ["backfill", 1, 40]]
    assert report["complete"]
    assert report["duplicates"] == 0
    assert report["values"] == 40 * 3
    assert [alert["historical"] for alert in alerts[-30:]] == [True] * 30
