"""The fast path with every check compiled in: ``python -m tests.checked [--short | ARGUMENTS]``.

A copy of the project in ``build/checked``, compiled with bounds checks, the undefined-behaviour
sanitizer, line tracing and failpoints; the tests of the fast path run on it, and its coverage by
lines is printed. Only what changed is copied and compiled again.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
COPY = ROOT / "build" / "checked"
FOLDERS = ("config", "drivers", "fastpath", "gateway", "systemd", "tests")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in")
MADE = re.compile(r"\.so$|\.pyc$|/__pycache__/|fastpath/[a-z_]+\.c$|/helpers/bin/")
UNCHECKED = re.compile(rb"(# cython: )boundscheck=False, wraparound=False(?:, )?")
TESTS, KILLED = "tests/fastpath", "tests/checked"  # what is killed has no coverage to tell
SHORT = (  # what needs no process of its own, and the guard's own story
    "accumulator", "blob", "bypass", "columns", "decode", "guard", "image", "modbus_frames",
    "packed", "program", "ride_through", "scan", "stepper", "stuck", "swap", "trace_laws",
    "transitions", "windows", "windows_lives",
)  # fmt: skip
COVERAGE = """
[run]
plugins = Cython.Coverage
source = fastpath
parallel = true
patch = subprocess
sigterm = true
omit = *.pxd
"""


def _sources() -> list[Path]:
    found = [ROOT / name for name in FILES]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in found if not MADE.search(f"/{path.relative_to(ROOT)}")]


def copy() -> None:
    """Bring the copy up to date; a file of its own that the project has no more goes."""
    wanted = set()
    for path in _sources():
        target = COPY / path.relative_to(ROOT)
        wanted.add(target)
        content = path.read_bytes()
        if path.suffix == ".pyx":
            content = UNCHECKED.sub(rb"\1", content, count=1).replace(b"# cython: \n", b"", 1)
        if target.exists() and target.read_bytes() == content:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        shutil.copymode(path, target)
    for folder in FOLDERS:
        for target in (COPY / folder).rglob("*"):
            made = MADE.search(f"/{target.relative_to(COPY)}")
            if target.is_file() and target not in wanted and not made:
                target.unlink()


def _run(*words: str) -> int:
    environment = {**os.environ, "SITEWARDEN_CHECKED": "1"}
    environment["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1"
    return subprocess.run(words, cwd=COPY, env=environment, check=False).returncode


def main(arguments: list[str]) -> int:
    """Copy, build, test, print the coverage; pytest's exit code."""
    copy()
    if _run(sys.executable, "setup.py", "-q", "build_ext", "--inplace"):
        return 1
    if _run(sys.executable, "-m", "tests.helpers.inside"):
        return 1
    settings = COPY / "coverage.ini"
    settings.write_text(COVERAGE)
    for old in COPY.glob(".coverage*"):
        old.unlink()
    measure = (sys.executable, "-m", "coverage")
    ours = f"--rcfile={settings}"
    short = arguments == ["--short"]
    files = [f"{TESTS}/test_{name}.py" for name in SHORT] if short else [TESTS]
    chosen = arguments if arguments and not short else ["-q", *files]
    chosen += ["-n", str(os.cpu_count() or 1)] if short else []
    code = _run(*measure, "run", ours, "-m", "pytest", "--timeout=180", *chosen)
    if not arguments:
        code = _run(sys.executable, "-m", "pytest", "-q", KILLED) or code
    _run(*measure, "combine", ours, "-q")
    print("Coverage of the fast path, by lines (checked build):")
    _run(*measure, "report", ours, "-i", "--include=*.pyx,*.py", "--omit=*/reference*.py")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
