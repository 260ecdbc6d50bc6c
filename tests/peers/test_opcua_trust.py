"""Whom the OPC UA driver trusts: pinned or trusted certificates alone, and never less security."""

import asyncio
import datetime as dt
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from drivers import opcua_certificates as certificates
from drivers.errors import LinkError
from drivers.kind import Surroundings
from drivers.opcua_client import OpcUaClient
from drivers.opcua_link import LinkSettings, OpcUaLink, server_certificate
from gateway.__main__ import main
from gateway.site.credentials import load_credentials
from tests.helpers.certificates import make_authority
from tests.helpers.opcua_server import OpcUaServer, opcua_server
from tests.helpers.unsecret import no_secrets

WITHIN_S = 10.0
SITE = """
[site]
id = "s"
[[device]]
id = "dcs"
driver = "opcua"
address = "{url}"
timeout = "3s"
{more}
[[tag]]
id = "temp"
device = "dcs"
point = {{ node = "ns=1;s=temp" }}
"""


@pytest.fixture
def pki(opcua_peer: OpcUaServer) -> Path:
    """Its certificate serves others too."""
    return Path(opcua_peer.options["pki"])


@pytest.fixture
def server(opcua_peer: OpcUaServer) -> OpcUaServer:
    return opcua_peer


def settings(server: OpcUaServer, **fields: Any) -> LinkSettings:
    return LinkSettings("dcs", server.url, 3.0, **({"security": "Basic256Sha256"} | fields))


async def opened(settings: LinkSettings, around: Surroundings) -> None:
    """A session that works."""
    link = OpcUaLink(settings, around)
    async with asyncio.timeout(WITHIN_S):
        client = await link.open()
        try:
            assert await client.get_node("ns=1;s=fixed").read_value() == 1.0
        finally:
            await client.shut()


