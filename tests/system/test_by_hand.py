"""``sitewarden substitute`` on a running site: shown, kept over a kill, no interlock's input."""

from pathlib import Path

import aiohttp
import pytest

from tests.helpers.harness import COIL, CONTACT, GAS, Site, site_text, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = pytest.mark.system

EXTRA = """
[[device]]
id = "mux"
driver = "modbus-tcp"
address = "{address}"
poll = "100ms"
timeout = "200ms"

[[tag]]
id = "level"
device = "mux"
point = {{ address = "hr:7" }}
range = [0, 10]
stale_after = "15s"
uncertain = "use"

[[tag]]
id = "twice"
value = "2 * level"

[[interlock]]
id = "overfill"
cause = "level >= 9"
effects = ["power0"]
response = "40s"
armed = true
on_bad = "ignore"
"""


@pytest.mark.timeout(60)
async def test_a_value_by_hand(tmp_path: Path) -> None:
    async with ModbusServer() as plc, ModbusServer() as mux:
        plc.set("c", COIL, 1)
        plc.link(COIL, CONTACT, ms=5)
        plc.set_float("ir", GAS, 0.3)
        mux.set("hr", 7, 3)
        await mux.sync()
        text = site_text([plc.address], extra=EXTRA.format(address=mux.address))
        async with Site(tmp_path, text) as site:
            await site.start()
            await site.ready()
            await site.protecting()
            await until("a level", lambda: _is(site, "level", 3.0, "GOOD"))
            refused = await site.cli("substitute", "gas0", "1", "--for", "1h", "--reason", "x")
            assert refused.code == 1
            assert "bypass gas0 --tag" in refused.err
            assert (await site.cli("substitute", "level", "9,5")).code == 2
            # 9.5 would trip, were it an input of the interlock.
            done = await site.cli("substitute", "level", "9.5", "--for", "1h", "--reason", "away")
            assert (done.code, done.err) == (0, "")
            await until("by hand", lambda: _is(site, "level", 9.5, "UNCERTAIN"))
            await until("what is made of it", lambda: _is(site, "twice", 19.0, "UNCERTAIN"))
            await site.kill_gateway()
            await site.start()
            await site.ready()
            await until("by hand again", lambda: _is(site, "level", 9.5, "UNCERTAIN"))
            shown = (await site.cli("tags")).out
            assert "BY HAND" in shown
            assert "away" in shown
            rows = (await site.cli("interlocks", "--json")).json()
            [leg] = next(row for row in rows if row["id"] == "overfill")["legs"]
            assert leg["result"] == "unknown"
            problems = (await site.cli("status", "--json")).json()["problems"]
            assert [p["id"] for p in problems if p["kind"] == "substitution"] == ["level"]
            assert (await site.cli("substitute", "level", "--end")).code == 0
            await until("read again", lambda: _is(site, "level", 3.0, "GOOD"))
            assert (await site.cli("substitute", "level", "--end")).code == 5
            assert [a for a in site.alerts() if a["kind"].startswith("trip")] == []
            said = [a for a in site.alerts() if a["source"]["kind"] == "substitution"]
            assert [(a["kind"], a["state"]) for a in said] == [
                ("command", "raised"), ("command", "cleared"),
            ]  # fmt: skip


async def _is(site: Site, ident: str, value: float, quality: str) -> bool:
    connector = aiohttp.UnixConnector(str(site.runtime / "gateway.sock"))
    try:
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://site/tags") as answer,
        ):
            rows = {row["id"]: row for row in await answer.json()}
    except aiohttp.ClientError:
        return False
    row = rows.get(ident, {})
    return (row.get("value"), row.get("quality")) == (value, quality)
