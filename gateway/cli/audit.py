"""``audit``: who did what, and whether anybody has touched the record of it since.

Reads the ledger's file alone, so it works with the gateway running, hanging or gone, and on a copy.
"""

import argparse
import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.cli.options import add_directories, add_json, paths_of
from gateway.cli.table import complain, moment, plain, show_json, show_table
from gateway.errors import ConfigError, GatewayError
from gateway.orders.outcome import Exit
from gateway.site.whole_file import whole_file
from gateway.store.alert import rfc3339
from gateway.store.audit import AuditEntry, Chain, ChainError
from gateway.store.ledger_reader import LedgerReader

SHOWN: Final = 20
SHOWN_MAX: Final = 1_000
DETAIL_CHARACTERS: Final = 100
ALERTS_BYTES_MAX: Final = 256 * 1024 * 1024
HEAD_HEX: Final = 64


class LeftHead(Struct, kw_only=True):
    """A head that left the box, and the entry whose hash it is; None: the chain has none such."""

    head: str
    alert: str = ""  # the newest alert that carried it
    entry: int | None = None


class Verdict(Struct, kw_only=True):
    """``audit verify --json``."""

    ok: bool
    gateway: str
    entries: int  # that hold
    head: str
    text: str
    wrong_at: int | None = None  # the first entry that does not fit
    heads: list[LeftHead] = []


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "who did what: show it, and prove that nobody has changed it"
    family = commands.add_parser("audit", help=text, description=text)
    actions = family.add_subparsers(metavar="ACTION", required=True)
    text = "recompute the whole chain; exit 1 names the first entry that does not fit"
    parser = actions.add_parser("verify", help=text, description=text)
    parser.add_argument("site", nargs="?", type=Path, metavar="SITE.toml",
                        help="whose audit it must be")  # fmt: skip
    parser.add_argument("--head", action="append", default=[], type=_head_of, metavar="HEX",
                        help="an audit_head that left the box: finds what was cut off")  # fmt: skip
    parser.add_argument("--alert", action="append", default=[], type=Path, metavar="FILE",
                        help="alerts as a receiver got them, JSON, one to a line")  # fmt: skip
    add_json(parser)
    add_directories(parser)
    parser.set_defaults(run=verify)
    text = "the newest entries"
    parser = actions.add_parser("show", help=text, description=text)
    parser.add_argument("--last", type=int, default=SHOWN, metavar="N",
                        help=f"how many, at most {SHOWN_MAX}")  # fmt: skip
    parser.add_argument("--before", type=int, metavar="ENTRY", help="older than this entry")
    parser.add_argument("--raw", action="store_true",
                        help="every entry's exact bytes, one to a line")  # fmt: skip
    add_json(parser)
    add_directories(parser)
    parser.set_defaults(run=show)


def verify(args: argparse.Namespace) -> int:
    """Verify the chain, and that it has the heads that left."""
    heads = [LeftHead(head=head) for head in args.head]
    with LedgerReader(paths_of(args).ledger) as reader:
        _check_site(args.site, reader.gateway)
        for path in args.alert:
            heads += _heads_in(path, reader.gateway)
        verdict = verdict_of(reader, heads)
    if args.json:
        show_json(verdict)
    elif verdict.ok:
        print(plain(verdict.text))
        for left in verdict.heads:
            after = verdict.entries - (left.entry or 0)
            print(plain(f"  {_name(left)} is entry {left.entry}; {after} came after it"))
    else:
        complain(verdict.text)
    return Exit.DONE if verdict.ok else Exit.FAILED


def show(args: argparse.Namespace) -> int:
    """Print a page of entries, or all of them as they are hashed."""
    with LedgerReader(paths_of(args).ledger) as reader:
        if args.raw:
            for _seq, _kind, _action, body, _hash in reader.audit_rows():
                line = body if isinstance(body, bytes) else str(body).encode()  # edited
                sys.stdout.buffer.write(line + b"\n")
            return Exit.DONE
        entries = _page(reader, args.before, min(max(args.last, 1), SHOWN_MAX))
    if args.json:
        show_json([_fields(entry) for entry in entries])
    else:
        headings = ("entry", "time", "who", "action", "target", "what")
        show_table("audit", headings, [_cells(entry) for entry in entries])
    return Exit.DONE


