"""Our own OPC UA certificate, and the servers' that people trust: files under the state directory.

``opcua/own/`` holds our certificate and its key, ``opcua/trusted/DEVICE/`` one PEM per certificate
that was trusted for that device. Nothing is ever trusted here because it was seen.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drivers.errors import LinkError

VALID_DAYS: Final = 5 * 365  # a server trusts it by hand: a short life is many mornings of work
RENEW_DAYS: Final = 90  # before its end; the old one goes on being offered until then
KEY_BITS: Final = 2048
KEY_BITS_MAX: Final = 4096
CERTIFICATE_BYTES_MAX: Final = 64 * 1024
_OWN: Final = threading.Lock()  # drivers connect on threads of their own
_STARTED: Final = timedelta(hours=1)  # in the past: the server's clock may be behind


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate of ours and its key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey = field(compare=False, repr=False)

    @property
    def certificate_der(self) -> bytes:
        """As it travels."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_der(self) -> bytes:
        """As the library takes it; never written anywhere."""
        return self.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def uri(self) -> str:
        """The application URI that it names; "" where it names none."""
        with contextlib.suppress(x509.ExtensionNotFound):
            names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
            return uris[0] if uris else ""
        return ""


def own_identities(state_dir: Path, *, now: datetime | None = None) -> list[Identity]:
    """Our certificates, newest first, every one still valid; made or renewed where needed.

    A renewed one must be trusted at the server by somebody: until then the old one is offered too.
    Raises LinkError where they cannot be stored or read.
    """
    folder = state_dir / "opcua" / "own"
    now = now or utc_now()
    try:
        with _OWN:
            return _own(folder, now)
    except (OSError, ValueError) as error:
        text = f"our own certificate in {folder}: {error}"
        raise LinkError(text) from None


def _own(folder: Path, now: datetime) -> list[Identity]:
    _make_folder(folder, 0o700)
    _keep_private(folder / "key.pem")
    found = [_load(path, folder / "key.pem") for path in _newest_first(folder)]
    alive = [each for each in found if each.certificate.not_valid_after_utc > now]
    # One that was made while our clock was ahead comes last; while it is behind all are alike.
    alive.sort(key=lambda each: each.certificate.not_valid_before_utc > now)
    if not alive:
        return [_make(folder, now)]
    if alive[0].certificate.not_valid_after_utc - now < timedelta(days=RENEW_DAYS):
        with contextlib.suppress(OSError):  # the old one is good until its end
            alive.insert(0, _make(folder, now))
    return alive


def _keep_private(key: Path) -> None:
    """A key that came back from a copy may have lost its mode."""
    with contextlib.suppress(FileNotFoundError):
        if key.stat().st_mode & 0o077:
            key.chmod(0o600)


def load_identity(cert_path: Path, key_path: Path) -> Identity:
    """A certificate and its key from PEM files. Raises LinkError."""
    try:
        return _load(cert_path, key_path)
    except (OSError, ValueError, TypeError) as error:
        text = f"certificate {cert_path}: {error}"
        raise LinkError(text) from None


def load_certificate(path: Path) -> x509.Certificate:
    """A certificate from a PEM or DER file. Raises LinkError."""
    try:
        data = path.read_bytes()[:CERTIFICATE_BYTES_MAX]
        pem = data.lstrip().startswith(b"-----BEGIN")
        return _whole(x509.load_pem_x509_certificate(data)) if pem else first_certificate(data)
    except (OSError, ValueError) as error:
        text = f"certificate {path}: {error}"
        raise LinkError(text) from None


def first_certificate(der: bytes) -> x509.Certificate:
    """The leading certificate of a chain as servers send it. Raises ValueError."""
    if len(der) < 4 or der[0] != 0x30 or der[1] != 0x82:
        text = "found no certificate"
        raise ValueError(text)
    return _whole(x509.load_der_x509_certificate(der[: 4 + int.from_bytes(der[2:4], "big")]))


def _whole(certificate: x509.Certificate) -> x509.Certificate:
    """A certificate whose parts can all be read: the library looks at most of them only then.

    Raises ValueError.
    """
    try:
        certificate.public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    certificate.subject.rfc4514_string()
    certificate.issuer.rfc4514_string()
    _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate


