"""Alarms of an OPC UA server that is not ours: begun, ended, listed, over a restart of either."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from drivers.base import Batch, Condition
from drivers.kind import Surroundings
from drivers.opcua_subscribing import OpcUaSubscribing
from drivers.registry import make_driver
from gateway.life.problems import Problems
from gateway.plant.device_conditions import DeviceConditions, priority_of
from gateway.site.model import Device, Duration, Point
from gateway.site.model import DeviceConditions as Wanted
from tests.helpers.opcua_server import OpcUaServer, opcua_server
from tests.helpers.unsecret import no_secrets

MS = 1_000_000
WITHIN_S = 15.0
ALARMS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpcUaServer]:
    with opcua_server(tmp_path_factory.mktemp("pki"), alarms=ALARMS) as running:
        yield running


@pytest.fixture(autouse=True)
def calm(server: OpcUaServer) -> None:
    for i in range(ALARMS):
        server.set(f"alarm{i}", 0)


def made(server: OpcUaServer, **conditions: Any) -> OpcUaSubscribing:
    device = Device(
        id="dcs", driver="opcua", address=server.url, security="None", insecure=True,
        poll=Duration(100 * MS), timeout=Duration(3_000 * MS), conditions=Wanted(**conditions),
    )  # fmt: skip
    points = [(Point(node="ns=1;s=temp"), None)]
    driver = make_driver("opcua", device, points, Surroundings(no_secrets, None))
    assert isinstance(driver, OpcUaSubscribing)
    return driver


@asynccontextmanager
async def followed(driver: OpcUaSubscribing) -> AsyncIterator[OpcUaSubscribing]:
    async with asyncio.timeout(WITHIN_S):
        await driver.connect()
        await driver.subscribe([(100 * MS, driver.plan([0]))])
    try:
        yield driver
    finally:
        await driver.close()


async def until(driver: OpcUaSubscribing, enough: Any) -> list[Batch]:
    """What it told until that is so of it."""
    told: list[Batch] = []
    async with asyncio.timeout(WITHIN_S):
        while not enough(told):
            told.append(await driver.pushed())
    return told


def listed(told: list[Batch]) -> bool:
    return any(batch.standing is not None for batch in told)


def changes(told: list[Batch]) -> list[Condition]:
    return [each for batch in told for each in batch.conditions]


async def test_an_alarm_begins_and_ends(server: OpcUaServer) -> None:
    async with followed(made(server)) as driver:
        told = await until(driver, listed)
        assert [batch.standing for batch in told if batch.standing is not None] == [frozenset()]
        server.set("alarm1", 11)
        [begun] = changes(await until(driver, changes))
        assert (begun.ident, begun.active) == ("ns=1;s=High1", True)
        assert begun.text.startswith("1:alarm1: level 1 high, Condition is 11")
        assert begun.source_utc_ns > 0
        server.set("alarm1", 200)
        server.set("alarm1", 0)
        told = await until(driver, lambda told: any(not each.active for each in changes(told)))
        assert {each.ident for each in changes(told)} == {"ns=1;s=High1"}
        assert not changes(told)[-1].active
        assert driver.facts().troubles == {}


async def test_what_stands_is_listed_when_a_session_begins(server: OpcUaServer) -> None:
    server.set("alarm0", 11)
    server.set("alarm2", 11)
    async with followed(made(server)) as driver:
        told = await until(driver, listed)
        assert {each.ident for each in changes(told) if each.active} == {
            "ns=1;s=High0", "ns=1;s=High2",
        }  # fmt: skip
        assert told[-1].standing == frozenset(("ns=1;s=High0", "ns=1;s=High2"))


async def test_what_is_not_severe_enough_is_left_out(server: OpcUaServer) -> None:
    async with followed(made(server, severity=1000)) as driver:
        await until(driver, listed)
        server.set("alarm0", 11)
        server.set("temp", 99)
        told = await until(
            driver, lambda told: any(reading.value == 99 for b in told for reading in b.readings)
        )
        assert not any(each.active for each in changes(told))


async def test_a_notifier_that_is_none_is_told(server: OpcUaServer) -> None:
    async with followed(made(server, source="ns=1;s=nowhere")) as driver:
        await until(driver, lambda told: any(batch.readings for batch in told))
        assert "no conditions of ns=1;s=nowhere" in driver.facts().troubles["server_conditions"]


class Sink:
    """The ledger's place."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str, str]] = []

    async def append(self, drafts: Any) -> None:
        self.told += [(each.kind, each.state, each.source.id, each.priority) for each in drafts]


async def test_each_is_one_alert_and_what_is_listed_no_more_is_over() -> None:
    problems, sink = Problems(), Sink()
    problems.follow(["problem:condition:dcs/old", "problem:condition:other/old"])
    conditions = DeviceConditions("dcs", problems)
    on = Condition("a", "tank: high", active=True, severity=700, source_utc_ns=0)
    conditions.tell([on, on, on._replace(ident="b", severity=900)], None)
    conditions.tell([], frozenset({"b"}))
    conditions.tell([on._replace(ident="b", active=False)], None)
    await problems.flush(sink)
    assert sink.told == [
        ("alarm", "raised", "dcs/a", "high"), ("alarm", "raised", "dcs/b", "critical"),
        ("alarm_end", "cleared", "dcs/a", "low"), ("alarm_end", "cleared", "dcs/old", "low"),
        ("alarm_end", "cleared", "dcs/b", "low"),
    ]  # fmt: skip
    assert problems.active() == []


@pytest.mark.parametrize(
    ("severity", "priority"),
    [
        (1, "low"),
        (400, "low"),
        (401, "medium"),
        (601, "high"),
        (801, "critical"),
        (1000, "critical"),
    ],
)
def test_severities(severity: int, priority: str) -> None:
    assert priority_of(severity) == priority
