"""A short look of the fuzzer (`make fuzz` is the long one), and every input that it has kept."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, KEPT_BYTES_MAX, KEPT_FILES_MAX, named
from tests.fuzz.engine import TARGETS, SlowError, left_behind, target, timed

ROOT = Path(__file__).parents[2]
RUNS = {"tcp": 8_000, "rtu": 3_000, "points": 12_000, "program": 400, "mailbox": 250,
        "expression": 1_500, "serial_frames": 10_000, "driver": 10_000,
        "chunk": 10_000}  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(120)  # of a checked build on a busy machine
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found_in_a_short_run(name: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this platform")
    done = run(name, "--runs", str(RUNS[name]), "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    [inputs] = re.findall(r"([\d,]+) inputs", done.stdout)
    assert int(inputs.replace(",", "")) >= RUNS[name]  # the seeds come first, however many


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", TARGETS)
def test_what_was_kept_still_holds(name: str) -> None:
    """In a process of its own: what is found may end it."""
    done = run(name, *map(str, sorted((CORPUS / name).iterdir())))
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_the_corpus_has_every_seed_and_stays_small() -> None:
    for name in TARGETS:
        kept = {path.name: path.read_bytes() for path in (CORPUS / name).iterdir()}
        assert {named(data) for data in target(name).seeds()} <= kept.keys()
        assert all(named(data) == at for at, data in kept.items())
        assert len(kept) <= KEPT_FILES_MAX
        assert sum(map(len, kept.values())) <= KEPT_BYTES_MAX
        assert max(map(len, kept.values())) <= target(name).MAX_BYTES


def test_a_seed_reaches_more_than_refusals() -> None:
    """A target that takes nothing would find nothing either."""
    for name, least in (("tcp", 4), ("rtu", 2), ("points", 3), ("program", 5), ("mailbox", 5),
                        ("expression", 6), ("serial_frames", 6), ("driver", 5),
                        ("chunk", 5)):  # fmt: skip
        outcomes = {target(name).run(data) for data in target(name).seeds()}
        assert len(outcomes) >= least, name


BROKEN = """
import os, sys
from pathlib import Path
from tests.fuzz.engine import kept
run = kept(lambda data: os.abort() if data == b"bad" else 0, Path(sys.argv[1]))
run(b"good")
run(b"bad")
"""


def test_an_input_that_ends_the_process_is_left_behind(tmp_path: Path) -> None:
    slot = tmp_path / "slot"
    ended = subprocess.run([sys.executable, "-c", BROKEN, str(slot)], cwd=ROOT, check=False)
    assert ended.returncode == -6
    assert left_behind(slot) == b"bad"


def test_an_input_that_takes_too_long_is_a_find(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 1.5))
    monkeypatch.setattr("time.thread_time", lambda: next(clock))
    with pytest.raises(SlowError, match=r"1\.50 s"):
        timed(len)(b"abc")


def test_a_find_is_written_and_ends_with_one(tmp_path: Path) -> None:
    """With a rule of the language taken away: the run finds it, and says how to see it again."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this platform")
    (tmp_path / "sitecustomize.py").write_text(
        "import tests.fuzz.tcp as tcp\ntcp._is_good = lambda frame, request: False\n"
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    found = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "tcp", "--runs", "2000", "--seed", "1"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert found.returncode == 1, found.stdout + found.stderr
    replay = found.stdout.splitlines()[-1]
    assert replay.startswith("replay: python -m tests.fuzz tcp tests/fuzz/found/tcp-crash-")
    file = ROOT / replay.split()[-1]
    assert run("tcp", str(file)).returncode == 0  # the rule is back
    file.unlink()
