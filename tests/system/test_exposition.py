"""/metrics as Prometheus's own tool sees it."""

import subprocess
from pathlib import Path

import aiohttp
import pytest

from tests.helpers.harness import COIL, CONTACT, Site, site_text
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform
from tests.helpers.programs import find

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]


async def test_promtool_accepts_the_metrics(tmp_path: Path) -> None:
    promtool = find("promtool")
    async with (
        ModbusServer() as device,
        Platform() as platform,
        Site(tmp_path, site_text([device.address], url=platform.url)) as site,
    ):
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT)
        await site.start()
        await site.ready()
        await site.protecting()
        base = site.endpoints()["http"]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/metrics") as answer:
                text = await answer.text()
            async with session.get(f"{base}/healthz") as answer:
                assert answer.status == 200
    assert _check(promtool, text) == (0, "")
    assert "sitewarden_build_info" in text


def _check(promtool: str, text: str) -> tuple[int, str]:
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr
