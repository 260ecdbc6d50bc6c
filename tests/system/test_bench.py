"""The measuring itself: a very short run has every cell and every figure."""

import asyncio
import re
import sys

import pytest

from tests.benchmarks.reaction import CLIENTS, LOADS
from tests.helpers.harness import ROOT

TRIPS = 20
SHORT = ("--rounds", "1", "--trips", str(TRIPS), "--samples", "300000", "--live", "1")


@pytest.mark.system
@pytest.mark.timeout(90)
async def test_a_short_run_has_every_cell() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.bench", *SHORT,
        cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    report = out.decode()
    assert process.returncode == 0, err.decode()
    assert err == b""
    for load in LOADS:
        for client in CLIENTS:
            row = rf"^{load} +{re.escape(client)} +(?:fifo \d+|other) +(\d+)(?: +\d+){{4}}(?: \*)?$"
            found = re.search(row, report, re.MULTILINE)
            assert found, f"{load}, {client}:\n{report}"
            assert 0 < int(found[1]) <= TRIPS
    assert report.count("Sitewarden / bare C") == len(LOADS)
    assert "p99.9 is noise below 1,000 trips: every cell" in report
    assert report.count("samples per commit") == 2
    assert re.search(r"packed chunks +\d+\.\d+ in rows", report)
    assert re.search(r"offered 50\.0k samples/s, stored \d", report)
    assert "nan" not in report
