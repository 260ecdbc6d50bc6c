"""What really leaves, held against config/schemas by a validator that is not ours.

One site lives through everything that alerts tell of; a receiving platform keeps what it gets. One
alert and one message of samples are refused on the way, so that their markers come too.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry, Resource

from tests.helpers.harness import COIL, CONTACT, GAS, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.receiving import Receiver, alert_of, gap_of, receiving, samples_of

SCHEMAS = Path(__file__).parents[2] / "config" / "schemas"
NAMES = ("alert", "samples", "gap", "status")
EXTRA = """
[[device]]
id = "slow"
driver = "modbus-tcp"
address = "{address}"
poll = "100ms"
timeout = "200ms"
settle = "100ms"

[[tag]]
id = "level"
device = "slow"
point = {{ address = "hr:1" }}
limits = {{ high = 50 }}
record = "all"
"""


def _validators() -> dict[str, Draft202012Validator]:
    read = {f"{name}.json": json.loads((SCHEMAS / f"{name}.json").read_text()) for name in NAMES}
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema)) for name, schema in read.items()
    )
    for schema in read.values():
        Draft202012Validator.check_schema(schema)
    return {
        name.removesuffix(".json"): Draft202012Validator({**schema, "$id": name}, registry=registry)
        for name, schema in read.items()
    }


VALID = _validators()


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("alert", alert_of(1)),
        ("alert", alert_of(1, more="of it", value=None)),
        ("samples", samples_of(1)),
        ("samples", samples_of(1, q=[[2, None], [0, 30]], more=1)),
        ("samples", gap_of(1, 3)),
        ("gap", gap_of(1, 3)),
        ("status", {"gateway": "gw-1", "state": "online", "exercise": True, "more": 1}),
    ],
)
def test_unknown_fields_are_no_fault(name: str, item: dict[str, Any]) -> None:
    VALID[name].validate(item)


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("alert", alert_of(0)),
        ("alert", alert_of(1, kind="rumour")),
        ("alert", alert_of(1, clock_synced=None)),
        ("samples", samples_of(1, v=[["1.0"]])),
        ("samples", samples_of(1, q=[[255]])),
        ("samples", samples_of(1, tags=["a", "a"])),
        ("samples", {key: value for key, value in samples_of(1).items() if key != "uplink"}),
        ("samples", samples_of(1, gap={"first": 0, "last": 1, "reason": "x"})),
        ("gap", samples_of(1)),
        ("status", {"gateway": "gw-1", "state": "asleep"}),
    ],
)
def test_what_is_wrong_is_found(name: str, item: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VALID[name].validate(item)


class Gatekeeper:
    """Stands before a platform and refuses by 422 whatever has the item ``refused[path]``."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.refused: dict[str, int] = {}
        self.passed: dict[str, list[dict[str, Any]]] = {"alerts": [], "samples": []}

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/{path}", self._pass)
        runner = web.AppRunner(app, access_log=None)
        async with aiohttp.ClientSession() as self._session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        body = json.loads(await request.read())
        items = [item.get("data", item) for item in body[path]]
        unwanted = self.refused.setdefault(path, items[0]["seq"])
        if any(item["seq"] == unwanted and "gap" not in item for item in items):
            return web.Response(status=422)
        self.passed[path] += items
        async with self._session.post(f"{self._target}/{path}", json=body) as answer:
            return web.Response(status=answer.status)


@pytest.mark.system
@pytest.mark.timeout(120)
async def test_everything_that_leaves_is_as_the_schemas_say(tmp_path: Path) -> None:
    async with (
        receiving() as platform_url,
        aiohttp.ClientSession() as session,
        ModbusServer(reads=False) as device,
        ModbusServer(reads=False) as slow,
    ):
        gate = Gatekeeper(platform_url)
        passed = gate.passed
        async with gate.serve() as url:
            text = site_text([device.address], url=url, extra=EXTRA.format(address=slow.address))
            async with Site(tmp_path, text) as site:
                await _live(site, device, slow)
                last = site.alerts()[-1]["seq"]
                platform = Receiver(session, platform_url)

                async def arrived() -> bool:
                    rows = (await platform.report())["streams"]
                    return any(row["lane"] == "alert" and row["to"] >= last for row in rows)

                await until("every alert at the platform", arrived)
                await until("good samples", lambda: any(_is_good(m) for m in passed["samples"]))
        report = await platform.report()
    assert report["complete"], report
    schema = json.loads((SCHEMAS / "alert.json").read_text())
    kinds = set(schema["$defs"]["Alert"]["properties"]["kind"]["enum"])
    assert {alert["kind"] for alert in passed["alerts"]} == kinds
    for alert in passed["alerts"]:
        VALID["alert"].validate(alert)
    for message in passed["samples"]:
        VALID["samples"].validate(message)
    for items in passed.values():
        markers = [item for item in items if "gap" in item]
        assert {marker["gap"]["reason"] for marker in markers} == {"http_422"}
        for marker in markers:
            VALID["gap"].validate(marker)
    assert any("q" in message for message in passed["samples"])


def _is_good(message: dict[str, Any]) -> bool:
    return "gap" not in message and "q" not in message


async def _live(site: Site, device: ModbusServer, slow: ModbusServer) -> None:
    """Each thing that an alert tells of, once."""
    device.set("c", COIL, 1)
    device.set("di", CONTACT, 1)  # a contact that is stuck
    device.set_float("ir", GAS, 0.3)
    slow.set("hr", 1, 10)
    await device.sync()
    await slow.sync()
    await site.start()
    await site.ready()
    await site.protecting()
    slow.set("hr", 1, 60)
    await until("the alarm", lambda: _told(site, "alarm"))
    slow.set("hr", 1, 10)
    await until("its end", lambda: _told(site, "alarm_end"))
    status, answer = await site.post(
        "/bypass", {"id": "cut0", "for_ns": 60_000_000_000, "reason": "test"}
    )
    assert status == 200, answer
    await site.post("/bypass", {"id": "cut0", "end": True, "reason": "test"})
    order = {"id": "level", "value": 5.0, "for_ns": 60_000_000_000, "reason": "test"}
    status, answer = await site.post("/substitute", order)
    assert status == 200, answer
    os.kill(slow.pid, signal.SIGSTOP)
    try:
        await until("the device's loss", lambda: _told(site, "device"))
    finally:
        os.kill(slow.pid, signal.SIGCONT)
    device.set_float("ir", GAS, 3.0)
    await until("the trip", lambda: _told(site, "trip"))
    await until("the stuck contact", lambda: _told(site, "output"))
    device.set("di", CONTACT, 0)
    device.link(COIL, CONTACT, ms=2)
    device.set_float("ir", GAS, 0.3)
    await site.reset()
    await site.post("/substitute", {"id": "level", "end": True, "reason": "test"})
    await until("the trip's end", lambda: _told(site, "trip_end"))
    await asyncio.to_thread(site.file.write_text, "nonsense")
    assert (await site.cli("reload")).code == 2
    site.kill_guard()
    await until("the guard's death", lambda: _told(site, "guard"))
    await site.protecting()


def _told(site: Site, kind: str) -> bool:
    return any(alert["kind"] == kind for alert in site.alerts())
