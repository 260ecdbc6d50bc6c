"""Canaries in every secret: none of them comes out anywhere, whatever goes wrong with a link."""

import asyncio
import json
import subprocess
from base64 import b64encode
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.helpers.harness import Site, site_text, until
from tests.helpers.http_script import Script, answers
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.mosquitto import Mosquitto
from tests.helpers.programs import find

pytestmark = pytest.mark.system

CANARY = "canary-7f3a"
WEBHOOK = b64encode(f"{CANARY}-webhook-secret".encode()).decode()
SECRETS = {
    "echo": {"username": "ann", "password": f"{CANARY}-echo", "webhook-secret": f"whsec_{WEBHOOK}"},
    "token": {"password": f"{CANARY}-token"},
    "broker": {"username": "ann", "password": f"{CANARY}-broker"},
    "proxy": {"username": "ann", "password": f"{CANARY}-proxy"},
    "key": {"cert.pem": "no certificate", "key.pem": f"-----BEGIN PRIVATE KEY-----\n{CANARY}-key"},
}
FOUND = [
    CANARY,
    WEBHOOK,
    *(b64encode(f"ann:{CANARY}-{name}".encode()).decode() for name in ("echo", "broker", "proxy")),
]


def _uplinks(echo: str, denying: str, broker: str) -> str:
    return f"""
[[uplink]]
id = "echo"
kind = "http"
url = "{echo}"
credentials = "echo"
sign = true

[[uplink]]
id = "token"
kind = "http"
url = "{denying}"
credentials = "token"

[[uplink]]
id = "broker"
kind = "mqtt"
url = "mqtt://{broker}"
credentials = "broker"

[[uplink]]
id = "by-proxy"
kind = "http"
url = "https://platform.invalid"
proxy = "{denying.removesuffix("/in")}"
proxy_credentials = "proxy"

[[uplink]]
id = "key"
kind = "http"
url = "https://127.0.0.1:1"
credentials = "key"
"""


async def _echo(request: web.Request) -> web.StreamResponse:
    """Refuses everything, and says back what it was told."""
    told = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    return web.Response(status=422, text=told)


@pytest.mark.timeout(60)
async def test_no_secret_is_shown_anywhere(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    for name, texts in SECRETS.items():
        (credentials / name).write_text(json.dumps(texts))
        (credentials / name).chmod(0o600)
    options = ["--credentials-dir", str(credentials)]
    (tmp_path / "broker").mkdir()
    async with (
        ModbusServer() as plc,
        Script(_echo).serving() as echo,
        Script(answers(403, "no")).serving() as denying,
        Mosquitto(tmp_path / "broker", lines=["allow_anonymous false"]) as broker,
    ):
        uplinks = _uplinks(echo.url, denying.url, f"127.0.0.1:{broker.port}")
        text = site_text([plc.address], extra=uplinks)
        async with Site(tmp_path, text) as site:
            await site.start(*options)
            await site.ready()
            await until("every link has failed", lambda: _all_told(site.log_text()))
            checked = await site.cli("check", str(site.file), *options)
            shown = [checked.out, checked.err, site.log_text()]
            answer = await site.cli("status", "--json")
            shown += [answer.out, answer.err]
            shown += [json.dumps(await site.get(path)) for path in ("/status", "/holdings")]
            shown.append(await _metrics(site))
            shown.append(await asyncio.to_thread(_processes))
            for pid in (site.endpoints()["pid"], site.guard_pid()):
                shown.append(Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace"))
            for secret in FOUND:
                assert not [text for text in shown if secret in text]
        for folder in (site.state, site.directory / "gateway.log"):
            _search(folder)
    assert echo.headers, "the echo was never asked"
    assert any("Basic" in headers.get("Authorization", "") for headers in echo.headers)
    assert "422" in site.log_text(), "what the echo said came nowhere"


def _all_told(log: str) -> bool:
    return all(
        word in log
        for word in ("echo", "token", "not authorised", "proxy answers", "load the certificates")
    )


def _processes() -> str:
    command = [find("ps"), "-eo", "args"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


async def _metrics(site: Site) -> str:
    url = f"{site.endpoints()['http']}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


def _search(place: Path) -> None:
    paths = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    assert paths
    for path in paths:
        data = path.read_bytes()
        assert not [secret for secret in FOUND if secret.encode() in data], path
