"""The scan loop; the guard's main thread is its only user."""

import threading

from fastpath.journal import SharedFile

STOP_SIGNAL: int
STOP_COMMAND: int

class Engine:
    """The guard's state and its scan thread. Raises MemoryError, ValueError for no program."""

    running: threading.Event

    def __init__(
        self,
        file: SharedFile,
        blob: bytes,
        *,
        listen_fd: int,
        wake_fd: int,
        main_fd: int,
        own_uid: int,
        gateway_uid: int,
        operators_gid: int,
        notify_fd: int,
        notify_ns: int,
        power_loss: bool,
        lost_program: bool,
        clean: bool,
        interlocks: dict[int, bytes],
        outputs: dict[int, bytes],
    ) -> None: ...
    @property
    def locked(self) -> bool: ...
    @property
    def realtime(self) -> bool: ...
    @property
    def stopped_by(self) -> int: ...
    def run(self) -> None: ...
    def stop(self, signal: int) -> None: ...
    def asked(self) -> tuple[bytes, bytes, int] | None: ...
    def refuse(self, code: int, detail: int) -> None: ...
    def offer(self, blob: bytes) -> None: ...
    def swapped(self) -> bool: ...
    def program_hash(self) -> bytes: ...
    def latches(self) -> tuple[dict[int, bytes], dict[int, bytes]]: ...