def make_certificate(
    folder: Path, days: tuple[int, int], key_bits: int = 2048
) -> tuple[Path, Path]:
    """A server's certificate that is valid from and until so many days from now, and its key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=key_bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another server")])
    now = certificates.utc_now()
    uri = x509.UniformResourceIdentifier("urn:another")
    names = x509.SubjectAlternativeName([uri, x509.DNSName("localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "server.pem", folder / "server-key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return paths


def run(tmp_path: Path, server: OpcUaServer, *options: str, more: str = "") -> tuple[int, Path]:
    """``sitewarden opcua trust`` over a site file of one server; its exit code, its state."""
    site = tmp_path / "site.toml"
    site.write_text(SITE.format(url=server.url, more=more))
    state = tmp_path / "state"
    where = ["--state-dir", str(state), "--runtime-dir", str(tmp_path / "run")]
    return main(["opcua", "trust", str(site), "dcs", *where, *options]), state


def test_nothing_is_trusted_before_somebody_says_so(
    server: OpcUaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    around = Surroundings(no_secrets, tmp_path / "state")
    with pytest.raises(LinkError, match="no certificate of this server is trusted"):
        asyncio.run(opened(settings(server), around))
    assert run(tmp_path, server)[0] == 2, "nobody can be asked here"
    shown = capsys.readouterr().out
    pinned = certificates.load_certificate(server.certificate)
    assert certificates.fingerprint(pinned) in shown
    with pytest.raises(LinkError, match="no certificate of this server is trusted"):
        asyncio.run(opened(settings(server), around))
    code, state = run(tmp_path, server, "--yes", "--json")
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert told["details"]["sha256"] == certificates.fingerprint(pinned)
    assert told["details"]["trusted_before"] is None
    asyncio.run(opened(settings(server), around))
    assert run(tmp_path, server, "--yes")[0] == 5, "it is so already"
    lines = (state / "writes.jsonl").read_text().splitlines()
    entries = [json.loads(line)["entry"] for line in lines]
    assert [entry["kind"] for entry in entries] == ["command", "result"]
    assert entries[0]["action"] == "opcua trust"
    assert certificates.fingerprint(pinned) in str(entries[0]["detail"])


async def test_a_server_that_is_off_is_told_as_that_before_it_is_trusted(
    server: OpcUaServer, tmp_path: Path
) -> None:
    around = Surroundings(no_secrets, tmp_path / "state")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # a port that is taken, where nobody listens
        url = f"opc.tcp://127.0.0.1:{nobody.getsockname()[1]}"
        absent = LinkSettings("dcs", url, 3.0, security="Basic256Sha256")
        with pytest.raises(LinkError, match="Connection refused"):
            await opened(absent, around)
    sessions = server.tell(count=True)["sessions"]
    with pytest.raises(LinkError, match="no certificate of this server is trusted"):
        await opened(settings(server), around)
    assert server.tell(count=True)["sessions"] == sessions


def test_what_cannot_be_trusted_by_hand(
    server: OpcUaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, server, more='security = "None"\ninsecure = true')[0] == 2
    assert run(tmp_path, server, more='server_certificate = "dcs.pem"')[0] == 2
    where = ["--state-dir", str(tmp_path), "--runtime-dir", str(tmp_path)]
    assert main(["opcua", "trust", str(tmp_path / "site.toml"), "plc", *where]) == 2
    told = capsys.readouterr().err
    for text in ("no certificate is checked", "which alone decides", "there are: dcs"):
        assert text in told


async def test_a_certificate_that_changed_is_refused_and_named(
    server: OpcUaServer, tmp_path: Path
) -> None:
    theirs = certificates.load_certificate(server.certificate)
    other, _ = make_certificate(tmp_path, (-1, 10))
    before = server.tell(count=1)["sessions"]
    with pytest.raises(LinkError) as caught:
        await opened(settings(server, server_certificate=other), Surroundings(no_secrets, tmp_path))
    for certificate in (theirs, certificates.load_certificate(other)):
        assert certificates.fingerprint(certificate) in str(caught.value)
    assert server.tell(count=1)["sessions"] == before, "no session without the trusted certificate"


@pytest.mark.timeout(120)  # a server of its own takes seconds to start
async def test_neither_an_expired_certificate_nor_another_policy_will_do(
    pki: Path, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path, (-10, -1))
    options = {"certificate": str(certificate), "key": str(key)}
    with opcua_server(pki, policies=["None", "Basic256Sha256"], **options) as server:
        around = Surroundings(no_secrets, tmp_path)
        with pytest.raises(LinkError, match="the server's certificate expired on"):
            await opened(settings(server, server_certificate=certificate), around)
        valid, _ = make_certificate(tmp_path, (-1, 10))
        wanted = settings(server, security="Aes256_Sha256_RsaPss", server_certificate=valid)
        with pytest.raises(LinkError):
            await opened(wanted, around)
        with pytest.raises(LinkError, match="does not offer Aes256_Sha256_RsaPss"):
            await server_certificate(wanted)
        assert server.tell(count=1)["sessions"] == 0, "no session with less security"


async def test_users_are_let_in_by_name_and_never_in_plain_text(
    server: OpcUaServer, tmp_path: Path
) -> None:
    folder = tmp_path / "credentials" / "ops"
    folder.mkdir(parents=True)
    (folder / "username").write_text("ops\n")
    (folder / "password").write_text("secret\n")
    (folder / "password").chmod(0o600)
    around = Surroundings(lambda name: load_credentials(name, tmp_path / "credentials"), tmp_path)
    certificates.trust(tmp_path, "dcs", certificates.load_certificate(server.certificate))
    await opened(settings(server, credentials="ops"), around)
    (folder / "password").write_text("wrong\n")
    with pytest.raises(LinkError, match=r"BadUserAccessDenied|BadIdentityTokenRejected"):
        await opened(settings(server, credentials="ops"), around)


@pytest.mark.timeout(120)  # a server of its own takes seconds to start
async def test_users_are_let_in_by_a_certificate_that_the_server_trusts(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "credentials" / "ops"
    folder.mkdir(parents=True)
    [person] = certificates.own_identities(tmp_path / "person")
    (folder / "cert.pem").write_bytes(person.certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "person" / "opcua" / "own" / "key.pem").rename(folder / "key.pem")
    around = Surroundings(lambda name: load_credentials(name, tmp_path / "credentials"), tmp_path)
    rejected, trusted = tmp_path / "pki" / "rejected", tmp_path / "pki" / "trusted" / "certs"
    with opcua_server(tmp_path / "pki", accept=False, anonymous=False) as server:
        certificates.trust(tmp_path, "dcs", certificates.load_certificate(server.certificate))
        for refusal in ("it may not trust our certificate yet", "BadIdentityTokenRejected"):
            with pytest.raises(LinkError, match=refusal):
                await opened(settings(server, credentials="ops"), around)
            [unknown] = rejected.glob("*.pem")
            unknown.rename(trusted / unknown.name)  # as whoever looks after the server does
            server.kill()
            server.start()
        await opened(settings(server, credentials="ops"), around)
        with pytest.raises(LinkError, match="BadIdentityToken"):
            await opened(settings(server), around)


async def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, key = make_certificate(tmp_path, (-1, 10))
    other, _ = make_certificate(tmp_path / "other", (-1, 10))
    assert certificates.load_identity(certificate, key)
    with pytest.raises(LinkError, match=f"{key.name} is not the key of {other.name}"):
        certificates.load_identity(other, key)
    certificates.own_identities(tmp_path)
    own = tmp_path / "opcua" / "own"
    (own / "key.pem").write_bytes(key.read_bytes())
    with pytest.raises(LinkError, match=f"{own}.*key.pem is not the key of"):
        certificates.own_identities(tmp_path)


def test_a_certificate_with_a_weak_key_is_refused_whoever_trusts_it(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path, (-1, 10), key_bits=1024)
    said = certificates.refusal(certificates.load_certificate(certificate))
    assert said.endswith("it has 1024 bits")


async def test_our_own_certificate_is_renewed_and_the_old_one_offered_until_its_end(
    tmp_path: Path,
) -> None:
    now = certificates.utc_now()
    [first] = certificates.own_identities(tmp_path, now=now)
    assert certificates.own_identities(tmp_path, now=now) == [first]
    soon = first.certificate.not_valid_after_utc - dt.timedelta(days=80)
    second, still = certificates.own_identities(tmp_path, now=soon)
    assert still == first
    assert second.certificate.not_valid_after_utc > first.certificate.not_valid_after_utc
    assert second.uri == first.uri
    late = first.certificate.not_valid_after_utc + dt.timedelta(days=1)
    assert certificates.own_identities(tmp_path, now=late) == [second]
    told = certificates.own_identities(tmp_path, now=now)
    assert told == [first, second], "what a clock ahead of time has made waits for its time"
    ago = now - dt.timedelta(days=20_000)
    assert certificates.own_identities(tmp_path, now=ago) == [second, first], "nor is one made"
    key = tmp_path / "opcua" / "own" / "key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    assert certificates.own_identities(tmp_path, now=now)
    assert key.stat().st_mode & 0o777 == 0o600, "as it was"


def test_what_was_trusted_last_counts_whatever_a_loss_of_power_left(tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        path, _ = make_certificate(tmp_path / name, (-1, 10))
        made.append(certificates.load_certificate(path))
    for before, after in (made, made[::-1]):
        left = certificates.trust(tmp_path, "dcs", before)
        text, times = left.read_bytes(), left.stat()
        certificates.trust(tmp_path, "dcs", after)
        left.write_bytes(text)
        os.utime(left, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert certificates.trusted(tmp_path, "dcs")[0] == after


@pytest.mark.parametrize("oid", ["2b8104000a", "2b81040063"], ids=["another curve", "no curve"])
def test_a_certificate_of_a_key_that_nobody_knows_is_none(tmp_path: Path, oid: str) -> None:
    issue_ec = make_authority(tmp_path) / "server.pem"
    der = x509.load_pem_x509_certificate(issue_ec.read_bytes()).public_bytes(
        serialization.Encoding.DER
    )
    prime256 = bytes.fromhex("06082a8648ce3d030107")
    assert prime256 in der
    strange = der.replace(prime256, b"\x06\x08" + bytes.fromhex(oid).ljust(8, b"\x01"))
    with pytest.raises(ValueError, match=r".+"):
        certificates.first_certificate(strange)


async def test_a_server_that_does_not_know_the_renewed_certificate_gets_the_old_one(
    server: OpcUaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.trust(tmp_path, "dcs", certificates.load_certificate(server.certificate))
    [old] = certificates.own_identities(tmp_path)
    soon = old.certificate.not_valid_after_utc - dt.timedelta(days=80)
    new, _ = certificates.own_identities(tmp_path, now=soon)
    monkeypatch.setattr("drivers.opcua_link.own_identities", lambda _: [new, old])
    offered = []

    async def picky(client: OpcUaClient) -> None:
        client.transport.reached = True
        offered.append(client.security_policy.host_certificate)
        if offered[-1] == new.certificate_der:
            text = "BadCertificateUntrusted"
            raise LinkError(text)

    monkeypatch.setattr(OpcUaClient, "open", picky)
    link = OpcUaLink(settings(server), Surroundings(no_secrets, tmp_path))
    with pytest.raises(LinkError):
        await link.open()
    client = await link.open()
    await client.shut()
    assert certificates.fingerprint(new.certificate) in link.troubles()["own_certificate"]
    with pytest.raises(LinkError):
        await link.open()
    assert offered == [each.certificate_der for each in (new, old, new)], "the new one goes first"


async def test_a_password_is_not_sent_where_everybody_could_read_it() -> None:
    from asyncua import ua

    client = OpcUaClient("opc.tcp://127.0.0.1:1", 1.0)
    client.set_user("ops")
    client.set_password("secret")
    plain = ua.UserTokenPolicy(
        TokenType=ua.UserTokenType.UserName,
        SecurityPolicyUri="http://opcfoundation.org/UA/SecurityPolicy#None",
    )
    client._policy_ids = [plain]
    with pytest.raises(LinkError, match="plain text"):
        await client.activate_session(username="ops", password="secret")


async def test_what_ends_soon_is_told(server: OpcUaServer, tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path, (-10, 10))
    link = OpcUaLink(
        settings(server, server_certificate=certificate), Surroundings(no_secrets, tmp_path)
    )
    with pytest.raises(LinkError):
        await link.open()
    assert link.troubles().keys() == {"server_certificate"}
    assert link.troubles()["server_certificate"].startswith("the server's certificate ends in ")
    ends = certificates.load_certificate(certificate).not_valid_after_utc
    assert link.server_not_after_utc_ns == int(ends.timestamp()) * 10**9
