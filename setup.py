"""The extension modules. Everything else about the project is in pyproject.toml.

Two builds: the release build, and with SITEWARDEN_CHECKED=1 one with bounds checks, line tracing,
the undefined-behaviour sanitizer and failpoints (``make checked``, in a copy of its own; for tests
of the logic, never for timing).
"""

import os
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

# Every one is needed: the daemon does not start without its compiled modules.
MODULES = [
    "accumulator",
    "buckets",
    "bus",
    "bypass",
    "columns",
    "commands",
    "decode",
    "delivery",
    "demand",
    "difference",
    "engine",
    "evaluate",
    "evaluator",
    "heartbeat",
    "image",
    "indices",
    "intake",
    "interlock",
    "journal",
    "layout",
    "lease",
    "line",
    "link",
    "mailbox",
    "memory",
    "modbus",
    "nodes",
    "numbers",
    "orders",
    "outputs",
    "packing",
    "poller",
    "program",
    "recording",
    "recover",
    "rehearsal",
    "rtu",
    "runtime",
    "scan",
    "streams",
    "swap",
    "table",
    "transition",
    "unpacking",
    "verify",
    "watchdog",
    "windows",
    "writer",
]

JOBS = min(8, len(os.sched_getaffinity(0)))  # a container has fewer than its host, and less memory
CHECKED = os.environ.get("SITEWARDEN_CHECKED") == "1"
DIRECTIVES = {"language_level": 3, "linetrace": CHECKED}
COMPILE = ["-O2", "-Wall", "-Wsign-compare", "-Wno-unused-function"]
LINK: list[str] = []
MACROS: list[tuple[str, str | None]] = []
if CHECKED:
    DIRECTIVES |= {"boundscheck": True, "initializedcheck": True}
    COMPILE[0] = "-O1"
    COMPILE += ["-g", "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=undefined"]
    MACROS += [("CYTHON_TRACE_NOGIL", "1"), ("SITEWARDEN_FAILPOINTS", "1")]

EXTENSIONS = [
    Extension(
        f"fastpath.{name}",
        [f"fastpath/{name}.pyx"],
        depends=sorted(glob("fastpath/*.pxd") + glob("fastpath/*.h")),
        define_macros=MACROS,
        extra_compile_args=COMPILE,
        extra_link_args=LINK,
    )
    for name in MODULES
]

if __name__ == "__main__":  # where children are not forked, each of them reads this file
    setup(
        ext_modules=cythonize(
            EXTENSIONS, nthreads=JOBS, compiler_directives=DIRECTIVES, quiet=True
        ),
        options={"build_ext": {"parallel": JOBS}},
    )
