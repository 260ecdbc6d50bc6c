"""What a receiving platform has, from its tables: ``GET /received`` and ``receive --show``.

Nothing missing means: every number from the first that came to the last has come, or a marker says
that it will not.
"""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.receiver.archive import APPLICATION_ID, VERSION, Archive
from gateway.receiver.arrival import ALERT_LANE
from gateway.receiver.stream import Stream
from gateway.store.alert import rfc3339

RANGES_SHOWN_MAX: Final = 100
OPEN_SHOWN_MAX: Final = 100
READ_S: Final = 5.0

_OPEN: Final = (
    "FROM alert AS opener WHERE state = 'raised' AND ref IS NULL AND NOT EXISTS "
    "(SELECT 1 FROM alert WHERE ref = opener.id AND state = 'cleared')"
)


def report(connection: sqlite3.Connection) -> dict[str, Any]:
    """The whole of it, a bounded number of ranges and open alerts."""
    archive = Archive.of(connection)
    streams = [_stream(stream) for _, stream in sorted(archive.streams().items())]
    alerts = [row for row in streams if row["lane"] == ALERT_LANE]
    samples = [row for row in streams if row["lane"] != ALERT_LANE]
    return {
        "complete": not any(row["missing"] or row["differing"] for row in streams),
        "alerts": sum(row["messages"] for row in alerts),
        "alerts_arrived": sum(row["messages"] + row["doubles"] for row in alerts),
        "values": sum(row["samples"] for row in samples),
        "duplicates": sum(row["doubles"] for row in streams),
        "differing": sum(row["differing"] for row in streams),
        "gateways": [
            {"gateway": gateway, "uplink": uplink, "state": state, "since": rfc3339(utc_ns)}
            for gateway, uplink, state, utc_ns in connection.execute("SELECT * FROM gateway")
        ],
        "streams": streams,
        "alert_states": _alert_states(connection),
        "last_alert": connection.execute("SELECT max(arrival) FROM alert").fetchone()[0] or 0,
        "refused": dict(connection.execute("SELECT reason, count FROM refused").fetchall()),
    }


def alerts_after(connection: sqlite3.Connection, arrival: int, limit: int) -> list[dict[str, Any]]:
    """``{"arrival", "alert"}`` of what arrived after that one."""
    rows = connection.execute(
        "SELECT arrival, body FROM alert WHERE arrival > ? ORDER BY arrival LIMIT ?",
        (arrival, limit),
    )
    return [{"arrival": number, "alert": json.loads(body)} for number, body in rows]


def report_of(path: Path) -> dict[str, Any]:
    """The report of a file, also while somebody receives into it. Raises GatewayError."""
    if not path.is_file():
        what = "is a directory, expected a file" if path.is_dir() else "there is no such file"
        msg = f"{path}: {what}"
        raise GatewayError(msg)
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=READ_S)
        ) as connection:
            connection.execute("BEGIN")  # one moment for all of it
            ident = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if ident != APPLICATION_ID or version > VERSION:
                msg = f"{path}: not a file of this version's sitewarden receive"
                raise GatewayError(msg)
            return report(connection)
    except sqlite3.Error as error:
        msg = f"{path}: cannot be read: {error}"
        raise GatewayError(msg) from error


def _stream(stream: Stream) -> dict[str, Any]:
    accounted = stream.accounted()
    missing = accounted.missing(accounted.first, accounted.last)
    key = stream.key
    return {
        "gateway": key.gateway,
        "uplink": key.uplink,
        "epoch": key.epoch,
        "lane": key.lane,
        "from": accounted.first,
        "to": accounted.last,
        "messages": stream.messages,
        "samples": stream.samples,
        "missing": missing.count(),
        "missing_ranges": [list(each) for each in list(missing)[:RANGES_SHOWN_MAX]],
        "doubles": stream.doubles,
        "differing": stream.differing,
        "gaps": _gaps(stream),
        "first_time": rfc3339(stream.t_first) if stream.t_first else None,
        "last_time": rfc3339(stream.t_last) if stream.t_last else None,
    }


def _gaps(stream: Stream) -> list[dict[str, Any]]:
    """The markers; ``lost``: how many of their numbers have not come after all."""
    return [
        {
            "first": first,
            "last": last,
            "reason": reason,
            "lost": stream.came.missing(first, last).count(),
        }
        for (first, last), reason in sorted(stream.gaps.items())[:RANGES_SHOWN_MAX]
    ]


def _alert_states(connection: sqlite3.Connection) -> dict[str, Any]:
    """Raises that nothing has cleared, and how many have been."""
    opened = connection.execute(f"SELECT count(*) {_OPEN}").fetchone()[0]
    raised = connection.execute(
        "SELECT count(*) FROM alert WHERE state = 'raised' AND ref IS NULL"
    ).fetchone()[0]
    listed = connection.execute(
        f"SELECT id, kind, time {_OPEN} ORDER BY arrival DESC LIMIT ?",
        (OPEN_SHOWN_MAX,),
    )
    return {
        "open": opened,
        "closed": raised - opened,
        "open_alerts": [{"id": ident, "kind": kind, "time": at} for ident, kind, at in listed],
    }
