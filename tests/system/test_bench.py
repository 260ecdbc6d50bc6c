"""The measuring itself: a very short run has every cell and every figure."""

import asyncio
import re
import sys

import pytest

from tests.benchmarks.bench import plan
from tests.benchmarks.reaction import BARE, PLAIN, SITEWARDEN
from tests.helpers.harness import ROOT

TRIPS = 20
SHORT = ("--rounds", "1", "--trips", str(TRIPS), "--samples", "250000", "--live", "1",
         "--own", "--outage", "60", "--backlog", "500")  # fmt: skip


@pytest.mark.alone
@pytest.mark.system
@pytest.mark.timeout(180)
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
    cells = plan(full=False)
    for period_us, load, client in cells:
        row = (
            rf"^{period_us // 1000} ms +{load} +{re.escape(client)} +(?:fifo \d+|other) +(\d+)"
            r"(?: +\d+){5}(?: \*)?$"
        )
        found = re.search(row, report, re.MULTILINE)
        assert found, f"{period_us}, {load}, {client}:\n{report}"
        assert 0 < int(found[1]) <= TRIPS
    own = sum(client == SITEWARDEN for _, _, client in cells)
    assert len(re.findall(r"ms +\S.* Sitewarden / bare C +\d", report)) == own
    assert "p99.9 is noise below 1,000 trips: every cell" in report
    for client in (SITEWARDEN, BARE, PLAIN):
        assert re.search(rf"^  {re.escape(client)} +[\d,]+ reads/s", report, re.MULTILINE)
    assert re.search(r"of 65,535 instructions .*: \d+ µs, a C interpreter \d+ µs", report)
    assert re.search(
        r"10,000 tags: \d+\.\d MB .* major faults after start 0$", report, re.MULTILINE
    )
    assert re.search(r"10,000 tags .* 100 devices every second", report)
    for name in ("Sitewarden", "pymodbus per tag"):
        assert re.search(rf"^  {name} +[\d.]+% of a core, \d+ MB resident", report, re.MULTILINE)
    assert re.search(r"46 good devices' polls, p99, .* \(ratio \d", report)
    assert report.count("samples per commit") == 2
    assert re.search(r"packed chunks +\d+\.\d+ in rows", report)
    assert re.search(r"offered 50\.0k samples/s, stored \d", report)
    assert re.search(
        r"^Outage of .* [\d,]+ samples, taken and stored in \d+ s", report, re.MULTILINE
    )
    assert re.search(r"alerts .* before the first of the backlog", report)
    assert re.search(r"drain: [\d,]+ samples .*; paho .*; ratio \d+", report)
    assert re.search(r"live meanwhile: .* p99 \d+\.\d+ s", report)
    assert re.search(r"\([\d,]+ messages were taken while trips were measured", report)
    assert "nan" not in report
