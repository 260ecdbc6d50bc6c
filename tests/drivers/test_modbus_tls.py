"""Modbus TLS: who is refused, and what is known of the certificates. openssl made them."""

import os
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drivers.errors import DriverError, LinkError
from drivers.modbus_dial import TlsDial
from drivers.modbus_wire import OwnWire
from gateway.site.credentials import CredentialError, Credentials, load_credentials
from tests.drivers.test_modbus_contract import DAYS, credentials
from tests.helpers.certificates import make_authority
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.tcp_bridges import tls_end, tls_server

DAY_NS = 86_400 * 1_000_000_000
TIMEOUT_S = 5.0


@asynccontextmanager
async def device(context: Callable[[], ssl.SSLContext]) -> AsyncIterator[int]:
    """libmodbus behind TLS."""
    async with ModbusServer() as server, tls_end(server.port, context) as port:
        server.set("hr", 0, 7)
        await server.sync()
        yield port


async def read(port: int, folder: Path, host: str = "127.0.0.1", name: str = "plc") -> int:
    """One register; when the device's certificate ends."""
    dial = TlsDial(host, port, lambda: load(name, folder))
    wire = OwnWire(dial, 1, TIMEOUT_S)
    try:
        await wire.open()
        assert await wire.read(3, 0, 1) == b"\0\7"
        return wire.not_after_utc_ns
    finally:
        wire.close()


def load(name: str, folder: Path) -> Credentials:
    return load_credentials(name, folder)


async def test_both_sides_prove_themselves_and_the_end_is_known(tmp_path: Path) -> None:
    made = credentials(tmp_path)
    async with device(lambda: tls_server(made)) as port:
        ends_ns = await read(port, tmp_path)
    assert (DAYS - 1) * DAY_NS < ends_ns - time.time_ns() <= DAYS * DAY_NS


async def test_a_device_of_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = credentials(tmp_path)

    async def found(_host: str, _port: int, _timeout_s: float) -> list[str]:
        return ["127.0.0.1"]

    async with device(lambda: tls_server(made)) as port:
        monkeypatch.setattr("drivers.modbus_dial.resolve", found)
        await read(port, tmp_path, "localhost")
        with pytest.raises(LinkError, match=r"certificate is not accepted: .*plc\.site"):
            await read(port, tmp_path, "plc.site")


async def test_a_device_of_another_authority_is_refused(tmp_path: Path) -> None:
    credentials(tmp_path)
    other = make_authority(tmp_path / "other")
    async with device(lambda: tls_server(other)) as port:
        with pytest.raises(LinkError, match="certificate is not accepted"):
            await read(port, tmp_path)


async def test_a_certificate_of_ours_that_the_device_does_not_know_is_refused(
    tmp_path: Path,
) -> None:
    made = credentials(tmp_path)
    other = make_authority(tmp_path / "other")
    for name, called in (("client.pem", "cert.pem"), ("client-key.pem", "key.pem")):
        (tmp_path / "plc" / called).write_bytes((other / name).read_bytes())
    async with device(lambda: tls_server(made)) as port:
        with pytest.raises(LinkError):  # TLS 1.3 tells it after the handshake
            await read(port, tmp_path)


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    made = credentials(tmp_path)

    def old() -> ssl.SSLContext:
        context = tls_server(made)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        return context

    async with device(old) as port:
        with pytest.raises(LinkError):
            await read(port, tmp_path)


@pytest.mark.parametrize("missing", ["ca.pem", "cert.pem", "key.pem"])
async def test_credentials_that_lack_a_file_are_named(missing: str, tmp_path: Path) -> None:
    made = credentials(tmp_path)
    os.unlink(tmp_path / "plc" / missing)
    async with device(lambda: tls_server(made)) as port:
        with pytest.raises((LinkError, CredentialError), match=missing):
            await read(port, tmp_path)


async def test_a_plain_device_is_no_tls_device(tmp_path: Path) -> None:
    credentials(tmp_path)
    async with ModbusServer() as server:
        dial = TlsDial("127.0.0.1", server.port, lambda: load("plc", tmp_path))
        with pytest.raises(DriverError):
            await OwnWire(dial, 1, 0.3).open()
