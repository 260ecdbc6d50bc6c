"""Kills of a gateway that writes files: doubles with the same identity, never a loss."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gateway.uplink.spool import Bounds, Spool
from tests.gateway.file_writer import FETCHED

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.timeout(60)
def test_kills_lose_nothing(tmp_path: Path) -> None:
    _kill(tmp_path, rounds=30)


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_a_thousand_kills_lose_nothing(tmp_path: Path) -> None:
    _kill(tmp_path, rounds=1_000)


def _kill(tmp_path: Path, rounds: int) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    command = [sys.executable, "-m", "tests.gateway.file_writer", str(directory), str(rounds), "7"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    spool = Spool(directory, "gw-1.platform", Bounds(1_000_000, 10**12))
    spool.open()  # the life after the last one
    spool.close()
    seen: Counter[int] = Counter()
    bodies: dict[int, set[str]] = {}
    for path in sorted([*directory.iterdir(), *(tmp_path / FETCHED).iterdir()]):
        assert not path.name.endswith(".part")
        text = path.read_text()
        assert text.endswith("\n")
        for line in text.splitlines():
            alert = json.loads(line)
            seen[alert["seq"]] += 1
            del alert["historical"], alert["audit_head"]
            bodies.setdefault(alert["seq"], set()).add(json.dumps(alert))
    acked = said["acked"]
    assert acked > 5 * rounds, "too little was written"
    assert said["left_open"] > rounds / 2, "too few kills hit an open file"
    assert set(range(1, acked + 1)) <= set(seen)
    assert max(seen) - acked <= 10_000  # what was written and not yet counted
    assert all(len(forms) == 1 for forms in bodies.values())
    doubles = sum(count - 1 for count in seen.values())
    print(f"{rounds} kills, {acked} acknowledged, {doubles} doubles, {said['left_open']} open")
    assert doubles <= 1_000 * rounds  # at most what is sent between two savings of the cursor
