"""The HTTP uplink towards platforms, proxies and servers that each have ways of their own."""

import asyncio
import gzip
import json
import subprocess
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import UplinkError
from gateway.site.model import Size
from gateway.uplink import webhook
from gateway.uplink.base import ACCEPTED, LinkRefusedError, Refused, Retry
from gateway.uplink.http_answer import ANSWER_BYTES_MAX
from tests.helpers.certificates import make_authority
from tests.helpers.http_script import Handler, Held, Kept, Script, answers, connected
from tests.helpers.programs import find
from tests.helpers.uplinks import EPOCH, alert_out, row_out

KEYS = (b"k" * 24, b"a new key of 32 bytes, or nearly")
SECRETS = [f"whsec_{b64encode(key).decode()}" for key in KEYS]
JSON = {"Content_Type": "application/json"}


# Errors of single items


@pytest.mark.parametrize("status", [200, 207])
@pytest.mark.parametrize("by", ["id", "seq"])
async def test_only_the_items_that_the_answer_names_are_refused(status: int, by: str) -> None:
    named: dict[str, Any] = {"id": f"gw-1/{EPOCH}/3"} if by == "id" else {"seq": 3}
    text = json.dumps({"errors": [{**named, "reason": "no such tag"}], "accepted": 4})
    async with (
        Script(answers(status, text, **JSON)).serving() as server,
        connected(server.url) as uplink,
    ):
        verdicts = await uplink.send("alert", [alert_out(seq) for seq in range(1, 6)])
    assert len(server.posts) == 1
    refused = Refused("platform", "no such tag")
    assert verdicts == [refused if seq == 3 else ACCEPTED for seq in range(1, 6)]


@pytest.mark.parametrize(
    "text",
    [
        b'\xef\xbb\xbf{"errors": [{"seq": 2, "reason": "x"}]}',
        '{"errors": [{"seq": 2, "reason": "x", "value": NaN}]}',
        '{"errors": [{"seq": 2, "reason": "x"}], "text": "\u00dc"}'.encode("latin-1"),
        '{"errors": [{"seq": 2, "reason": "x"}]}'.encode("utf-16"),
        '{"errors": [{"seq": 2, "reason": "x"}]}'.encode("utf-16-be"),
        '{"errors": [{"seq": 2, "reason": "x"}]}'.encode("utf-32-le"),
    ],
)
async def test_errors_are_read_however_they_are_written(text: str | bytes) -> None:
    async with Script(answers(200, text)).serving() as server, connected(server.url) as uplink:
        verdicts = await uplink.send("alert", [alert_out(1), alert_out(2)])
    assert verdicts == [ACCEPTED, Refused("platform", "x")]


async def test_samples_are_named_by_their_sequence() -> None:
    text = '{"errors": [{"seq": 2, "reason": "too old"}]}'
    async with Script(answers(207, text)).serving() as server, connected(server.url) as uplink:
        verdicts = await uplink.send("backfill", [row_out(1), row_out(2)])
    assert verdicts == [ACCEPTED, Refused("platform", "too old")]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (207, "{}"),
        (207, ""),
        (207, '{"errors": true, "items": []}'),
        (207, '{"errors": [{"reason": "one of them"}]}'),
        (200, '{"errors": [{"seq": 77, "reason": "never sent"}]}'),
        (200, '{"errors": ["bad"]}'),
        (200, '{"error": "database is down"}'),
        (200, '{"success": false}'),
        (202, '{"ok": false, "message": "no"}'),
        (200, '{"status": "error", "code": 17}'),
        (200, '{"v": "' + "x" * ANSWER_BYTES_MAX + '"}'),
        (200, b'\xef\xbb\xbf{"error": "by a server that begins so"}'),
        (200, '{"error": "ung\u00fcltig"}'.encode("latin-1")),
        (200, '{"errors": [{"reason": "no number", "value": NaN}]}'),
        (200, '{"success": false, "text": "ung\u00fcltig"}'.encode("latin-1")),
        (200, '{"errors": [{"id": "gw-1/'),
        (200, "[" * 100_000),
    ],
)
async def test_success_is_what_the_platform_is_asked_to_say(status: int, text: str | bytes) -> None:
    async with (
        Script(answers(status, text, **JSON)).serving() as server,
        connected(server.url) as uplink,
    ):
        verdicts = await uplink.send("alert", [alert_out(1), alert_out(2)])
    assert len(server.posts) == 1
    for verdict in verdicts:
        assert isinstance(verdict, Retry)
        assert not verdict.denied
        assert verdict.reason


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, "OK"),
        (200, "[]"),
        (200, b"\xff\xfe{ok}"),
        (200, "OK, 0 errors"),
        (200, "no error".encode("utf-16")),
        (200, "<ack><errors/></ack>"),
        (200, "\0"),
        (200, '{"errors": []}'),
        (207, '{"errors": []}'),
        (201, '{"status": "ok", "error": null, "errors": null}'),
    ],
)
async def test_what_else_a_success_may_say(status: int, text: str | bytes) -> None:
    async with Script(answers(status, text)).serving() as server, connected(server.url) as uplink:
        assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]


