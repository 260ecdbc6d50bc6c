"""The HTTP uplink against the receiving platform and against servers that misbehave."""

import asyncio
import json
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import UplinkError
from gateway.site.model import Duration
from gateway.uplink.base import ACCEPTED, LinkRefusedError, Outgoing, Refused, Retry
from gateway.uplink.http import BATCH_BYTES_MAX, HttpUplink
from gateway.uplink.http_answer import DENIED_RETRY_S
from tests.helpers.certificates import make_authority
from tests.helpers.http_script import Handler, Held, Kept, Script, answers, connected
from tests.helpers.uplinks import SENDER, alert_out, config_of, row_out


async def test_alerts_and_samples_have_their_places_and_forms() -> None:
    async with Script().serving() as server, connected(server.url) as uplink:
        assert await uplink.send("alert", [alert_out(1), alert_out(2)]) == [ACCEPTED, ACCEPTED]
        assert await uplink.send("live", [row_out(1)]) == [ACCEPTED]
        assert await uplink.send("backfill", [row_out(2)]) == [ACCEPTED]
    (first, alerts), (second, live), (third, backfill) = server.posts
    assert (first, second, third) == ("/in/alerts", "/in/samples", "/in/samples")
    assert [event["data"]["seq"] for event in alerts["alerts"]] == [1, 2]
    assert {event["specversion"] for event in alerts["alerts"]} == {"1.0"}
    assert [(m["seq"], m["historical"]) for m in live["samples"]] == [(1, False)]
    assert [(m["seq"], m["historical"]) for m in backfill["samples"]] == [(2, True)]
    assert server.headers[0]["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_2xx_is_stored(status: int) -> None:
    async with Script(answers(status)).serving() as server, connected(server.url) as uplink:
        assert await uplink.send("alert", [alert_out()]) == [ACCEPTED]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_batch_is_halved_until_the_one_is_found(status: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        sent = json.loads(await request.read())["alerts"]
        poison = any(event["data"]["seq"] == 6 for event in sent)
        return web.Response(status=status if poison else 200, text="seq 6 is odd")

    async with Script(answer).serving() as server, connected(server.url) as uplink:
        verdicts = await uplink.send("alert", [alert_out(seq) for seq in range(1, 17)])
    refused = Refused(f"http_{status}", "seq 6 is odd")
    assert verdicts == [refused if seq == 6 else ACCEPTED for seq in range(1, 17)]
    assert len(server.posts) == 1 + 2 * 4


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407, 410, 415])
async def test_a_link_that_is_not_allowed_is_no_item_at_fault(status: int) -> None:
    answer = answers(status, "<html>nginx</html>", Content_Type="text/html")
    async with Script(answer).serving() as server, connected(server.url) as uplink:
        verdicts = await uplink.send("alert", [alert_out(seq) for seq in (1, 2, 3)])
    assert len(server.posts) == 1
    for verdict in verdicts:
        assert isinstance(verdict, Retry)
        assert verdict.denied
        assert verdict.after_s == DENIED_RETRY_S
        assert str(status) in verdict.reason


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 599])
async def test_a_platform_in_trouble_is_asked_again(status: int) -> None:
    async with Script(answers(status)).serving() as server, connected(server.url) as uplink:
        (verdict,) = await uplink.send("alert", [alert_out()])
    assert isinstance(verdict, Retry)
    assert not verdict.denied
    assert verdict.after_s == 0.0


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0", 0.0), ("86400", 3600.0), ("-3", 0.0), ("soon", 0.0), ("", 0.0)],
)
async def test_retry_after_in_seconds(status: int, text: str, seconds: float) -> None:
    answer = answers(status, Retry_After=text)
    async with Script(answer).serving() as server, connected(server.url) as uplink:
        (verdict,) = await uplink.send("alert", [alert_out()])
    assert isinstance(verdict, Retry)
    assert verdict.after_s == seconds


async def test_retry_after_as_a_date_is_measured_by_the_servers_clock() -> None:
    wrong = datetime(2001, 1, 1, tzinfo=UTC)
    answer = answers(
        503,
        Date=format_datetime(wrong, usegmt=True),
        Retry_After=format_datetime(wrong + timedelta(seconds=90), usegmt=True),
    )
    async with Script(answer).serving() as server, connected(server.url) as uplink:
        (verdict,) = await uplink.send("alert", [alert_out()])
    assert isinstance(verdict, Retry)
    assert verdict.after_s == 90.0


@pytest.mark.parametrize(
    "answer",
    [
        answers(302, Location="http://127.0.0.1:1/login"),
        answers(301, Location="/in/alerts/"),
        answers(307, Location="/in/alerts/"),
        answers(200, "Please log in", Content_Type="text/html; charset=utf-8"),
        answers(200, "\n<!DOCTYPE html><title>Hotel</title>", Content_Type="text/plain"),
        answers(200, "<html></html>"),
        answers(207, '{"errors": 1}', Content_Type="application/json"),
    ],
)
async def test_a_captive_portal_has_stored_nothing(answer: Handler) -> None:
    async with Script(answer).serving() as server, connected(server.url) as uplink:
        verdicts = await uplink.send("alert", [alert_out(1), alert_out(2)])
    assert len(server.posts) == 1  # nothing was followed
    assert all(isinstance(verdict, Retry) and not verdict.denied for verdict in verdicts)


