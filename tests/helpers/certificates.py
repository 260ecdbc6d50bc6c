"""A certificate authority for tests: what ``openssl`` makes, in a folder."""

import subprocess
from pathlib import Path

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
