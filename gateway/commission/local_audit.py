"""The audit of writes where no site runs: JSON lines in the state directory, chained as a ledger's.

Each entry is on the disk before the write that it tells of. One file per state directory.
"""

import fcntl
import os
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

import msgspec

from gateway.errors import StoreError
from gateway.paths import DIRECTORY_MODE, Paths
from gateway.store.audit import COMMAND, AuditEntry

NAME: Final = "writes.jsonl"
TAIL_BYTES: Final = 64 * 1024  # more than the longest entry


class LocalAudit:
    """Both calls may raise StoreError; then nothing is written."""

    def __init__(self, paths: Paths) -> None:
        self.path: Final = paths.state / NAME

    def command(self, who: str, action: str, target: str, detail: Mapping[str, Any]) -> int:
        """Write a command down, durably; its number."""
        return self._append(COMMAND, None, (who, action, target), detail)

    def result(self, seq: int, code: int, text: str) -> None:
        """Write down what became of command ``seq``; ``code`` 1: done."""
        self._append("result", seq, ("", "", ""), {"code": code, "text": text})

    def _append(
        self, kind: str, ref: int | None, whose: tuple[str, str, str], detail: Mapping[str, Any]
    ) -> int:
        try:
            self.path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
            with os.fdopen(descriptor, "rb+", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
                seq, digest = _last(file)
                said = msgspec.json.encode(detail).decode()
                entry = AuditEntry(seq + 1, time.time_ns(), kind, ref, *whose, said)
                body, digest = entry.sealed(digest)
                line = {"entry": msgspec.Raw(body), "hash": digest.hex()}
                file.write(msgspec.json.encode(line) + b"\n")
                os.fsync(file.fileno())
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            msg = f"the audit {self.path} cannot be written: {error}"
            raise StoreError(msg) from error
        return entry.seq


def _last(file: BinaryIO) -> tuple[int, bytes]:
    """(number, hash) of the last whole entry. Raises ValueError where the file is none of ours."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    whole = file.read()
    if not whole:
        return 0, b""
    if not whole.endswith(b"\n"):  # an entry that a power cut has cut short: the chain shows it
        file.write(b"\n")
    for line in reversed(whole.splitlines()):
        try:
            fields = msgspec.json.decode(line)
            entry = fields.get("entry", fields)  # older lines have the fields themselves
            return int(entry["seq"]), bytes.fromhex(fields["hash"])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            continue
    msg = "it is not a file of this audit; move it away"
    raise ValueError(msg)
