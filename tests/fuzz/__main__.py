"""``python -m tests.fuzz TARGET|all --runs N | --seconds S [--seed K] [--keep]``; FILE … replays.

Inputs that reached something new are kept in tests/fuzz/corpus with ``--keep``, within limits;
inputs that broke something are written to tests/fuzz/found, and the exit code is 1.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.engine import TARGETS, left_behind, target, timed

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"
FOUND: Final = HERE / "found"
ROOT: Final = HERE.parent.parent
# Of one target: all of them together stay small enough to be read through in a second.
KEPT_FILES_MAX: Final = 48
KEPT_BYTES_MAX: Final = 48_000


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of one target came to."""

    target: str
    runs: int
    seconds: int
    found: list[Path]
    output: str

    @property
    def line(self) -> str:
        """For people."""
        rate = self.runs / max(1, self.seconds)
        return f"{self.target:12}{self.runs:>12,} inputs{rate:>10,.0f}/s  {len(self.found)} found"


def named(data: bytes) -> str:
    """The name of an input: the same wherever it is made."""
    return hashlib.sha256(data).hexdigest()[:16]


def fuzz(name: str, limits: list[str], *, keep: bool = False) -> Result:
    """Run one target in a process of its own."""
    FOUND.mkdir(exist_ok=True)
    before = set(FOUND.iterdir())
    with tempfile.TemporaryDirectory() as scratch:
        fresh, slot = Path(scratch, "corpus"), Path(scratch, "slot")
        fresh.mkdir()
        command = [
            sys.executable, "-m", "tests.fuzz.engine", name, str(slot), "--", *limits,
            f"-artifact_prefix={FOUND}/{name}-", "-print_final_stats=1", str(fresh),
            str(CORPUS / name),
        ]  # fmt: skip
        ended = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        output = ended.stdout.decode("utf-8", "replace")
        found = sorted(set(FOUND.iterdir()) - before)
        if ended.returncode and not found:
            last = left_behind(slot)
            lost = FOUND / f"{name}-crash-{named(last)}"
            lost.write_bytes(last)
            found = [lost]
        if keep:
            _keep(name, fresh)
    runs = re.search(r"number_of_executed_units: (\d+)", output)
    seconds = re.search(r"in (\d+) second", output)
    return Result(
        name, int(runs[1]) if runs else 0, int(seconds[1]) if seconds else 0, found, output
    )


def _keep(name: str, fresh: Path) -> None:
    """The smallest new inputs, as long as there is room."""
    place = CORPUS / name
    there = list(place.iterdir())
    files, size = len(there), sum(path.stat().st_size for path in there)
    for data in sorted((path.read_bytes() for path in fresh.iterdir()), key=lambda d: (len(d), d)):
        if files >= KEPT_FILES_MAX or size + len(data) > KEPT_BYTES_MAX:
            return
        (place / named(data)).write_bytes(data)
        files, size = files + 1, size + len(data)


def sow() -> None:
    """Write every target's seeds into the corpus."""
    for name in TARGETS:
        place = CORPUS / name
        place.mkdir(parents=True, exist_ok=True)
        for data in target(name).seeds():
            (place / named(data)).write_bytes(data)


def replay(name: str, files: list[Path]) -> None:
    """Run these inputs alone, here: what one breaks is raised."""
    run = timed(target(name).run)
    for path in files:
        sys.stdout.write(f"{path}: {run(path.read_bytes())}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=("all", "seeds", *TARGETS))
    parser.add_argument("files", nargs="*", type=Path, help="replay these instead")
    parser.add_argument("--runs", type=int, help="inputs per target")
    parser.add_argument("--seconds", type=int, default=60, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0, help="0: another each time")
    parser.add_argument("--keep", action="store_true", help="keep what reached something new")
    return parser.parse_args()


def main() -> int:
    """0, or 1 when something was found."""
    asked = _arguments()
    if asked.target == "seeds":
        sow()
        return 0
    if asked.files:
        replay(asked.target, asked.files)
        return 0
    names = TARGETS if asked.target == "all" else (asked.target,)
    each = max(1, asked.seconds // len(names))
    limits = [f"-runs={asked.runs}" if asked.runs else f"-max_total_time={each}"]
    limits += [f"-seed={asked.seed}"]
    broken = 0
    for name in names:
        result = fuzz(name, limits, keep=asked.keep)
        sys.stdout.write(f"{result.line}\n")
        sys.stdout.flush()
        for path in result.found:
            broken += 1
            tail = "\n".join(result.output.splitlines()[-30:])
            again = f"python -m tests.fuzz {name} {path.relative_to(ROOT)}"
            sys.stdout.write(f"{tail}\n\nreplay: {again}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
