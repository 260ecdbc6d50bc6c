"""What a database writes to the disk: flash wears.

The kernel counts what each thread writes: the -wal, its checkpoints into the file, and nothing of
the rest of the gateway.
"""

import threading
from pathlib import Path

from aiosqlite import Connection

from gateway.store.sqlite_file import value_of


class Written:
    """Bytes that the threads of a database's connections have written, one after another."""

    def __init__(self) -> None:
        self.bytes_written = 0
        self._connection: Connection | None = None
        self._thread = 0
        self._seen = 0

    async def look(self, connection: Connection) -> None:
        """Bring it up to date; nothing is known where the kernel does not tell."""
        if connection is not self._connection:
            await connection.create_function("native_thread", 0, threading.get_native_id)
            self._thread = await value_of(connection, "SELECT native_thread()")
            self._connection, self._seen = connection, 0
        seen = _of_thread(self._thread)
        self.bytes_written += max(0, seen - self._seen)
        self._seen = seen


def _of_thread(thread: int) -> int:
    try:
        text = Path(f"/proc/self/task/{thread}/io").read_text("ascii")
    except OSError:
        return 0
    for line in text.splitlines():
        name, _, count = line.partition(":")
        if name == "wchar":
            return int(count)
    return 0
