"""Credentials that are missing at first: a refused link that the file alone heals."""

import asyncio

import pytest
from aiohttp import BasicAuth, web
from aiohttp.test_utils import TestServer

from gateway.errors import GatewayError, UplinkError
from gateway.site.credentials import Credentials, Secret
from gateway.site.model import Uplink
from gateway.store.alert import AlertItem
from gateway.uplink import credentialed
from gateway.uplink.base import ACCEPTED, ALERT, Acknowledges, LinkRefusedError, Outgoing
from gateway.uplink.credentialed import CredentialedUplink
from gateway.uplink.message import Sender
from tests.helpers.pumping import Bench
from tests.helpers.uplinks import MemoryUplink, until

SENDER = Sender(gateway="g", site="s", uplink="platform")
ITEM = Outgoing(AlertItem(1, b'{"id":"g/1/1","kind":"trip","recorded":"x"}'), epoch=1)


class Safe:
    """A credential store; empty until ``password`` is set."""

    def __init__(self) -> None:
        self.password = ""

    def load(self, name: str) -> Credentials:
        if not self.password:
            msg = f"no credentials {name!r}"
            raise GatewayError(msg)
        return Credentials("gateway", Secret(self.password), None, None, None)


async def test_missing_then_wrong_then_right() -> None:
    seen: list[str] = []

    async def alerts(request: web.Request) -> web.Response:
        auth = BasicAuth.decode(request.headers["Authorization"])
        seen.append(f"{auth.login}:{auth.password}")
        return web.Response(status=200 if auth.password == "right" else 401)

    app = web.Application()
    app.router.add_post("/alerts", alerts)
    safe = Safe()
    async with TestServer(app) as server:
        config = Uplink(id="platform", kind="http", url=str(server.make_url("")), credentials="x")
        uplink = CredentialedUplink(config, SENDER, safe.load)
        with pytest.raises(LinkRefusedError, match="no credentials 'x'"):
            await uplink.connect()
        with pytest.raises(LinkRefusedError, match="no session"):
            await uplink.send(ALERT, [ITEM])
        for safe.password in ("wrong", "right"):
            await uplink.connect()
            try:
                verdicts = await uplink.send(ALERT, [ITEM])
            except LinkRefusedError:
                verdicts = []
            await uplink.close()
        assert verdicts == [ACCEPTED]
        assert uplink.acknowledges == Acknowledges.STORED
    assert seen == ["gateway:wrong", "gateway:right"]


class Expiring(MemoryUplink):
    """A platform that refuses what a session was begun with."""

    credentials: Credentials | None = None

    async def lost(self) -> None:
        if self.error:
            raise self.error
        await asyncio.Event().wait()


@pytest.mark.parametrize("by", ["send", "lost"])
async def test_what_was_renewed_in_time_is_no_refused_link(
    monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """A certificate that ends while the session of its predecessor lasts."""
    safe, platform = Safe(), Expiring()
    safe.password = "first"
    monkeypatch.setattr(credentialed, "make_uplink", lambda *_: platform)
    config = Uplink(id="platform", kind="http", url="https://platform", credentials="x")
    uplink = CredentialedUplink(config, SENDER, safe.load)

    async def use() -> None:
        if by == "send":
            await uplink.send(ALERT, [ITEM])
        else:
            await uplink.lost()

    await uplink.connect()
    platform.error = LinkRefusedError("SSLV3_ALERT_CERTIFICATE_EXPIRED")
    with pytest.raises(LinkRefusedError):
        await use()
    safe.password = "second"
    with pytest.raises(UplinkError, match="EXPIRED; the credentials are other ones now") as found:
        await use()
    assert not isinstance(found.value, LinkRefusedError)


@pytest.mark.usefixtures("quick")
async def test_a_token_that_is_renewed_is_taken_up_without_a_restart(bench: Bench) -> None:
    valid = "first"
    refused = 0

    async def take(request: web.Request) -> web.Response:
        nonlocal refused
        given = BasicAuth.decode(request.headers["Authorization"]).password
        refused += given != valid
        return web.Response(status=200 if given == valid else 401)

    app = web.Application()
    app.router.add_post("/{path:.*}", take)
    safe = Safe()
    safe.password = valid
    async with TestServer(app) as server:
        config = Uplink(id="platform", kind="http", url=str(server.make_url("")), credentials="x")
        uplink = CredentialedUplink(config, SENDER, safe.load)
        async with bench.running(uplink) as pump:
            bench.ledger.put()
            await until(lambda: pump.stats().sent["alert"] == 1)
            valid = "second"
            bench.ledger.put()
            await until(lambda: refused >= 3)
            assert pump.stats().connects == 1, "the same ones are worth no new session"
            safe.password = ""  # being written
            seen = refused
            await until(lambda: refused > seen)
            safe.password = valid
            await until(lambda: pump.stats().sent["alert"] == 2)
            assert pump.stats().connects == 2
            assert not bench.problems.active
