"""Applies every saboteur to a copy of the tree and says which were caught by their tests.

``python -m tests.saboteurs [NAME...]`` (``make saboteurs`` for all). Caught means: the copy builds
with the patch, and the named test fails by an assertion of its own; an error of a build, a fixture
or an import is none. The copy without a patch must be green on all of the named tests. Exit 1 when
one escaped, did not apply or did not build.
"""

import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.saboteurs.table import ROOT, Saboteur, saboteurs

COPY = ROOT / "build" / "saboteurs"
REPORT = COPY / "report.xml"
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "saboteurs", "__pycache__", ".*_cache", ".hypothesis"
)
BUILD_S, TEST_S, GREEN_S = 300, 180, 1800
ASSERTIONS = ("AssertionError", "assert ", "Failed: ", "ExceptionGroup: Hypothesis")
TIMED_OUT = "Failed: Timeout"  # pytest-timeout's own word


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(command: Sequence[str], wait_s: float) -> subprocess.CompletedProcess[str]:
    """A command in the copy, which imports the copy's modules and no others."""
    environment = {**os.environ, "PYTHONPATH": str(COPY), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=COPY, env=environment, capture_output=True, text=True, timeout=wait_s,
        check=False,
    )  # fmt: skip


def copy_tree() -> None:
    """A fresh copy with what is built, so that a patch rebuilds its own module alone."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(ROOT, COPY, ignore=LEFT_OUT)
    where = run([sys.executable, "-c", "import fastpath.scan as m; print(m.__file__)"], BUILD_S)
    if not where.stdout.startswith(str(COPY)):
        raise SystemExit(f"the copy does not import its own modules: {where.stdout}{where.stderr}")
    built = build()
    helpers = "from tests.helpers import inside; inside.load(); inside.load('stepper')"
    built = built or run([sys.executable, "-c", helpers], BUILD_S).stderr
    if built:
        raise SystemExit(f"the copy does not build:\n{built}")


def build() -> str:
    """Rebuild what changed; empty, or what the compilers said."""
    done = run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], BUILD_S)
    return "" if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]


def pytest_run(wait_s: float, *nodes: str) -> tuple[int, list[str]]:
    """pytest's exit code, and how each test that failed did so ("error: ..." apart from that)."""
    REPORT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    try:
        code = run([*command, f"--junitxml={REPORT}", *nodes], wait_s).returncode
    except subprocess.TimeoutExpired:
        return -1, []
    if not REPORT.exists():
        return code, []
    # Our own pytest wrote it a moment ago.
    cases = ET.parse(REPORT).getroot().iter("testcase")  # noqa: S314
    found = [(kind, case.find(kind)) for case in cases for kind in ("failure", "error")]
    return code, [f"{kind}: {at.get('message', '')}" for kind, at in found if at is not None]


def is_assertion(how: str) -> bool:
    """The test itself said no: neither an error around it nor a limit of its time."""
    kind, _, message = how.partition(": ")
    return kind == "failure" and message.startswith(ASSERTIONS) and TIMED_OUT not in message


@contextmanager
def patched(one: Saboteur) -> Iterator[str]:
    """Apply it, and afterwards put back sources and modules as they were; gives what went wrong."""
    name = next(
        line.split("/", 1)[1].split("\t")[0]
        for line in one.patch.read_text().splitlines()
        if line.startswith("+++ b/")
    ).strip()
    source = COPY / name
    kept = [
        source,
        *source.parent.glob(f"{source.stem}.c"),
        *source.parent.glob(f"{source.stem}.*.so"),
    ]
    backups = [(path, path.with_name(f".kept-{path.name}")) for path in kept]
    for path, backup in backups:
        shutil.copy2(path, backup)
    try:
        command = ["patch", "-p1", "--fuzz=2", "--no-backup-if-mismatch", "-i", str(one.patch)]
        done = run(command, BUILD_S)
        if done.returncode != 0:
            yield f"DOES NOT APPLY: {done.stdout.strip()}"
        else:
            os.utime(source)
            said = build() if source.suffix == ".pyx" else ""
            yield f"DOES NOT BUILD: {said}" if said else ""
    finally:
        for path, backup in backups:
            backup.replace(path)


def verdict(one: Saboteur) -> str:
    """CAUGHT, or what else."""
    with patched(one) as wrong:
        if wrong:
            return wrong
        code, failures = pytest_run(TEST_S, one.test)
    if code == 1 and any(is_assertion(how) for how in failures):
        return "CAUGHT"
    if code == 0:
        return "ESCAPED"
    return f"NO ASSERTION: exit {code} {failures[:1]}"


def check_green(chosen: Sequence[Saboteur]) -> None:
    """Without a patch every named test passes; beside others' load, then one by one."""
    code, failures = pytest_run(GREEN_S, *dict.fromkeys(one.test for one in chosen))
    if code == 0:
        return
    for test in dict.fromkeys(one.test for one in chosen):
        code, failures = pytest_run(GREEN_S, test)
        if code != 0:
            raise SystemExit(f"without a patch {test} is not green: exit {code}\n{failures}")


def main(names: Sequence[str]) -> int:
    """Run them; the exit code."""
    chosen = [one for one in saboteurs() if not names or one.name in names or one.name[3:] in names]
    if not chosen:
        raise SystemExit(f"no such saboteur: {', '.join(names)}")
    begun = time.monotonic()
    copy_tree()
    check_green(chosen)
    say(f"the copy without a patch is green ({time.monotonic() - begun:.0f} s)")
    caught = 0
    for one in chosen:
        before = time.monotonic()
        found = verdict(one)
        caught += found == "CAUGHT"
        say(f"{one.name:36} {time.monotonic() - before:5.1f} s  {found}  {Path(one.test).name}")
    say(f"{caught} of {len(chosen)} caught in {time.monotonic() - begun:.0f} s")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
