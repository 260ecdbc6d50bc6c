"""One target under atheris, in a process of its own: ``python -m tests.fuzz.engine``.

atheris sees which lines of Python an input reaches. Of compiled modules it sees nothing: for them
the number that ``run`` returns stands in, by a function of its own for each.
"""

import argparse
import importlib
import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

TARGETS: Final = (
    "tcp", "rtu", "points", "program", "mailbox", "expression", "serial_frames", "driver", "chunk",
)  # fmt: skip
CPU_SECONDS_MAX: Final = 1.0  # of one input: of the thread, so that a busy machine lies less
HANG_SECONDS: Final = 30  # by the clock
OUTCOMES: Final = 512
SLOT_BYTES: Final = 1 << 16
LENGTH_BYTES: Final = 4

Run = Callable[[bytes], int]


class SlowError(Exception):
    """One input took too long."""


def target(name: str) -> Any:
    """The module of a target."""
    return importlib.import_module(f"tests.fuzz.{name}")


def timed(run: Run) -> Run:
    """The same, with a limit on what one input may take."""

    def limited(data: bytes) -> int:
        begin = time.thread_time()
        outcome = run(data)
        taken = time.thread_time() - begin
        if taken > CPU_SECONDS_MAX:
            msg = f"one input took {taken:.2f} s"
            raise SlowError(msg)
        return outcome

    return limited


def kept(run: Run, place: Path) -> Run:
    """The same, with the input in a file while it runs: a crash that stops all leaves it there."""
    with place.open("w+b") as file:
        file.truncate(SLOT_BYTES)
        slot = mmap.mmap(file.fileno(), SLOT_BYTES)

    def recorded(data: bytes) -> int:
        slot[: LENGTH_BYTES + len(data)] = len(data).to_bytes(LENGTH_BYTES, "little") + data
        outcome = run(data)
        slot[:LENGTH_BYTES] = bytes(LENGTH_BYTES)
        return outcome

    return recorded


def left_behind(place: Path) -> bytes:
    """The input that ran when the process ended; empty where none did."""
    raw = place.read_bytes() if place.exists() else b""
    length = int.from_bytes(raw[:LENGTH_BYTES], "little")
    return raw[LENGTH_BYTES : LENGTH_BYTES + length]


def main() -> None:
    """Fuzz one target; libFuzzer's own exit code, its words on stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("slot", type=Path)
    parser.add_argument("options", nargs="*")
    known, options = parser.parse_known_args()
    import atheris  # there is none for every platform

    with atheris.instrument_imports(include=["gateway.logic", "drivers", "tests.fuzz"]):
        module = target(known.target)

    def mark() -> Callable[[], None]:
        counted: Callable[[], None] = atheris.instrument_func(lambda: None)
        return counted

    marks = [mark() for _ in range(OUTCOMES)]
    run = kept(timed(module.run), known.slot)

    def once(data: bytes) -> None:
        marks[run(data) % OUTCOMES]()

    atheris.Setup(
        [sys.argv[0], f"-max_len={module.MAX_BYTES}", f"-timeout={HANG_SECONDS}",
         *known.options, *options],
        once,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    main()
