"""``letters``: what an uplink has refused for good; to look at, to send again, to give up.

Looking works without a gateway, from the ledger's file; orders go through the gateway.
"""

import argparse
from typing import Final

import msgspec

from gateway.cli.client import NotReached, get, post
from gateway.cli.hands import outcome_of, tell
from gateway.cli.options import add_directories, add_json, paths_of
from gateway.cli.table import complain, moment, plain, show_json, show_table
from gateway.orders.outcome import Exit
from gateway.view.letters import PAGE_MAX, LetterRow, row_of

LISTED: Final = 100
HEADINGS: Final = ("id", "uplink", "lane", "seq", "refused", "reason", "state", "note")


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "what an uplink has refused for good: list, show, send again, give up"
    family = commands.add_parser("letters", help=text, description=text)
    family.set_defaults(run=list_letters, after=0, limit=LISTED)
    _add_list(family)
    actions = family.add_subparsers(metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        # What stands before its name holds, too.
        absent = argparse.SUPPRESS
        return actions.add_parser(name, help=text, description=text, argument_default=absent)

    parser = action("list", "those that wait for somebody (also without an action)")
    _add_list(parser)
    parser = action("show", "one letter with what it holds")
    parser.add_argument("id", type=int, metavar="ID")
    _add_common(parser)
    parser.set_defaults(run=show)
    parser = action("resend", "have them sent once more, under their own identity")
    parser.add_argument("ids", nargs="+", type=_range, metavar="ID", help="a number, or 12-40")
    parser.add_argument("--reason", default="", metavar="TEXT")
    _add_common(parser)
    parser.set_defaults(run=order, action="resend")
    parser = action("discard", "give them up: what they hold is not kept")
    parser.add_argument("ids", nargs="+", type=_range, metavar="ID", help="a number, or 12-40")
    parser.add_argument("--reason", required=True, metavar="TEXT")
    _add_common(parser)
    parser.set_defaults(run=order, action="discard")


def list_letters(args: argparse.Namespace) -> int:
    """Print a page of letters."""
    limit = min(max(args.limit, 1), PAGE_MAX)
    rows = _listed(args, limit)
    if args.json:
        show_json(rows)
        return Exit.DONE
    cells = [
        (r.id, r.uplink, r.lane, r.seq, moment(r.time), r.reason, r.state, r.note) for r in rows
    ]
    show_table("letters", HEADINGS, cells)
    if len(rows) == limit:
        print(f"there may be more: --after {rows[-1].id}")
    return Exit.DONE


def show(args: argparse.Namespace) -> int:
    """Print one letter."""
    row = _one(args)
    if row is None:
        complain(f"there is no letter {args.id}; look with 'sitewarden letters --all'")
        return Exit.USAGE
    if args.json:
        show_json(row)
        return Exit.DONE
    show_table("letters", HEADINGS, [(row.id, row.uplink, row.lane, row.seq, moment(row.time),
                                      row.reason, row.state, row.note)])  # fmt: skip
    if row.body is None:
        print(f"what it held is not kept: it is {row.state} since {moment(row.changed)}")
    elif isinstance(row.body, str):
        print(plain(row.body))
    else:
        show_json(row.body)
    return Exit.DONE


def order(args: argparse.Namespace) -> int:
    """Resend or discard, through the gateway."""
    ids = [ident for idents in args.ids for ident in idents]
    body = {"action": args.action, "ids": ids, "reason": args.reason}
    outcome = outcome_of(post(paths_of(args), "/letters", body))
    return tell(args, outcome)


def _listed(args: argparse.Namespace, limit: int) -> list[LetterRow]:
    paths = paths_of(args)
    target = f"/letters?after={args.after}&limit={limit}&all={int(args.all)}"
    try:
        return msgspec.json.decode(get(paths, target), type=list[LetterRow])
    except NotReached:
        from gateway.store.ledger_reader import LedgerReader

        with LedgerReader(paths.ledger) as reader:
            return [row_of(each) for each in reader.letters(args.after, limit, every=args.all)]


def _one(args: argparse.Namespace) -> LetterRow | None:
    paths = paths_of(args)
    try:
        return msgspec.json.decode(get(paths, f"/letters/{args.id}"), type=LetterRow | None)
    except NotReached:
        from gateway.store.ledger_reader import LedgerReader

        with LedgerReader(paths.ledger) as reader:
            letter = reader.letter(args.id)
        return row_of(letter) if letter else None


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also what is settled")
    parser.add_argument("--after", type=int, metavar="ID", help="only above this letter")
    parser.add_argument("--limit", type=int, metavar="N", help=f"at most {PAGE_MAX}")
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    add_directories(parser)


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        found = range(int(first), int(last or first) + 1)
    except ValueError:
        found = range(0)
    if not 0 < len(found) <= PAGE_MAX or found[0] < 1:
        msg = f"{text!r} is no letter's number, nor a range of at most {PAGE_MAX} such as 12-40"
        raise argparse.ArgumentTypeError(msg)
    return found
