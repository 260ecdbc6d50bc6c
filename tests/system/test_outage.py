"""A broker that is away while 1,200 tags are read over Modbus, and then refuses some of it.

The device is libmodbus; each of its registers goes up by one after every reading, so that the
values alone tell whether a reading is missing or came twice. Accelerated: readings are 50 ms apart
instead of a second; 300 of them, in the campaign an hour's worth.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fastpath.codes import Quality
from tests.helpers.harness import Site, until
from tests.helpers.modbus_server import ModbusServer, Request
from tests.helpers.mosquitto import Mosquitto, Subscriber
from tests.helpers.proxy import FaultProxy

pytestmark = pytest.mark.system

READ_HOLDING = 3
TAGS = 1_200
READINGS, HOUR = 300, 3_600
ALARMS = (60, 120, 180, 240)  # readings at which an alarm is raised
DENIED_SOON = "gateway.uplink.mqtt_codes.DENIED_RETRY_S=1"  # what is denied is asked for again
DENIED = ["topic readwrite sitewarden/#", "topic deny sitewarden/test-site/backfill"]


def _site_text(device: str, broker: str) -> str:
    tags = []
    for i in range(TAGS):
        limit = f"limits = {{ high = {ALARMS[i]} }}\n" if i < len(ALARMS) else ""
        tags.append(
            f'[[tag]]\nid = "t{i}"\ndevice = "plc"\npoint = {{ address = "hr:{i}" }}\n{limit}'
        )
    return "\n".join(
        [
            '[site]\nid = "test-site"\n[view]\nlisten = "127.0.0.1:0"',
            f'[[uplink]]\nid = "platform"\nkind = "mqtt"\nurl = "mqtt://{broker}"\ntimeout = "2s"',
            f'[[device]]\nid = "plc"\ndriver = "modbus-tcp"\naddress = "{device}"\n'
            'poll = "50ms"\nsettle = "50ms"\nrecord = "all"',
            *tags,
        ]
    )


async def _backlog(site: Site) -> dict[str, int]:
    status = await site.get("/status")
    backlog: dict[str, int] = status["uplinks"][0]["backlog"]
    return backlog


def _series(messages: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The good values of each tag by time, doubles dropped by (epoch, lane, sequence)."""
    unique = {(m["epoch"], m["historical"], m["seq"]): m for m in messages}
    points: dict[str, list[tuple[int, int]]] = {}
    for message in unique.values():
        assert "gap" not in message
        times = [message["t0_ns"] + round(ms * 1_000_000) for ms in message["dt_ms"]]
        for i, tag in enumerate(message["tags"]):
            quality = message["q"][i] if "q" in message else [Quality.GOOD] * len(times)
            points.setdefault(tag, []).extend(
                (time, value)
                for time, value, q in zip(times, message["v"][i], quality, strict=True)
                if q == Quality.GOOD and value is not None
            )
    return {tag: [value for _time, value in sorted(own)] for tag, own in points.items()}


@pytest.mark.timeout(180)
async def test_nothing_is_lost_over_an_outage_and_a_refusal(tmp_path: Path) -> None:
    await _outage_and_refusal(tmp_path, READINGS)


@pytest.mark.campaign
@pytest.mark.timeout(900)
async def test_nothing_is_lost_over_an_hour_of_readings(tmp_path: Path) -> None:
    await _outage_and_refusal(tmp_path, HOUR)


async def _outage_and_refusal(tmp_path: Path, readings: int) -> None:
    broker = Mosquitto(tmp_path, acl=DENIED, lines=["max_queued_messages 100000"])
    subscriber = Subscriber(broker.port)
    async with (
        ModbusServer(tmp_path / "requests") as device,
        FaultProxy("127.0.0.1", broker.port, framed=False) as proxy,
        Site(tmp_path, _site_text(device.address, proxy.address)) as site,
    ):
        await proxy.refuse()
        device.count("hr", 0, TAGS)
        await device.sync()
        await site.start(through=["tests.helpers.impatient", DENIED_SOON])
        await site.ready()

        async def taken() -> bool:
            return (await device.get("hr", TAGS - 1))[0] >= readings + 4

        await until("the readings", taken, 0.3 * readings)
        outage = len(site.alerts())
        assert outage >= len(ALARMS)
        try:
            await broker.start()
            await subscriber.subscribe()
            await proxy.refuse(refused=False)
            await subscriber.until(lambda: len(subscriber.of("live")) > 3, 40)
            _alerts_came_first(subscriber, outage)
            waiting = await _backlog(site)
            assert waiting["backfill"] * 1_000 >= TAGS * readings * 0.9  # denied, not delivered
            assert not subscriber.of("backfill")

            (tmp_path / "acl").write_text(DENIED[0] + "\n")
            broker.send(signal.SIGHUP)

            async def drained() -> bool:
                return sum((await _backlog(site)).values()) <= 40

            await until("the backlog delivered", drained, 60 + readings / 30)
            os.kill(device.pid, signal.SIGSTOP)  # no reply leaves from now on
            stopped_ns = time.monotonic_ns()
            await subscriber.until(lambda: not _is_good(subscriber.of("live")[-1]))
            await site.stop()
            os.kill(device.pid, signal.SIGCONT)
            replies = _replies(await device.requests(), before_ns=stopped_ns + 500_000_000)
        finally:
            os.kill(device.pid, signal.SIGCONT)
            await subscriber.leave()
            await broker.stop()
        alerts = site.alerts()
    series = _series(subscriber.of("live") + subscriber.of("backfill"))
    for i in range(TAGS):
        own = series[f"t{i}"]
        first = int(own[0])  # what was read while the device settled is not a sample
        assert first <= 3
        # The device logs an answer before it sends it: the last may not have been heard any more.
        assert own == list(range(first, first + len(own))), f"t{i}"
        assert replies[i] - (first + len(own)) in (0, 1), f"t{i}"
    assert sum(len(own) for own in series.values()) >= TAGS * readings
    ids = {message["id"] for message in subscriber.of("alerts")}
    assert ids >= {alert["id"] for alert in alerts[:outage]}


def _is_good(message: dict[str, Any]) -> bool:
    return all(q == Quality.GOOD for row in message.get("q", []) for q in row)


def _replies(requests: list[Request], before_ns: int) -> list[int]:
    """How often each register was sent."""
    counts = [0] * TAGS
    for request in requests:
        if request.kind == "r" and request.function == READ_HOLDING and request.ns < before_ns:
            for i in range(request.address, min(request.address + request.count, TAGS)):
                counts[i] += 1
    return counts


def _alerts_came_first(subscriber: Subscriber, count: int) -> None:
    topics = [name for name, _payload in subscriber.received if name != "status"]
    first = [message["seq"] for name, message in subscriber.received if name == "alerts"][:count]
    assert topics[:count] == ["alerts"] * count
    assert first == list(range(1, count + 1))
