"""A certificate authority for tests: what ``openssl`` makes, in a folder."""

import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.helpers.programs import find


def make_authority(folder: Path, days: int = 2) -> Path:
    """ca.pem, and server.pem and client.pem signed by it, with their ``-key.pem``."""
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(
        folder, *_request("ca", "test authority"), "-x509", "-days", str(days), "-out", "ca.pem"
    )
    _sign(folder, "server", "subjectAltName=IP:127.0.0.1,DNS:localhost", days)
    _sign(folder, "client", "extendedKeyUsage=clientAuth", days)
    return folder


def issue(
    folder: Path,
    name: str,
    *,
    since: timedelta = timedelta(hours=-1),
    until: timedelta = timedelta(days=1),
    host: str = "127.0.0.1",
) -> None:
    """name.pem and name-key.pem by the folder's authority, for times that openssl does not take."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    literal = host.replace(".", "").isdecimal()
    names = [x509.IPAddress(ip_address(host)) if literal else x509.DNSName(host)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(f"CN={name}"))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, form, plain)
    (folder / f"{name}-key.pem").write_bytes(secret)
    (folder / f"{name}-key.pem").chmod(0o600)


def _request(name: str, subject: str) -> list[str]:
    return [
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", f"{name}-key.pem", "-subj", f"/CN={subject}",
    ]  # fmt: skip


def _sign(folder: Path, name: str, extension: str, days: int) -> None:
    (folder / f"{name}.ext").write_text(f"{extension}\n")
    _openssl(folder, *_request(name, name), "-out", f"{name}.csr")
    _openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem",
        "-CAcreateserial", "-days", str(days), "-extfile", f"{name}.ext", "-out", f"{name}.pem",
    )  # fmt: skip
    (folder / f"{name}-key.pem").chmod(0o600)


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run([find("openssl"), *arguments], cwd=folder, check=True, capture_output=True)
