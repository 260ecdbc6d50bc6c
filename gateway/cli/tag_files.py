"""``tags --import`` and ``--export``: lists of points from and to spreadsheets."""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.cli.table import complain, plain, show_json, show_table
from gateway.errors import ConfigError, GatewayError
from gateway.orders.outcome import Exit
from gateway.paths import replace_file

if TYPE_CHECKING:
    from gateway.commission.tag_import import Change, TagImport

NOTES_MAX: Final = 20  # told to people; --json has all


def add_tag_files(parser: argparse.ArgumentParser) -> None:
    """The options on lists of points."""
    parser.add_argument(
        "--import",
        dest="import_file",
        type=Path,
        metavar="FILE.csv",
        help="read a list of points and show what it would add or change",
    )
    parser.add_argument("--site", type=Path, metavar="SITE.toml", help="the site it is for")
    parser.add_argument("--device", default="", metavar="ID", help="of rows that name none")
    parser.add_argument(
        "--write", action="store_true", help="write it into the site's CSV, keeping the old one"
    )
    parser.add_argument(
        "--export", nargs="?", const="-", metavar="FILE.csv", help="the site's tags as a list"
    )
    parser.add_argument("--chinese", action="store_true", help="export under Chinese headings")


def tag_files(args: argparse.Namespace) -> int:
    """Import or export. Raises ConfigError with every error of every row."""
    if args.import_file and args.export:
        complain("tags: --import and --export are two commands")
        return Exit.USAGE
    if args.site is None and (args.export or args.write):
        complain("tags: this needs --site SITE.toml")
        return Exit.USAGE
    return _import(args) if args.import_file else _export(args)


def _import(args: argparse.Namespace) -> int:
    from gateway.commission.tag_import import read_import

    found = read_import(args.import_file, args.site, device=args.device)
    backup = _write(args, found) if args.write else None
    if args.json:
        show_json(_as_json(found, backup))
    else:
        _show(args, found)
        if backup is not None:
            print(plain(f"written to {found.path}; the old one is {backup}"))
    return Exit.DONE


def _write(args: argparse.Namespace, found: "TagImport") -> Path | None:
    """Replace the site's CSV in one step; where the old one is. Raises ConfigError."""
    if found.path is None:
        text = f'{args.site}: site.tags: found nothing, expected tags = "tags.csv" to write into'
        raise ConfigError([text])
    if all(change.kind == "same" for change in found.changes):
        return None
    backup = _backup(found.path)
    try:
        mode = found.path.stat().st_mode & 0o777
        replace_file(backup, found.path.read_bytes(), sync=True)
        replace_file(found.path, found.merged, sync=True)
        found.path.chmod(mode)
    except OSError as error:
        msg = f"{found.path} cannot be written: {error.strerror}"
        raise GatewayError(msg) from error
    return backup


def _backup(path: Path) -> Path:
    """Where the old list goes: a name by the time that is not there yet."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (f"{path.name}.{stamp}{f'-{n}' if n > 1 else ''}.bak" for n in itertools.count(1))
    return next(backup for backup in map(path.with_name, names) if not backup.exists())


def _show(args: argparse.Namespace, found: "TagImport") -> None:
    counts = {
        kind: sum(change.kind == kind for change in found.changes)
        for kind in ("read", "added", "changed", "same")
    }
    if counts["read"]:
        headings = ("row", "id", "device", "address", "type", "order", "unit")
        cells = [
            (c.row.number, *(c.row.cells.get(name, "") for name in headings[1:]))
            for c in found.changes
        ]
        show_table(f"{args.import_file}", headings, cells)
    else:
        rows = [(c.row.number, c.row.cells.get("id"), c.kind, _words(c)) for c in found.changes]
        told = [row for row in rows if row[2] != "same"]
        if told:
            show_table(f"{args.import_file}", ("row", "id", "", "columns"), told)
    notes = [f"row {c.row.number}: {note}" for c in found.changes for note in c.row.notes]
    for note in notes[:NOTES_MAX]:
        print(plain(f"note: {note}"))
    if len(notes) > NOTES_MAX:
        print(f"note: {len(notes) - NOTES_MAX} more translations of this kind (--json has them)")
    silent = [str(c.row.number) for c in found.changes if c.kind != "same" and _orderless(c)]
    if silent:
        print(
            f"note: {len(silent)} of two or four registers name no byte order (row {silent[0]}"
            f"{' ...' if len(silent) > 1 else ''}): the device's is taken; compare one value, "
            "'sitewarden read' shows a register in every order"
        )
    if found.guessed:
        print(f"note: it is no UTF-8 and was read as {found.guessed}: look at its letters")
    if found.left_out:
        names, more = found.left_out[:NOTES_MAX], len(found.left_out) - NOTES_MAX
        also = f" and {more} more" if more > 0 else ""
        print(plain(f"note: columns that mean nothing here: {', '.join(names)}{also}"))
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    print(f"{words or 'no rows'}" + ("" if args.write else "; nothing is written without --write"))


def _orderless(change: "Change") -> bool:
    """A Modbus point of several registers that leaves their order to the device."""
    cells = change.row.cells
    wide = cells.get("type", "")[-2:] in ("32", "64")
    return wide and not cells.get("order") and cells.get("address", "")[:3] in ("hr:", "ir:")


def _words(change: "Change") -> str:
    if change.kind == "added":
        cells = change.row.cells
        names = ("device", "address", "type", "order", "unit")
        words = [cells[name] for name in names if cells.get(name)]
        if cells.get("low") or cells.get("high"):
            words.append(f"{cells.get('low', '')}..{cells.get('high', '')}")
        return " ".join(words)
    return "; ".join(f"{name}: {old or '-'} -> {new or '-'}" for name, old, new in change.columns)


def _as_json(found: "TagImport", backup: Path | None) -> dict[str, Any]:
    return {
        "rows": [
            {
                "row": change.row.number,
                "change": change.kind,
                "tag": change.row.cells,
                "columns": [
                    {"column": name, "before": old, "after": new}
                    for name, old, new in change.columns
                ],
                "notes": change.row.notes,
            }
            for change in found.changes
        ],
        "left_out": found.left_out,
        "guessed": found.guessed or None,
        "backup": str(backup) if backup else None,
    }


def _export(args: argparse.Namespace) -> int:
    from gateway.commission.tag_export import exported

    content, left_out = exported(args.site, chinese=args.chinese)
    for line in left_out:
        complain(line)
    if args.export == "-":
        sys.stdout.buffer.write(content)
        return Exit.DONE
    try:
        with Path(args.export).open("xb") as file:
            file.write(content)
    except FileExistsError:
        msg = f"{args.export} is there already; name another file, or remove it first"
        raise GatewayError(msg) from None
    except OSError as error:
        msg = f"{args.export} cannot be written: {error.strerror}"
        raise GatewayError(msg) from error
    return Exit.DONE
