"""Run by thingsboard-gateway's own interpreter: events from stdin into its SQLite storage.

Prints the seconds until all of them are committed. Its settings are its defaults (synchronous is
NORMAL there, and it syncs nothing per commit).
"""

import importlib
import logging
import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

LIMIT_S = 120.0


def stored(path: Path) -> int:
    """Rows that are committed."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM messages").fetchone()[0])


def main() -> None:
    """Store all lines of stdin."""
    directory = Path(sys.argv[1])
    directory.mkdir()
    logging.addLevelName(5, "TRACE")
    logger = logging.getLogger("storage")
    logger.trace = lambda *_, **__: None  # type: ignore[attr-defined]
    module = importlib.import_module("thingsboard_gateway.storage.sqlite.sqlite_event_storage")
    events = sys.stdin.read().splitlines()
    storage = module.SQLiteEventStorage(
        {"data_file_path": f"{directory}/"}, logger, threading.Event()
    )
    begin = time.monotonic()
    for event in events:
        storage.put(event)
    while (count := stored(directory / "data.db")) < len(events):
        if time.monotonic() - begin > LIMIT_S:
            sys.exit(f"{count} of {len(events)} events after {LIMIT_S:.0f} s")
        time.sleep(0.005)
    took_s = time.monotonic() - begin
    with closing(sqlite3.connect(directory / "data.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sys.stdout.write(f"{took_s}\n")
    sys.stdout.flush()
    storage.stop()


if __name__ == "__main__":
    main()
