"""The demo as a newcomer sees it, and that what it says was read."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.helpers.guard import directories

STORY_S = 90.0
WORDS = ("trip", "confirmed", "alert", "link", "backlog", "reset")


class Demo:
    """One run of ``sitewarden demo`` without a terminal."""

    def __init__(self, runtime: Path, state: Path) -> None:
        self.runtime = runtime
        self._options = ["--runtime-dir", str(runtime / "r"), "--state-dir", str(state / "s")]
        self.process: asyncio.subprocess.Process | None = None
        self.lines: list[str] = []

    async def start(self, *options: str) -> None:
        """Start it."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "demo", *self._options, *options,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def read_until(self, pattern: str = "$^") -> str:
        """Lines until one that matches, or the end; the last one."""
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(STORY_S):
            while line := (await self.process.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if re.search(pattern, line):
                    return line
        return ""

    def words(self) -> list[str]:
        """The word of each line, without repetitions in a row."""
        found: list[str] = []
        for line in self.lines:
            match = re.match(r" *[\d.]+ s  (\w+)", line)
            if match and match[1] not in found[-1:]:
                found.append(match[1])
        return found

    async def end(self) -> None:
        """Nothing is left."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await self.read_until()
            await self.process.wait()


@pytest_asyncio.fixture
async def demo() -> AsyncIterator[Demo]:
    with directories() as (runtime, state):
        run = Demo(runtime, state)
        try:
            yield run
        finally:
            await run.end()


@pytest.mark.timeout(120)
async def test_the_whole_story(demo: Demo) -> None:
    await demo.start("--once")
    await demo.read_until()
    assert demo.process is not None
    text = "\n".join(demo.lines)
    assert await demo.process.wait() == 0, text
    words = [word for word in demo.words() if word in WORDS]
    assert list(dict.fromkeys(words)) == list(WORDS), text
    assert "auxiliary contact reads open" in text
    assert re.search(r"in the order alert( > live)? > backfill", text), text
    assert "; 0 doubles" in text
    assert re.search(r"reaction \d+ us", text)
    assert re.search(r"metrics +http://127\.0\.0\.1:\d+/metrics", text)
    assert re.search(r"status --runtime-dir \S+ --state-dir \S+", text)


@pytest.mark.timeout(120)
async def test_a_stuck_breaker_is_told_and_not_called_confirmed(demo: Demo) -> None:
    await demo.start("--once", "--stuck-breaker")
    await demo.read_until()
    assert demo.process is not None
    text = "\n".join(demo.lines)
    assert await demo.process.wait() == 6, text
    assert "TRIP_FAILED" in text
    assert "confirmed" not in demo.words(), text


@pytest.mark.timeout(120)
async def test_ctrl_c_ends_everything(demo: Demo) -> None:
    await demo.start()
    await demo.read_until("an inflow begins")
    assert demo.process is not None
    demo.process.send_signal(signal.SIGINT)
    await demo.read_until()
    assert await demo.process.wait() == 0
    assert "everything was stopped" in demo.lines[-1]
    assert "Traceback" not in "\n".join(demo.lines)
    assert not _processes_of(demo)


def _processes_of(demo: Demo) -> list[str]:
    """Processes that still live and name the demo's directory."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(demo.runtime) in command:
                found.append(command.decode(errors="replace"))
    return found