@pytest.mark.parametrize("name", ["gzip", "deflate"])
async def test_of_an_answer_that_unpacks_to_a_bomb_no_more_is_held_than_is_looked_at(
    name: str,
) -> None:
    packer = zlib.compressobj(9, wbits=31 if name == "gzip" else 15)
    packed = b"".join(packer.compress(b" " * 1_000_000) for _ in range(200)) + packer.flush()
    answer = answers(200, packed, Content_Encoding=name)
    async with Script(answer).serving() as server, connected(server.url) as uplink:
        tracemalloc.start()
        try:
            (verdict,) = await uplink.send("alert", [alert_out(1)])
            most_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert isinstance(verdict, Retry)
    assert most_bytes < 16 * ANSWER_BYTES_MAX


async def test_what_is_no_number_is_null() -> None:
    async with Script().serving() as server, connected(server.url) as uplink:
        assert await uplink.send("live", [row_out(1)]) == [ACCEPTED]  # the script refuses NaN
    ((_path, body),) = server.posts
    assert body["samples"][0]["v"][1] == [3.0, None]


# Signatures, identities, compression


def _verified(server: Script, secret: str) -> list[Any]:
    from standardwebhooks import Webhook

    return [
        Webhook(secret).verify(body, headers)
        for body, headers in zip(server.bodies, server.headers, strict=True)
    ]


@pytest.mark.parametrize("gzip_above", [None, Size(0)])
async def test_signatures_are_what_standardwebhooks_verifies(gzip_above: Size | None) -> None:
    pytest.importorskip("standardwebhooks", reason="standardwebhooks is not installed")
    from standardwebhooks.webhooks import WebhookVerificationError

    held = Held(webhook_secret=Kept("\n".join(SECRETS)))
    async with (
        Script().serving() as server,
        connected(server.url, credentials=held, sign=True, gzip_above=gzip_above) as uplink,
    ):
        await uplink.send("alert", [alert_out(1, _body("甲烷"))])
        await uplink.send("live", [row_out(1)])
    for secret in SECRETS:  # with the old one and with the new one
        first, second = _verified(server, secret)
        assert "alerts" in first
        assert "samples" in second
    server.bodies[0] += b" "
    with pytest.raises(WebhookVerificationError):
        _verified(server, SECRETS[0])


def test_a_signature_is_what_openssl_makes(tmp_path: Path) -> None:
    body = b'{"alerts":[]}'
    made = webhook.headers(KEYS[:1], "msg_1", 1_700_000_000, body)
    (tmp_path / "signed").write_bytes(b"msg_1.1700000000." + body)
    command = [find("openssl"), "dgst", "-sha256", "-hmac", KEYS[0].decode(), "-binary", "signed"]
    digest = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    assert made["webhook-signature"] == f"v1,{b64encode(digest).decode()}"


async def test_the_same_content_has_the_same_key() -> None:
    async with Script().serving() as server:
        for _ in range(2):  # also in another session
            async with connected(server.url) as uplink:
                await uplink.send("alert", [alert_out(1), alert_out(2)])
                await uplink.send("alert", [alert_out(3)])
    first, second, again, second_again = [headers["Idempotency-Key"] for headers in server.headers]
    assert (first, second) == (again, second_again)
    assert first != second


async def test_without_a_secret_there_is_no_session() -> None:
    with pytest.raises(LinkRefusedError, match="no webhook-secret"):
        async with connected("http://127.0.0.1:1", credentials=Held(), sign=True):
            pass


async def test_bodies_above_a_size_are_compressed() -> None:
    raw: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        raw.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(take, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, connected(f"http://127.0.0.1:{port}", gzip_above=Size(2_000)) as uplink:
        assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]
        many = [alert_out(seq) for seq in range(1, 11)]
        assert await uplink.send("alert", many) == [ACCEPTED] * 10
    small, large = raw
    assert b"Content-Encoding" not in small
    head, _, body = large.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert len(json.loads(gzip.decompress(body))["alerts"]) == 10
    assert len(body) < 2_000


# Connections


