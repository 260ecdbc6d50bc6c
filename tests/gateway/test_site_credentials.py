"""Credentials by name: folders, JSON, and what is refused."""

import gc
import json
import os
from pathlib import Path

import pytest

from gateway.site.credentials import CredentialError, Secret, load_credentials


def put(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_a_folder(tmp_path: Path) -> None:
    for name in ("username", "password", "ca.pem", "cert.pem", "key.pem"):
        put(tmp_path / "x" / name, f"the {name}\n", 0o644 if name == "ca.pem" else 0o600)
    found = load_credentials("x", tmp_path)
    assert (found.username, found.password) == ("the username", Secret("the password"))
    assert found.ca_path == tmp_path / "x/ca.pem"
    assert found.cert_path == tmp_path / "x/cert.pem"
    assert found.key_path == tmp_path / "x/key.pem"


def test_json_whose_certificates_stand_behind_memory_files(tmp_path: Path) -> None:
    put(tmp_path / "x", json.dumps({"password": "p", "ca.pem": "PEM 1", "key.pem": "PEM 2"}))
    found = load_credentials("x", tmp_path)
    assert found.username is None
    assert found.ca_path is not None
    assert found.key_path is not None
    assert found.ca_path.read_text() == "PEM 1"
    assert found.key_path.read_text() == "PEM 2"
    path = found.key_path
    del found
    gc.collect()
    assert not path.exists()


def test_the_directory_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "x" / "username", "u")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert load_credentials("x", None).username == "u"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(CredentialError, match=r"give --credentials-dir or \$CREDENTIALS_DIRECTORY"):
        load_credentials("x", None)


@pytest.mark.parametrize("name", ["password", "key.pem"])
def test_a_secret_that_everybody_reads_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path / "x" / name, "secret", 0o644)
    with pytest.raises(CredentialError, match=f"everybody can read .*{name}: chmod o-r"):
        load_credentials("x", tmp_path)


def test_json_that_everybody_reads_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "x", '{"username": "u"}', 0o604)
    with pytest.raises(CredentialError, match="everybody can read"):
        load_credentials("x", tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[]", "a JSON object"),
        ('{"password": 5}', "a JSON object of texts"),
        ('{"passwd": "x"}', r"found \['passwd'\], expected username"),
        ("{}", "found nothing"),
        ("\udcff", "cannot be read"),
    ],
)
def test_broken_json(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(CredentialError, match=said):
        load_credentials("x", tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(CredentialError, match="a plain name"):
        load_credentials(name, tmp_path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match='credentials "x": nothing of that name'):
        load_credentials("x", tmp_path)
    os.mkdir(tmp_path / "x")
    with pytest.raises(CredentialError, match="found none of username"):
        load_credentials("x", tmp_path)


def test_nothing_prints_a_secret() -> None:
    secret = Secret("canary")
    said = f"{secret} {secret!r} {secret!s} %s" % secret
    assert "canary" not in said
    assert secret.reveal() == "canary"
