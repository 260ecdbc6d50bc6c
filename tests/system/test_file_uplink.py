"""A whole gateway over a file uplink: killed in the middle, nothing is missing in the directory."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.certificates import issue, make_authority
from tests.helpers.harness import Site, site_text, until
from tests.helpers.modbus_server import ModbusServer

pytestmark = pytest.mark.system


def _open_files(directory: Path) -> set[Path]:
    return set(directory.glob(".*-live.ndjson.part"))


def _messages(directory: Path, lane: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(directory.glob(f"*-{lane}.ndjson"))
        for line in path.read_text().splitlines()
    ]


def _whole(messages: list[dict[str, Any]]) -> list[int]:
    """The sequences without doubles; a gap fails."""
    seqs = sorted({message["seq"] for message in messages})
    assert seqs == list(range(1, len(seqs) + 1))
    assert len({(message["epoch"], message["seq"]) for message in messages}) == len(seqs)
    return seqs


def _starts(directory: Path) -> int:
    causes = {alert["id"]: alert.get("cause", "") for alert in _messages(directory, "alerts")}
    return sum("the gateway has started" in cause for cause in causes.values())


@pytest.mark.timeout(60)
async def test_a_kill_leaves_files_in_which_nothing_is_missing(tmp_path: Path) -> None:
    directory, credentials = tmp_path / "out", tmp_path / "credentials"
    directory.mkdir()
    authority = make_authority(credentials / "platform")
    issue(authority, "cert", until=timedelta(days=5))
    (authority / "cert-key.pem").rename(authority / "key.pem")
    (authority / "key.pem").chmod(0o600)
    uplinks = f"""
[[uplink]]
id = "usb"
kind = "file"
url = "file://{directory}"
rotate_after = "1s"

[[uplink]]
id = "platform"
kind = "http"
url = "https://127.0.0.1:1"
credentials = "platform"
"""
    options = ["--credentials-dir", str(credentials)]

    def text(address: str) -> str:
        made = site_text([address], extra=uplinks, poll="100ms")
        return made.replace("fast = true", 'fast = true\nrecord = "all"')

    async with ModbusServer() as plc, Site(tmp_path, text(plc.address)) as site:
        await site.start(*options)
        await site.ready()
        await until("samples in a file", lambda: len(_messages(directory, "live")) > 1)
        before = _open_files(directory)
        await until("a new file", lambda: bool(_open_files(directory) - before))
        await site.kill_gateway()
        assert _open_files(directory)  # it was in the middle of one
        await site.start(*options)
        await until("the second start in a file", lambda: _starts(directory) == 2)
        (ending,) = [
            alert for alert in site.alerts() if alert["source"]["kind"] == "uplink_certificate"
        ]
        assert await site.stop() == 0
    assert ending["source"]["id"] == "platform/client/7d"
    assert "our own certificate ends within 7 days" in ending["cause"]
    assert not list(directory.glob(".*"))  # an orderly end leaves whole files
    assert len(_whole(_messages(directory, "alerts"))) >= 3
    _whole(_messages(directory, "live"))
    _whole(_messages(directory, "backfill"))
