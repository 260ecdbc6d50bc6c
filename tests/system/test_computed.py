"""Computed tags in a whole site: shown, alarmed, told to the guard, from before the start on."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from fastpath.codes import Quality
from fastpath.messages import SAMPLE
from gateway.build import poll_groups
from gateway.check import check_site
from gateway.store.history import History
from tests.helpers.harness import COIL, CONTACT, GAS, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

S = 1_000_000_000
EXTRA = """
[[tag]]
id = "double"
value = "gas0 * 2"
limits = { high = 1.5 }

[[tag]]
id = "both"
value = "double > 1 and closed0"

[[tag]]
id = "past"
value = "mean(gas0, 11m)"

[[interlock]]
id = "old-gas"
cause = "past > 0.8"
on_bad = "ignore"
effects = []
response = "30s"
armed = false
"""


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ModbusServer]:
    async with ModbusServer(tmp_path / "requests") as running:
        running.set("c", COIL, 1)
        running.set("di", CONTACT, 1)
        running.set_float("ir", GAS, 0.5)
        yield running


async def seed(site: Site) -> None:
    """A quarter of an hour of 0.9 in the history, as an earlier life left it."""
    config = check_site(site.file).config
    index = [tag.id for tag in config.tag].index("gas0")
    site.state.mkdir(mode=0o750)
    history = await History.open(site.state / "history.db", groups=poll_groups(config))
    now_ns = time.time_ns()
    times = range(now_ns - 900 * S, now_ns, S)
    history.add(
        b"".join(SAMPLE.pack(index, Quality.GOOD, 0, 0, 0.9, at_ns, at_ns) for at_ns in times)
    )
    await history.commit()
    await history.close()


async def shown(site: Site, command: str) -> dict[str, dict[str, Any]]:
    answer = await site.cli(command, "--json")
    return {item["id"]: item for item in json.loads(answer.out)}


async def test_computed_tags_in_a_site(tmp_path: Path, server: ModbusServer) -> None:
    async with Site(tmp_path, site_text([server.address], extra=EXTRA)) as site:
        await seed(site)
        await site.start()
        await site.ready()
        await site.protecting()

        async def tripped() -> bool:
            state: str = (await shown(site, "interlocks"))["old-gas"]["state"]
            return state == "TRIPPED"

        await until("the guard knows what was", tripped)
        tags = await shown(site, "tags")
        assert (tags["double"]["value"], tags["double"]["quality"]) == (1.0, "GOOD")
        assert (tags["double"]["unit"], tags["both"]["value"]) == ("%CH4", 0.0)
        assert 0.85 < tags["past"]["value"] <= 0.9

        server.set_float("ir", GAS, 0.9)
        await until(
            "the alarm of a computed tag",
            lambda: any(alert["source"]["id"] == "double.high" for alert in site.alerts()),
        )
        tags = await shown(site, "tags")
        assert (tags["double"]["value"], tags["both"]["value"]) == (pytest.approx(1.8), 1.0)
