"""``opcua trust``: show an OPC UA server's certificate, and write down that people trust it."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.errors import DriverError, PointError
from drivers.registry import DRIVERS
from gateway.cli.client import post
from gateway.cli.options import add_directories, add_json, paths_of
from gateway.cli.running_sites import running_sites
from gateway.cli.table import complain, plain, show_json
from gateway.commission.local_audit import LocalAudit
from gateway.errors import ConfigError, GatewayError
from gateway.orders.commands import who_of
from gateway.orders.outcome import Exit, Outcome
from gateway.paths import Paths
from gateway.site.load import load_site
from gateway.site.model import Device, by_id

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

OPCUA: str = "opcua"
ACTION: str = "opcua trust"


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "OPC UA: the certificates of servers"
    family = commands.add_parser("opcua", help=text, description=text)
    actions = family.add_subparsers(metavar="ACTION", required=True)
    text = "show a server's certificate and, after a question, trust it from now on"
    parser = actions.add_parser("trust", help=text, description=text)
    parser.add_argument("site", type=Path, metavar="SITE.toml")
    parser.add_argument("device", metavar="DEVICE", help="its id in the site file")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    add_json(parser)
    add_directories(parser)
    parser.set_defaults(run=trust)


def trust(args: argparse.Namespace) -> int:
    """Trust; 1 where nobody said yes or the certificate is worthless, 5 where it is trusted."""
    from drivers import opcua_certificates as certificates
    from drivers.opcua_link import server_certificate, settings_of

    device, paths = _device(args), paths_of(args)
    try:
        shown = asyncio.run(server_certificate(settings_of(device)))
        known = certificates.trusted(paths.state, device.id)
        own = certificates.own_identities(paths.state)[0].certificate
    except DriverError as error:
        msg = f"{device.id}: {error}"
        raise GatewayError(msg) from None
    facts = _facts(device, shown, known, own)
    if not args.json:
        _show(facts)
    if refusal := certificates.refusal(shown):
        return _tell(args, Exit.FAILED, f"not trusted: {refusal}", facts)
    if known and known[0] == shown:
        return _tell(args, Exit.ALREADY, "it is trusted already", facts)
    if not args.yes and not sys.stdin.isatty():
        complain("not trusted: nobody can be asked here; say --yes when the fingerprint is right")
        return Exit.USAGE
    if not args.yes and not _agreed():
        return _tell(args, Exit.FAILED, "not trusted", facts)
    audit = _Audit(paths, f"{device.id} {device.address}")
    audit.begin({key: facts[key] for key in ("subject", "sha256", "trusted_before")})
    try:
        path = certificates.trust(paths.state, device.id, shown)
    except OSError as error:
        audit.end(0, str(error))
        msg = f"the trust list in {paths.state} cannot be written: {error.strerror}"
        raise GatewayError(msg) from None
    audit.end(1, f"trusted, {path.name}")
    text = f"trusted from now on, written to {path}, audited in {audit.where}"
    return _tell(args, Exit.DONE, text, facts)


def _device(args: argparse.Namespace) -> Device:
    """The device of the site file. Raises ConfigError."""
    config, errors, _ = load_site(args.site)
    if config is None:
        raise ConfigError(errors)
    devices: dict[str, Device] = by_id(config.device)
    device = devices.get(args.device)
    servers = [each.id for each in config.device if each.driver == OPCUA]
    if device is None or device.driver != OPCUA:
        there = f"; there are: {', '.join(servers)}" if servers else ""
        raise ConfigError([f"{args.site}: found no OPC UA device {args.device!r}{there}"])
    try:
        DRIVERS[OPCUA].check_device(device)
    except PointError as error:
        raise ConfigError([f"{args.site}: device[{device.id}].{error.key}: {error}"]) from None
    if device.security == "None":
        text = 'found security = "None", where no certificate is checked'
        raise ConfigError([f"{args.site}: device[{device.id}]: {text}"])
    if device.server_certificate is not None:
        text = f"found server_certificate, which alone decides: {device.server_certificate}"
        raise ConfigError([f"{args.site}: device[{device.id}]: {text}"])
    return device


def _facts(
    device: Device, shown: "Certificate", known: "list[Certificate]", own: "Certificate"
) -> dict[str, Any]:
    from drivers.opcua_certificates import fingerprint

    return {
        "device": device.id,
        "address": device.address,
        "subject": shown.subject.rfc4514_string(),
        "issuer": shown.issuer.rfc4514_string(),
        "valid_from": f"{shown.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
        "valid_until": f"{shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        "sha256": fingerprint(shown),
        "trusted_before": fingerprint(known[0]) if known else None,
        "own_subject": own.subject.rfc4514_string(),
        "own_sha256": fingerprint(own),
        "own_valid_until": f"{own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
    }


def _show(facts: dict[str, Any]) -> None:
    lines = (
        ("server", f"{facts['device']}, {facts['address']}"),
        ("subject", facts["subject"]),
        ("issuer", "itself" if facts["issuer"] == facts["subject"] else facts["issuer"]),
        ("valid", f"{facts['valid_from']} to {facts['valid_until']}"),
        ("SHA-256", facts["sha256"]),
        ("trusted", facts["trusted_before"] or "no certificate of this server so far"),
        ("our own", f"{facts['own_subject']}, until {facts['own_valid_until']}"),
        ("  SHA-256", facts["own_sha256"]),
    )
    for name, text in lines:
        print(plain(f"{name:<10}{text}"))


def _agreed() -> bool:
    print("Compare the SHA-256 with what the server itself shows on its own screen.")
    try:
        answer = input("is it the same, and is this server trusted? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def _tell(args: argparse.Namespace, code: Exit, text: str, facts: dict[str, Any]) -> int:
    if args.json:
        show_json(Outcome(exit_code=code, code=0, text=text, details=facts))
    elif code in (Exit.DONE, Exit.ALREADY):
        print(plain(text))
    else:
        complain(text)
    return code


class _Audit:
    """The ledger of the site that runs in these directories, else the file beside it."""

    def __init__(self, paths: Paths, target: str) -> None:
        self._paths = paths
        self._target = target
        runs = any(site.answers for site in running_sites(paths) if site.paths == paths)
        self._file = None if runs else LocalAudit(paths)
        self._seq = 0
        self.where = "the ledger" if self._file is None else str(self._file.path)

    def begin(self, detail: dict[str, Any]) -> None:
        """Durable before the decision. Raises GatewayError, and then nothing may be trusted."""
        if self._file is not None:
            self._seq = self._file.command(who_of(os.getuid()), ACTION, self._target, detail)
            return
        body = {"action": ACTION, "target": self._target, "detail": detail}
        self._seq = msgspec.json.decode(post(self._paths, "/written", body))["seq"]

    def end(self, code: int, text: str) -> None:
        """What became of it; ``code`` 1: done. Raises GatewayError."""
        if self._file is not None:
            self._file.result(self._seq, code, text)
            return
        post(self._paths, "/written", {"seq": self._seq, "code": code, "text": text})
