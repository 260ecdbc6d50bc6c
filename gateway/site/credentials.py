"""Credentials by name, from a directory such as systemd's: never from the site file.

``x`` is a folder with the files ``username password ca.pem cert.pem key.pem webhook-secret``, or a
JSON file of the same names. A secret that others can read is refused.
"""

import json
import os
import stat
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import GatewayError
from gateway.site.webhook_secret import keys_of

DIRECTORY_VARIABLE: Final = "CREDENTIALS_DIRECTORY"
NAMES: Final = ("username", "password", "ca.pem", "cert.pem", "key.pem", "webhook-secret")
SECRET_NAMES: Final = ("password", "key.pem", "webhook-secret")
BYTES_MAX: Final = 1024 * 1024


class CredentialError(GatewayError):
    """A credential is missing, unreadable or readable by everybody; the text is for people."""


class Secret:
    """A text that nothing prints: ``str`` and ``repr`` are stars."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one library call that needs it."""
        return self._text

    def __str__(self) -> str:
        return "***"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, eq=False)
class Credentials:
    """What one name stands for; None for what is not there. Paths stay good as long as this."""

    username: str | None
    password: Secret | None
    ca_path: Path | None
    cert_path: Path | None
    key_path: Path | None
    webhook_secret: Secret | None = None  # one or several, as ``webhook_secret.keys_of`` reads them


def credentials_directory(given: Path | None) -> Path | None:
    """The directory that was given, else ``$CREDENTIALS_DIRECTORY``, else None."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    return given or (Path(named) if named else None)


def load_credentials(name: str, directory: Path | None) -> Credentials:
    """Read one credential. Raises CredentialError."""
    directory = credentials_directory(directory)
    if directory is None:
        msg = f'credentials "{name}": no directory, give --credentials-dir or ${DIRECTORY_VARIABLE}'
        raise CredentialError(msg)
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        msg = f"credentials {name!r}: expected a plain name"
        raise CredentialError(msg)
    path = directory / name
    try:
        return _from_folder(path) if path.is_dir() else _from_json(path)
    except FileNotFoundError:
        msg = f'credentials "{name}": nothing of that name in {directory}'
        raise CredentialError(msg) from None
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        msg = f'credentials "{name}": cannot be read: {said}'
        raise CredentialError(msg) from error


def _from_folder(folder: Path) -> Credentials:
    found = {name: folder / name for name in NAMES if (folder / name).is_file()}
    if not found:
        msg = f'credentials "{folder.name}": found none of {", ".join(NAMES)} in {folder}'
        raise CredentialError(msg)
    for name in SECRET_NAMES:
        if name in found:
            _refuse_open(found[name])
    texts = {name: _read(path) for name, path in found.items() if "." not in name}
    return Credentials(
        username=texts.get("username"),
        password=Secret(texts["password"]) if "password" in texts else None,
        ca_path=found.get("ca.pem"),
        cert_path=found.get("cert.pem"),
        key_path=found.get("key.pem"),
        webhook_secret=_webhook_secret(folder.name, texts),
    )


def _from_json(path: Path) -> Credentials:
    _refuse_open(path)
    try:
        data = json.loads(_read(path))
    except json.JSONDecodeError as error:
        msg = f'credentials "{path.name}": no JSON: {error}'
        raise CredentialError(msg) from error
    if not isinstance(data, dict) or not all(isinstance(each, str) for each in data.values()):
        msg = f'credentials "{path.name}": expected a JSON object of texts'
        raise CredentialError(msg)
    unknown = sorted(set(data) - set(NAMES))
    if unknown or not data:
        msg = (
            f'credentials "{path.name}": found {unknown or "nothing"}, expected {", ".join(NAMES)}'
        )
        raise CredentialError(msg)
    return _from_texts(path.name, data)


def _from_texts(name: str, data: Mapping[str, str]) -> Credentials:
    """PEM texts stand behind memory files: nothing is written to a disk."""
    secret = _webhook_secret(name, data)
    descriptors = {
        each: _memory_file(each, data[each]) for each in NAMES if each in data and "." in each
    }
    paths = {each: Path(f"/proc/self/fd/{number}") for each, number in descriptors.items()}
    credentials = Credentials(
        username=data.get("username"),
        password=Secret(data["password"]) if "password" in data else None,
        ca_path=paths.get("ca.pem"),
        cert_path=paths.get("cert.pem"),
        key_path=paths.get("key.pem"),
        webhook_secret=secret,
    )
    weakref.finalize(credentials, _close, tuple(descriptors.values()))
    return credentials


def _webhook_secret(name: str, texts: Mapping[str, str]) -> Secret | None:
    if "webhook-secret" not in texts:
        return None
    try:
        keys_of(texts["webhook-secret"])
    except ValueError as error:
        msg = f'credentials "{name}": webhook-secret: {error}'
        raise CredentialError(msg) from None
    return Secret(texts["webhook-secret"])


def _memory_file(name: str, text: str) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.write(descriptor, text.encode())
    return descriptor


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _refuse_open(path: Path) -> None:
    if path.stat().st_mode & stat.S_IROTH:
        msg = f"credentials: everybody can read {path}: chmod o-r it"
        raise CredentialError(msg)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(BYTES_MAX).decode("utf-8").rstrip("\r\n")