def utc_now() -> datetime:
    """The wall clock: certificates know no other."""
    return datetime.fromtimestamp(time.time_ns() // 1_000_000_000, UTC)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 as people compare it: ``AB:CD:…``."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def refusal(certificate: x509.Certificate, *, now: datetime | None = None) -> str:
    """Why a certificate cannot be relied on whoever trusts it; empty when it can."""
    now = now or utc_now()
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or not KEY_BITS <= key.key_size <= KEY_BITS_MAX:
        has = f"{key.key_size} bits" if isinstance(key, rsa.RSAPublicKey) else "another key"
        return (
            f"the server's certificate needs an RSA key of {KEY_BITS} to {KEY_BITS_MAX} bits, as "
            f"every security policy here asks: it has {has}"
        )
    if now > end:
        return f"the server's certificate expired on {end:%Y-%m-%d %H:%M} UTC"
    return f"the server's certificate is valid from {begin:%Y-%m-%d %H:%M} UTC" * (now < begin)


def days_left(certificate: x509.Certificate) -> int:
    """Whole days until a certificate ends; less than 0 after it."""
    return (certificate.not_valid_after_utc - utc_now()).days


def trusted(state_dir: Path, device: str) -> list[x509.Certificate]:
    """The certificates of a device's folder, the one that people trust first.

    That is the newest: what was trusted before it may be left by a loss of power. Raises LinkError
    for an unreadable one.
    """
    found = _trusted_folder(state_dir, device).glob("*.pem")
    try:
        newest = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError as error:
        text = f"the trust list in {state_dir}: {error.strerror}"
        raise LinkError(text) from None
    return [load_certificate(path) for path in newest]


def trust(state_dir: Path, device: str, certificate: x509.Certificate) -> Path:
    """Record that ``certificate`` is trusted for ``device``; where it was written. Raises OSError.

    What was trusted before for this device is trusted no longer.
    """
    folder = _trusted_folder(state_dir, device)
    _make_folder(folder, 0o750)
    path = folder / f"{certificate.fingerprint(hashes.SHA256()).hex()}.pem"
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o640)
    for other in list(folder.glob("*.pem")):
        if other != path:
            other.unlink()
    return path


def _trusted_folder(state_dir: Path, device: str) -> Path:
    return state_dir / "opcua" / "trusted" / device


def _newest_first(folder: Path) -> Iterator[Path]:
    """The certificates of a folder; the names of ours begin with their time."""
    found = [path for path in folder.glob("*.pem") if path.name != "key.pem"]
    return iter(sorted(found, reverse=True))


def _load(cert_path: Path, key_path: Path) -> Identity:
    certificate = x509.load_pem_x509_certificate(cert_path.read_bytes())
    key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        text = "the key is no RSA key"
        raise ValueError(text)  # noqa: TRY004  what the file holds, not what we passed
    if certificate.public_key() != key.public_key():
        text = f"{key_path.name} is not the key of {cert_path.name}"
        raise ValueError(text)
    return Identity(certificate, key)


def _make(folder: Path, now: datetime) -> Identity:
    """A new certificate over our one key, which is made first where there is none."""
    key_path = folder / "key.pem"
    if not key_path.exists():
        fresh = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        _write(
            key_path,
            fresh.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            0o600,
        )
    key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        text = "the key is no RSA key"
        raise ValueError(text)  # noqa: TRY004  as above
    host = socket.gethostname()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Sitewarden on {host}"[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _STARTED)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier(f"urn:{host}:sitewarden"),
                    x509.DNSName(host),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{now:%Y%m%dT%H%M%SZ}.pem"
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o640)
    return _load(path, key_path)


def _key_usage() -> x509.KeyUsage:
    """What the standard asks of an application; keyCertSign because it signs itself."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by more than ``mode`` says."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        _give(descriptor, path.parent)
    partial.replace(path)


def _make_folder(folder: Path, mode: int) -> None:
    """A folder of the state directory, the owner's of that, whoever makes it."""
    if folder.is_dir():
        return
    for above in reversed(folder.parents[:2]):  # opcua/trusted/DEVICE, opcua/own
        if not above.is_dir():
            above.mkdir(mode=0o750, parents=True)
            _give(above, above.parent)
    folder.mkdir(mode=mode)
    _give(folder, folder.parent)


def _give(what: int | Path, like: Path) -> None:
    """To the owner of ``like``: what root writes by hand is read by the service's user."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(what, owner.st_uid, owner.st_gid)