async def test_no_server_is_nothing_known() -> None:
    async with Script().serving() as server:
        pass
    async with connected(server.url) as uplink:
        with pytest.raises(UplinkError, match=r"127\.0\.0\.1"):
            await uplink.send("alert", [alert_out()])


async def test_a_name_is_resolved_and_a_wrong_one_is_nothing_known() -> None:
    async with (
        Script().serving() as server,
        connected(server.url.replace("127.0.0.1", "localhost")) as uplink,
    ):
        assert await uplink.send("alert", [alert_out()]) == [ACCEPTED]
    async with connected("http://no-such-host.invalid/in") as uplink:
        with pytest.raises(UplinkError, match=r"no-such-host\.invalid"):
            await uplink.send("alert", [alert_out()])


async def test_a_connection_cut_in_the_answer_is_nothing_known() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with Script(answer).serving() as server, connected(server.url) as uplink:
        with pytest.raises(UplinkError):
            await uplink.send("alert", [alert_out()])


async def test_a_silent_server_is_nothing_known() -> None:
    free = asyncio.Event()

    async def answer(_request: web.Request) -> web.StreamResponse:
        await free.wait()
        return web.Response()

    async with (
        Script(answer).serving() as server,
        connected(server.url, timeout=Duration(100_000_000)) as uplink,
    ):
        with pytest.raises(UplinkError, match="no answer in time"):
            await uplink.send("alert", [alert_out()])
        free.set()


async def test_what_is_known_of_some_is_kept_when_the_link_fails() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if len(server.posts) > 1:
            assert request.transport is not None
            request.transport.abort()
        return web.Response()

    server = Script(answer)
    body = b'{"id":"x","kind":"alarm","recorded":"","cause":"' + b"x" * 100_000 + b'"}'
    assert BATCH_BYTES_MAX < 100_000 * 3
    async with server.serving(), connected(server.url) as uplink:
        verdicts = await uplink.send("alert", [alert_out(seq, body) for seq in range(1, 5)])
    assert verdicts[:2] == [ACCEPTED, ACCEPTED]
    assert all(isinstance(verdict, Retry) for verdict in verdicts[2:])


async def test_an_unreadable_item_is_refused_and_the_others_pass() -> None:
    async with Script().serving() as server, connected(server.url) as uplink:
        items: list[Outgoing] = [alert_out(1), alert_out(2, b"not JSON"), alert_out(3)]
        first, second, third = await uplink.send("alert", items)
    assert (first, third) == (ACCEPTED, ACCEPTED)
    assert isinstance(second, Refused)
    assert second.reason == "unreadable"


@pytest.mark.parametrize(
    ("held", "header"),
    [
        (Held("ann", Kept("pa55")), "Basic YW5uOnBhNTU="),
        (Held(None, Kept("token-1")), "Bearer token-1"),
        (Held("ann"), None),
        (None, None),
    ],
)
async def test_authorization(held: Held | None, header: str | None) -> None:
    async with Script().serving() as server, connected(server.url, credentials=held) as uplink:
        await uplink.send("alert", [alert_out()])
    assert server.headers[0].get("Authorization") == header


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("certificates"))


def _server_context(authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority / "ca.pem"))
    context.load_cert_chain(authority / "server.pem", authority / "server-key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_tls_with_a_client_certificate(authority: Path) -> None:
    held = Held(
        ca_path=authority / "ca.pem",
        cert_path=authority / "client.pem",
        key_path=authority / "client-key.pem",
    )
    async with (
        Script().serving(_server_context(authority)) as server,
        connected(server.url, credentials=held) as uplink,
    ):
        assert await uplink.send("alert", [alert_out()]) == [ACCEPTED]
        assert uplink.certificate_not_after_utc_ns > 1_700_000_000_000_000_000


async def test_an_unknown_authority_is_a_link_refused(authority: Path) -> None:
    async with (
        Script().serving(_server_context(authority)) as server,
        connected(server.url) as uplink,
    ):
        with pytest.raises(LinkRefusedError, match="certificate"):
            await uplink.send("alert", [alert_out()])


async def test_a_missing_certificate_file_is_a_link_refused(tmp_path: Path) -> None:
    held: Any = Held(ca_path=tmp_path / "ca.pem")
    uplink = HttpUplink(config_of("https://127.0.0.1:1", kind="http"), SENDER, held)
    with pytest.raises(LinkRefusedError, match=r"ca\.pem"):
        await uplink.connect()