async def test_a_connection_that_the_server_closed_while_idle_is_opened_again() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers once with keep-alive, then hangs up when the next request comes."""
        nonlocal connections
        connections += 1
        for answered in (False, True):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if not answered:
                writer.write(b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n")
                await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, connected(f"http://127.0.0.1:{port}") as uplink:
        for seq in range(1, 5):
            assert await uplink.send("alert", [alert_out(seq)]) == [ACCEPTED]
    assert connections == 4


async def test_a_server_that_always_hangs_up_is_nothing_known() -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, connected(f"http://127.0.0.1:{port}") as uplink:
        with pytest.raises(UplinkError):
            await uplink.send("alert", [alert_out(1)])


# Proxies


class HttpProxy:
    """A forwarding proxy: CONNECT by a tunnel, absolute URLs by an answer of its own."""

    def __init__(self, authorization: str = "") -> None:
        self.heads: list[bytes] = []
        self.url = ""
        self._authorization = authorization

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["HttpProxy"]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with listener:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self._authorization.encode() not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            elif not head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            else:
                host, _, port = head.split()[1].decode().partition(":")
                await self._tunnel(reader, writer, host, int(port))
            await writer.drain()
        finally:
            writer.close()

    async def _tunnel(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
    ) -> None:
        there, out = await asyncio.open_connection(host, port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, out), _copy(there, writer), return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


ANN = Held("ann", Kept("pr0xy-pa55"))
AUTHORIZATION = "Proxy-Authorization: Basic " + b64encode(b"ann:pr0xy-pa55").decode()


async def test_a_plain_request_goes_through_the_proxy() -> None:
    async with (
        HttpProxy(AUTHORIZATION).serving() as proxy,
        connected("http://platform.invalid/in", proxy=proxy.url, by_proxy=ANN) as uplink,
    ):
        assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]
    (head,) = proxy.heads
    assert head.startswith(b"POST http://platform.invalid/in/alerts ")


async def test_tls_goes_through_a_tunnel_of_the_proxy(tmp_path: Path) -> None:
    import ssl

    authority = make_authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "server.pem", authority / "server-key.pem")
    held = Held(None, Kept("token-1"), ca_path=authority / "ca.pem")
    async with (
        HttpProxy(AUTHORIZATION).serving() as proxy,
        Script().serving(context) as server,
        connected(server.url, proxy=proxy.url, by_proxy=ANN, credentials=held) as uplink,
    ):
        assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]
        assert uplink.certificate_not_after_utc_ns > 0
    (head,) = proxy.heads
    assert head.startswith(b"CONNECT ")
    assert b"token-1" not in head  # the platform's secret is none of the proxy's business
    assert "Proxy-Authorization" not in server.headers[0]  # nor the other way round


@pytest.mark.parametrize("tls", [False, True])
async def test_a_proxy_that_lets_nobody_through(tls: bool) -> None:
    url = f"http{'s' if tls else ''}://platform.invalid/in"
    async with (
        HttpProxy(AUTHORIZATION).serving() as proxy,
        connected(url, proxy=proxy.url) as uplink,
    ):
        if tls:
            with pytest.raises(LinkRefusedError, match="the proxy answers with status 407"):
                await uplink.send("alert", [alert_out(1)])
        else:
            (verdict,) = await uplink.send("alert", [alert_out(1)])
            assert isinstance(verdict, Retry)
            assert verdict.denied


async def test_the_environments_proxy_counts_where_the_site_file_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with HttpProxy(AUTHORIZATION).serving() as proxy, Script().serving() as server:
        named = proxy.url.replace("//", "//ann:pr0xy-pa55@")
        monkeypatch.setenv("http_proxy", named)
        monkeypatch.delenv("no_proxy", raising=False)
        async with connected(server.url) as uplink:
            assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]
        assert (len(proxy.heads), len(server.posts)) == (0, 1)
        async with connected(server.url, proxy="environment") as uplink:
            assert await uplink.send("alert", [alert_out(2)]) == [ACCEPTED]
        assert (len(proxy.heads), len(server.posts)) == (1, 1)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with connected(server.url, proxy="environment") as uplink:
            assert await uplink.send("alert", [alert_out(3)]) == [ACCEPTED]
        assert (len(proxy.heads), len(server.posts)) == (1, 2)


# Secrets


async def test_a_server_that_repeats_what_it_was_sent_teaches_us_no_secret() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(status=400, text=f"bad: {request.headers['Authorization']}")

    answer: Handler = echo
    for held in (Held("ann", Kept("pa55")), Held(None, Kept("t0ken"))):
        async with (
            Script(answer).serving() as server,
            connected(server.url, credentials=held) as uplink,
        ):
            (verdict,) = await uplink.send("alert", [alert_out(1)])
        assert isinstance(verdict, Refused)
        assert verdict.detail in ("bad: Basic ***", "bad: Bearer ***")


def _body(cause: str) -> bytes:
    head = {"id": "x", "kind": "alarm", "recorded": "", "cause": cause}
    return json.dumps(head, ensure_ascii=False).encode()
