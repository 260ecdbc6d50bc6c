"""An uplink that goes out of the site file with something owed to it: refused, or given up."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.helpers.harness import Site, until
from tests.helpers.platform import Platform

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SIMULATED = """
[[device]]
id = "fake"
driver = "sim"
poll = "200ms"
record = "all"
[[tag]]
id = "count"
device = "fake"
point = { address = "counter" }
"""
LANES = 'lanes = ["alert", "live", "backfill"]'
DEAD = '[[uplink]]\nid = "dead"\nkind = "http"\nurl = "http://127.0.0.1:1"\nlanes = ["alert"]\n'


def _text(platform: Platform, *, dead: bool, discard: str = "") -> str:
    return "\n".join(
        [
            f'[site]\nid = "test-site"\n{discard}\n[view]\nlisten = "127.0.0.1:0"',
            f'[[uplink]]\nid = "platform"\nkind = "http"\nurl = "{platform.url}"\n',
            DEAD if dead else "",
        ]
    )


@pytest_asyncio.fixture
async def platform() -> AsyncIterator[Platform]:
    async with Platform() as one:
        yield one


def _audit(site: Site) -> list[dict[str, Any]]:
    sql = "SELECT body FROM audit WHERE kind = 'command' AND action = 'discard uplink'"
    return [json.loads(body) for (body,) in site.ledger(sql)]


async def test_it_is_refused_until_the_site_file_gives_it_up(
    tmp_path: Path, platform: Platform
) -> None:
    with_it = _text(platform, dead=True)
    without = _text(platform, dead=False)
    given_up = _text(platform, dead=False, discard='discard_uplinks = ["dead"]')
    renamed = with_it.replace('id = "dead"', 'id = "other"')
    async with Site(tmp_path, with_it) as site:
        await site.start()
        await site.ready()
        await until("alerts in the ledger", lambda: len(site.alerts()) >= 1)
        for text in (without, renamed):  # at a reload
            site.file.write_text(text)
            answer = await site.cli("reload")
            assert answer.code == 2, answer
            assert "no [[uplink]] 'dead' any more" in answer.err
            assert "discard_uplinks" in answer.err
        assert await site.stop() == 0
        await site.start()  # and at a start
        assert site.process is not None
        assert await site.process.wait() == 1
        assert "sitewarden: site.discard_uplinks: found no [[uplink]] 'dead'" in site.log_text()
        assert not _audit(site)
        site.file.write_text(with_it)  # it is back and nothing was lost
        await site.start()
        await site.ready()
        status = (await site.cli("status", "--json")).json()
        backlog = {row["id"]: row["backlog"]["alerts"] for row in status["uplinks"]}
        assert backlog["dead"] >= len(site.alerts()) - 2
        site.file.write_text(given_up)
        answer = await site.cli("reload")
        assert answer.code == 0, answer
        await until("it is parted with", lambda: len(_audit(site)) == 1)
        (entry,) = _audit(site)
        assert entry["target"] == "dead"
        assert entry["detail"]["alerts"] >= 1
        await site.ready()
        await site.stop()
        site.file.write_text(without)  # nothing is kept for it: no word is needed any more
        await site.start()
        await site.ready()
        assert len(_audit(site)) == 1
    rows = site.ledger("SELECT uplink FROM cursor")
    assert rows == [("platform",)]


async def test_a_lane_that_is_owed_something_is_given_up_by_the_site_file_too(
    tmp_path: Path, platform: Platform
) -> None:
    whole = _text(platform, dead=True).replace('lanes = ["alert"]', LANES) + SIMULATED
    without = whole.replace(LANES, 'lanes = ["live"]')
    given_up = without.replace(
        'id = "test-site"', 'id = "test-site"\ndiscard_uplinks = ["dead/alert", "dead/backfill"]'
    )
    async with Site(tmp_path, whole) as site:
        await site.start()
        await site.ready()
        await until("alerts in the ledger", lambda: len(site.alerts()) >= 1)
        await until("backlog", lambda: _waits(site, "backfill"))
        site.file.write_text(without)
        answer = await site.cli("reload")
        assert answer.code == 2, answer
        assert "no lane 'alert' of 'dead' any more, which has" in answer.err
        assert "no lane 'backfill' of 'dead' any more, which has 0 alerts and" in answer.err
        assert "discard_uplinks = ['dead/alert']" in answer.err
        assert not _audit(site)
        site.file.write_text(given_up)
        answer = await site.cli("reload")
        assert answer.code == 0, answer
        await until("they are parted with", lambda: len(_audit(site)) == 2)
        assert {entry["target"] for entry in _audit(site)} == {"dead/alert", "dead/backfill"}
        await site.ready()
        await site.stop()
        site.file.write_text(without)  # nothing is kept there: no word is needed any more
        await site.start()
        await site.ready()
        assert len(_audit(site)) == 2


async def _waits(site: Site, lane: str) -> bool:
    status = (await site.cli("status", "--json")).json()
    return any(row["id"] == "dead" and row["backlog"][lane] for row in status["uplinks"])
