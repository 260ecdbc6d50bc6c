"""``write``: one point of a device by hand. Asks, refuses what a site holds, audits, reads back."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import structs

from drivers.errors import DriverError, RequestError
from gateway.cli.client import post
from gateway.cli.hands import tell
from gateway.cli.options import paths_of
from gateway.cli.points import failed, point_command, pointed, surroundings_of
from gateway.cli.running_sites import RunningSite, owners, refusal, running_sites
from gateway.cli.table import complain, plain, show_json
from gateway.commission.devices import Value, read_once
from gateway.commission.holdings import Aim, holder, holdings_of
from gateway.commission.local_audit import LocalAudit
from gateway.commission.target import Target
from gateway.commission.writing import (
    Written,
    aim_of,
    check_value,
    parse_value,
    write_and_read_back,
)
from gateway.errors import ConfigError, GatewayError
from gateway.orders.commands import who_of
from gateway.orders.outcome import Exit, Outcome

if TYPE_CHECKING:
    from drivers.kind import Surroundings

DONE_CODE: Final = 1  # in the audit


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "write one point by hand, after a question; audited, and read back"
    parser = point_command(commands, "write", text, write)
    parser.add_argument(
        "rest", nargs="+", metavar="[POINT] VALUE", help="the point, if not in the address; a value"
    )
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("--reason", default="", metavar="TEXT", help="for the audit")


def write(args: argparse.Namespace) -> int:
    """Write; 4 where a site holds the place, 6 where the device does not show the value after."""
    target, value, aim = _asked(args)
    sites = running_sites(paths_of(args))
    why = _held_by_file(target, aim) or refusal(aim, sites)
    if why:
        return _refused(args, f"not written: {_place(target)}: {why}")
    if not args.yes and not sys.stdin.isatty():
        complain("not written: nobody can be asked here; say --yes if it is meant")
        return Exit.USAGE
    around = surroundings_of(args)
    before = _before(target, around)
    if not args.yes and not _agreed(target, before, value):
        complain("not written")
        return Exit.FAILED
    sites = running_sites(paths_of(args))  # again: the question may have stood for long
    if why := refusal(aim, sites):
        return _refused(args, f"not written: {_place(target)}: {why}")
    audit = _Audit(args, target, _keepers(args, target, sites))
    audit.begin({"old": _words(before), "new": value, "reason": args.reason})
    try:
        written = asyncio.run(write_and_read_back(target, value, around))
    except DriverError as error:
        audit.end(0, f"not written: {error}")
        raise failed(target, error) from None
    except KeyboardInterrupt:
        audit.end(0, "interrupted; not known whether it was written")
        raise
    outcome = _outcome(target, before, value, written)
    try:
        audit.end(DONE_CODE if outcome.exit_code == Exit.DONE else 0, outcome.text)
    except GatewayError as error:  # the write itself stands there
        complain(f"what became of it is not in the audit: {error}")
    details = outcome.details | {"audit": audit.where}
    code = tell(args, structs.replace(outcome, details=details))
    if not args.json:
        print(plain(f"audited in {audit.where}"))
    return code


def _refused(args: argparse.Namespace, text: str) -> int:
    if args.json:
        show_json(Outcome(exit_code=Exit.REFUSED, code=0, text=text))
    else:
        complain(text)
    return Exit.REFUSED


def _asked(args: argparse.Namespace) -> tuple[Target, float, Aim]:
    """The one point, its value, and its place. Raises ConfigError."""
    *points, text = args.rest
    target = pointed(args, points)
    # One address: the one that is looked up, asked about and audited.
    target = replace(target, device=structs.replace(target.device, backup=None))
    if len(target.points) != 1:
        raise ConfigError([f"{args.device}: found {len(target.points)} points, expected one"])
    try:
        value, aim = parse_value(text), aim_of(target)
        check_value(target, value)
    except RequestError as error:
        raise ConfigError([f"{args.device}: {error}"]) from None
    return target, value, aim


def _held_by_file(target: Target, aim: Aim) -> str:
    """Why the site file that was given stands against it; "" where nothing does."""
    if target.site is None:
        return ""
    what = holder(aim, holdings_of(target.site))
    if what is None:
        return ""
    return f"it is the {what} of the site file {target.site.site.id}; nobody else writes it"


def _before(target: Target, around: "Surroundings") -> Value | None:
    """The value that is there now; None where the device does not give it."""
    try:
        value = asyncio.run(read_once(target, around))[0]
    except DriverError as error:
        raise failed(target, error) from None
    return None if value.value != value.value else value


def _agreed(target: Target, before: Value | None, value: float) -> bool:
    print(plain(f"{_place(target)}: now {_words(before)}, to write: {_number(value)}"))
    try:
        answer = input("write it? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def _outcome(target: Target, before: Value | None, value: float, written: Written) -> Outcome:
    place, after = _place(target), _words(written.back)
    details: dict[str, Any] = {
        "point": target.points[0].label,
        "device": target.name,
        "old": before.value if before else None,
        "new": value,
        "read_back": written.back.value if written.back else None,
        "acknowledged": written.acknowledged,
    }
    text = f"{place}: {_words(before)} -> {_number(value)}"
    if written.took(value) and written.acknowledged:
        text += f", read back {after}"
        return Outcome(exit_code=Exit.DONE, code=0, text=text, confirmed=True, details=details)
    if written.refused:
        text += f": the device refuses it: {written.trouble}; it shows {after}"
        return Outcome(exit_code=Exit.FAILED, code=0, text=text, details=details)
    if not written.acknowledged:
        text += f": the device did not acknowledge it ({written.trouble}); it shows {after}"
        left = before is not None and written.took(before.value) and not written.took(value)
        code = Exit.FAILED if left else Exit.UNCONFIRMED
        return Outcome(exit_code=code, code=0, text=text, details=details)
    back = written.back
    if back is not None and back.value == back.value:
        text += f", but it reads back {after}: something else writes it, or the device refuses it"
    else:
        text += ", acknowledged, but it cannot be read back"
        text += f": {back.note}" if back is not None and back.note else ""
    if written.trouble:
        text += f" ({written.trouble})"
    return Outcome(exit_code=Exit.UNCONFIRMED, code=0, text=text, details=details)


def _keepers(
    args: argparse.Namespace, target: Target, sites: Sequence[RunningSite]
) -> list[RunningSite]:
    """The sites whose ledger it belongs into: that of the device, else the one that was named."""
    answering = [site for site in sites if site.answers]
    runtime = paths_of(args).runtime
    own = owners(target.device.address, answering)
    return own or [site for site in answering if site.paths.runtime == runtime]


def _place(target: Target) -> str:
    point = target.points[0]
    address = point.point.address
    where = f" ({address})" if address and not point.label.startswith(address) else ""
    return f"{target.name} {point.label}{where}"


def _words(value: Value | None) -> str:
    return "unreadable" if value is None else value.words


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


class _Audit:
    """The ledgers of the sites whose device it is, else the file in the state directory."""

    def __init__(
        self, args: argparse.Namespace, target: Target, sites: Sequence[RunningSite]
    ) -> None:
        paths = paths_of(args)
        self._target = f"{target.name} {target.points[0].label}"
        self._ledgers = [site.paths for site in sites]
        self._file = None if self._ledgers else LocalAudit(paths)
        self._seqs: list[int] = []
        names = [f"the ledger of the running site {site.name}" for site in sites]
        self.where: Final = " and ".join(names) if self._file is None else str(self._file.path)

    def begin(self, detail: dict[str, Any]) -> None:
        """Durable before the write. Raises GatewayError, and then nothing may be written."""
        if self._file is not None:
            who = who_of(os.getuid())
            self._seqs = [self._file.command(who, "write", self._target, detail)]
            return
        body = {"target": self._target, "detail": detail}
        self._seqs = [
            msgspec.json.decode(post(paths, "/written", body))["seq"] for paths in self._ledgers
        ]

    def end(self, code: int, text: str) -> None:
        """What became of it. Raises GatewayError."""
        if self._file is not None:
            self._file.result(self._seqs[0], code, text)
            return
        for paths, seq in zip(self._ledgers, self._seqs, strict=True):
            post(paths, "/written", {"seq": seq, "code": code, "text": text})
