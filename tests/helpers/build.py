"""Compiles the tests' own C programs into ``tests/helpers/bin``, once per change."""

import fcntl
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BIN = HERE / "bin"
BENCHMARKS = HERE.parent / "benchmarks"
WARNINGS = ("-O2", "-g", "-Wall", "-Wextra")

# program: (source, flags after it)
PROGRAMS = {
    "modbus_server": (HERE / "modbus_server.c", ("-I/usr/include/modbus", "-lmodbus")),
    "rtu_server": (HERE / "rtu_server.c", ("-I/usr/include/modbus", "-lmodbus")),
    "instrument": (HERE / "instrument.c", ()),
    "mangler": (HERE / "mangler.c", ()),
    "bare_loop": (BENCHMARKS / "bare_loop.c", ()),
    "bare_polls": (BENCHMARKS / "bare_polls.c", ()),
    "libinterpreter.so": (BENCHMARKS / "interpreter.c", ("-shared", "-fPIC", "-lm")),
    "libcount.so": (HERE / "count_calls.c", ("-shared", "-fPIC")),
    "libhold.so": (HERE / "hold.c", ("-shared", "-fPIC")),
    "libcut.so": (HERE / "cut.c", ("-shared", "-fPIC", "-ldl")),
    "libclock.so": (HERE / "clock.c", ("-shared", "-fPIC", "-ldl")),
    "libdisk.so": (HERE / "disk.c", ("-shared", "-fPIC", "-ldl")),
}


def build(name: str) -> Path:
    """Path of the compiled program. Raises CalledProcessError with gcc's own words on stderr."""
    source, flags = PROGRAMS[name]
    BIN.mkdir(exist_ok=True)
    target = BIN / name
    with (BIN / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            fresh = target.with_name(f".{name}")
            subprocess.run(["gcc", *WARNINGS, str(source), "-o", str(fresh), *flags], check=True)
            fresh.replace(target)
    return target


if __name__ == "__main__":
    for program in sys.argv[1:] or PROGRAMS:
        sys.stdout.write(f"{build(program)}\n")
