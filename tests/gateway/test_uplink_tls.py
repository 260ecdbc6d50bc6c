"""TLS of the uplinks: names, dates and versions are checked, and a refusal says what is wrong."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UplinkError
from gateway.uplink import link_state, settling
from gateway.uplink.base import LinkRefusedError
from gateway.uplink.http import HttpUplink
from gateway.uplink.mqtt import MqttUplink
from gateway.uplink.pump import Pump
from gateway.uplink.tls import client_context
from tests.helpers.certificates import issue, make_authority
from tests.helpers.http_script import Held, Script
from tests.helpers.openssl_server import openssl_server
from tests.helpers.uplinks import (
    SENDER,
    MemoryHistory,
    MemoryLedger,
    MemoryProblems,
    alert_out,
    config_of,
    until,
)

KINDS: dict[str, tuple[str, Any]] = {"http": ("https", HttpUplink), "mqtt": ("mqtts", MqttUplink)}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("tls"))


def held_of(folder: Path, client: str = "") -> Held:
    certificate = folder / f"{client}.pem" if client else None
    key = folder / f"{client}-key.pem" if client else None
    return Held(ca_path=folder / "ca.pem", cert_path=certificate, key_path=key)


def server_of(folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    return context


@asynccontextmanager
async def listening(context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """A TLS server that shakes hands, and nothing else."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        except OSError:
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def failure(kind: str, port: int, held: Held, host: str = "127.0.0.1") -> UplinkError:
    scheme, made = KINDS[kind]
    uplink = made(config_of(f"{scheme}://{host}:{port}", kind=kind), SENDER, held)
    try:
        await uplink.connect()
        verdicts = await uplink.send("alert", [alert_out()])
    except UplinkError as error:
        return error
    finally:
        await uplink.close()
    pytest.fail(f"it was let in: {verdicts}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("since", "ends", "host", "said"),
    [
        (-9, -1, "127.0.0.1", "certificate has expired by our clock, which says 20"),
        (2, 9, "127.0.0.1", "certificate is not yet valid by our clock, which says 20"),
        (-1, 9, "another.example", "IP address mismatch"),
    ],
)
async def test_dates_and_names_are_checked(
    authority: Path, kind: str, since: int, ends: int, host: str, said: str
) -> None:
    issue(authority, "odd", since=timedelta(days=since), until=timedelta(days=ends), host=host)
    async with listening(server_of(authority, "odd")) as port:
        error = await failure(kind, port, held_of(authority))
    assert isinstance(error, LinkRefusedError)
    assert "the server's certificate is not accepted" in str(error)
    assert said in str(error)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_authority_that_we_do_not_know(authority: Path, kind: str) -> None:
    async with listening(server_of(authority, "server")) as port:
        error = await failure(kind, port, Held())
    assert isinstance(error, LinkRefusedError)
    assert "self-signed certificate" in str(error) or "unable to get local issuer" in str(error)


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_older_than_tls_1_2(authority: Path, kind: str) -> None:
    old = ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    async with openssl_server(authority, "server", *old) as port:
        error = await failure(kind, port, held_of(authority))
    assert isinstance(error, LinkRefusedError)
    assert "no TLS 1.2 or newer" in str(error)
    made = await client_context(None)
    assert made.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert made.check_hostname
    assert made.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_without_tls(authority: Path, kind: str) -> None:
    async with listening(None) as port:
        error = await failure(kind, port, held_of(authority))
    assert "does not speak TLS" in str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shown", ["none", "expired"])
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_a_server_that_does_not_take_our_certificate(
    authority: Path, kind: str, shown: str, version: str
) -> None:
    issue(authority, "expired", since=timedelta(days=-9), until=timedelta(days=-1))
    held = held_of(authority, "expired" if shown == "expired" else "")
    async with openssl_server(authority, "server", version, "-Verify", "1") as port:
        error = await failure(kind, port, held)
    assert isinstance(error, LinkRefusedError), error
    assert "refuses the TLS handshake" in str(error)


async def test_one_uplinks_certificate_harms_no_other_and_heals_by_itself(
    authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link refused is tried slowly and told once; what was wrong is then put right."""
    monkeypatch.setattr(settling, "REFUSED_RETRY_S", 0.2)
    monkeypatch.setattr(link_state, "BACKOFF_S", 0.02)
    issue(authority, "later", since=timedelta(days=2), until=timedelta(days=9))
    context = server_of(authority, "later")
    problems = MemoryProblems()
    ledger, other_ledger = MemoryLedger(), MemoryLedger()

    def pump_of(url: str, ledger: MemoryLedger, made: Callable[..., HttpUplink]) -> Pump:
        config = config_of(url, kind="http")
        uplink = made(config, SENDER, held_of(authority))
        return Pump(config, uplink, ledger, MemoryHistory(), problems, SENDER)

    async with Script().serving(context) as bad, Script().serving() as good:
        pumps = [pump_of(bad.url, ledger, HttpUplink), pump_of(good.url, other_ledger, HttpUplink)]
        tasks = [asyncio.create_task(each.run()) for each in pumps]
        try:
            ledger.put(3)
            other_ledger.put(3)
            for each in pumps:
                each.nudge()
            await until(lambda: len(other_ledger.moves) > 0)
            await until(lambda: problems.active)
            assert "not yet valid by our clock" in next(iter(problems.active.values()))
            assert not pumps[0].stats().up
            assert pumps[1].stats().up
            context.load_cert_chain(authority / "server.pem", authority / "server-key.pem")
            await until(lambda: len(ledger.moves) > 0)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert problems.said == [("raised", "platform"), ("cleared", "platform")]
    assert pumps[0].stats().certificate_not_after_utc_ns > 0