def verdict_of(reader: LedgerReader, heads: list[LeftHead]) -> Verdict:
    """What the whole chain says; ``heads`` get their entries. Raises StoreError."""
    wanted: dict[str, list[LeftHead]] = {}
    for left in heads:
        wanted.setdefault(left.head, []).append(left)
    chain, text, wrong_at = Chain(), "", None
    try:
        for row in reader.audit_rows():
            entry, was = chain.take(row)
            for left in [*wanted.get(chain.head.hex(), ()), *wanted.get(was, ())]:
                left.entry = entry.seq
    except ChainError as error:
        text, wrong_at = f"the audit does not hold: {error}", error.seq
    lost = [left for left in heads if left.entry is None]
    if not text and lost:
        text = (
            f"the audit was cut or written anew: {_name(lost[0])} left the box, and none of its "
            f"{chain.entries} entries has that hash"
        )
        wrong_at = chain.entries + 1
    if not text:
        head = f"head {chain.head.hex()}" if chain.entries else "no entry"
        text = f"the audit of {reader.gateway} holds: {chain.entries} entries, {head}"
    return Verdict(
        ok=wrong_at is None,
        gateway=reader.gateway,
        entries=chain.entries,
        head=chain.head.hex(),
        text=text,
        wrong_at=wrong_at,
        heads=heads,
    )


def _page(reader: LedgerReader, before: int | None, count: int) -> list[AuditEntry]:
    end = reader.audit_entries() + 1
    end = end if before is None else min(before, end)
    found = []
    for seq, _kind, _action, body, _hash in reader.audit_rows(max(0, end - 1 - count)):
        if seq >= end:
            break
        try:
            found.append(AuditEntry.of(body))
        except ValueError:
            found.append(AuditEntry(seq, 0, "", None, "", "UNREADABLE", "", '"audit verify"'))
    return found


def _cells(entry: AuditEntry) -> tuple[object, ...]:
    said = msgspec.json.decode(entry.detail)
    if isinstance(said, dict):
        said = ", ".join(f"{key} {value}" for key, value in said.items() if value not in ("", None))
    action = f"result of {entry.ref}" if entry.ref else entry.action
    what = str(said)[:DETAIL_CHARACTERS]
    return entry.seq, moment(rfc3339(entry.utc_ns)), entry.who, action, entry.target, what


def _fields(entry: AuditEntry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "time": rfc3339(entry.utc_ns),
        "kind": entry.kind,
        "ref": entry.ref,
        "who": entry.who,
        "action": entry.action,
        "target": entry.target,
        "detail": msgspec.json.decode(entry.detail),
    }


def _heads_in(path: Path, gateway: str) -> list[LeftHead]:
    """Every head that this gateway's alerts in a file carried, once each. Raises GatewayError."""
    found: dict[str, LeftHead] = {}
    try:
        for alert in _alerts_in(whole_file(path, ALERTS_BYTES_MAX)):
            head = alert.get("audit_head")
            if isinstance(head, str) and head and alert.get("gateway") == gateway:
                found[head] = LeftHead(head=head, alert=str(alert.get("id", "")))
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        if error.errno == errno.EFBIG:
            msg += "; take the newest alerts alone"
        raise GatewayError(msg) from error
    if not found:
        msg = f"{path} holds no alert of gateway '{gateway}' with an audit_head"
        raise GatewayError(msg)
    return list(found.values())


def _alerts_in(text: bytes) -> Iterator[dict[str, Any]]:
    """Alerts bare, in CloudEvents, in lists; as one document or one to a line."""
    try:
        documents = [msgspec.json.decode(text)]
    except msgspec.DecodeError:
        documents = []
        for line in text.splitlines():
            try:
                documents.append(msgspec.json.decode(line))
            except msgspec.DecodeError:
                continue
    for document in documents:
        yield from _alerts_of(document)


def _alerts_of(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, list):
        for item in document:
            yield from _alerts_of(item)
    elif isinstance(document, dict):
        yield document
        for key in ("alerts", "data"):
            yield from _alerts_of(document.get(key))


def _check_site(site: Path | None, gateway: str) -> None:
    """Raises ConfigError or GatewayError where the ledger is another site's."""
    if site is None:
        return
    from gateway.build import gateway_name
    from gateway.site.load import load_site

    config, errors, _ = load_site(site)
    if config is None:
        raise ConfigError(errors)
    expected = gateway_name(config)
    if expected != gateway:
        msg = f"the ledger is of gateway '{gateway}', {site} of '{expected}'; name its --state-dir"
        raise GatewayError(msg)


def _head_of(text: str) -> str:
    head = text.strip().lower()
    if len(head) != HEAD_HEX or set(head) - set("0123456789abcdef"):
        msg = f"found {text!r}, expected {HEAD_HEX} hexadecimal digits"
        raise argparse.ArgumentTypeError(msg)
    return head


def _name(left: LeftHead) -> str:
    return f"head {left.head[:12]}…" + (f" of alert {left.alert}" if left.alert else "")
