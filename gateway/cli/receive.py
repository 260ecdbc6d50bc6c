"""``receive``: a small receiving platform over HTTP and MQTT, and what it has."""

import argparse
import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Any

from gateway.cli.logs import configure
from gateway.cli.options import add_credentials, add_json
from gateway.cli.table import moment, show_json, show_table
from gateway.errors import ConfigError
from gateway.orders.outcome import Exit

LISTEN = "127.0.0.1:9760"
PORT_MAX = 65_535


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this family to the parser."""
    text = "receive alerts and samples over HTTP and MQTT; show what came and what is missing"
    parser = commands.add_parser("receive", help=text, description=text)
    parser.add_argument(
        "--listen",
        type=_address,
        default=LISTEN,
        metavar="HOST:PORT",
        help=f"for HTTP; port 0: any free one, '': no HTTP (default: {LISTEN})",
    )
    parser.add_argument(
        "--mqtt", default="", metavar="URL", help="subscribe here too: mqtt://HOST:PORT or mqtts://"
    )
    parser.add_argument(
        "--store", type=Path, metavar="FILE.db", help="keep it in this SQLite file (else in memory)"
    )
    parser.add_argument(
        "--count",
        action="store_true",
        help="count samples and watch their sequence, do not keep them (nor compare doubles)",
    )
    parser.add_argument(
        "--secret-file",
        type=Path,
        metavar="FILE",
        help="take over HTTP only what is signed with this secret (Standard Webhooks)",
    )
    parser.add_argument("--credentials", default="", metavar="NAME", help="for the broker")
    add_credentials(parser)
    parser.add_argument(
        "--show", type=Path, metavar="FILE.db", help="say what this file has, and end"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Receive until interrupted (prints one JSON line with the address first), or show a file.

    ``--show`` gives 1 where something is missing or differs.
    """
    if args.show:
        return _show(args)
    from gateway.receiver.receive import Settings
    from gateway.site.credentials import load_credentials

    named = args.credentials
    settings = Settings(
        listen=args.listen,
        mqtt=args.mqtt,
        store=args.store,
        samples=not args.count,
        secret_file=args.secret_file,
        credentials=load_credentials(named, args.credentials_dir) if named else None,
    )
    if not (args.listen or args.mqtt):
        raise ConfigError(["nothing to receive on: give --listen HOST:PORT or --mqtt URL"])
    configure()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_receive(settings))
    return Exit.DONE


def _address(text: str) -> str:
    """``HOST:PORT``, for argparse; empty: not over HTTP."""
    port = text.rpartition(":")[2]
    if text and not (":" in text and port.isdecimal() and int(port) <= PORT_MAX):
        msg = f'found "{text}", expected an address such as "127.0.0.1:8080"'
        raise argparse.ArgumentTypeError(msg)
    return text


async def _receive(settings: Any) -> None:
    """Until SIGTERM or Ctrl-C."""
    from gateway.receiver.receive import receive

    task = asyncio.ensure_future(
        receive(settings, on_ready=lambda url: print(json.dumps({"url": url}), flush=True))
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def _show(args: argparse.Namespace) -> int:
    from gateway.receiver.report import report_of

    found = report_of(args.show)
    if args.json:
        show_json(found)
    else:
        _tables(found)
    return Exit.DONE if found["complete"] else Exit.FAILED


def _tables(found: dict[str, Any]) -> None:
    show_table(
        "sequences",
        ("gateway", "uplink", "epoch", "lane", "from", "to", "missing", "given up", "doubles",
         "differing", "samples", "until"),
        [
            (row["gateway"], row["uplink"], row["epoch"], row["lane"], row["from"], row["to"],
             _ranges(row), _given_up(row), row["doubles"], row["differing"],
             row["samples"] if row["lane"] != "alert" else None, moment(row["last_time"]))
            for row in found["streams"]
        ],
    )  # fmt: skip
    states = found["alert_states"]
    print(f"alerts: {found['alerts']}, open {states['open']}, closed {states['closed']}")
    show_table(
        "open alerts",
        ("time", "kind", "id"),
        [(moment(row["time"]), row["kind"], row["id"]) for row in states["open_alerts"]],
    )
    show_table(
        "gateways",
        ("gateway", "uplink", "state", "since"),
        [
            (row["gateway"], row["uplink"], row["state"], moment(row["since"]))
            for row in found["gateways"]
        ],
    )
    for reason, count in found["refused"].items():
        print(f"not taken, {reason}: {count}")
    if not found["complete"]:
        print("something is missing, or came again with other content")


def _ranges(row: dict[str, Any]) -> str:
    """``3: 5-6, 9``."""
    if not row["missing"]:
        return "0"
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in row["missing_ranges"]]
    shown = ", ".join(texts[:5]) + ", ..." * (len(texts) > 5)
    return f"{row['missing']}: {shown}"


def _given_up(row: dict[str, Any]) -> str:
    """What the gateway said will not come, and has not."""
    texts = [f"{gap['lost']} {gap['reason']}" for gap in row["gaps"] if gap["lost"]]
    return ", ".join(texts[:3]) + ", ..." * (len(texts) > 3) if texts else "0"
