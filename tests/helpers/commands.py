"""Commands of ``sitewarden`` as a user gives them: a process of their own, its words, its code."""

import asyncio
import os
import shlex
import sys
from pathlib import Path

from tests.helpers.harness import ROOT, Answer

WAIT_S = 40.0


class Shell:
    """Runs commands in directories where no site runs, unless others are named."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "shell-state"
        self.environment = os.environ | {
            "SITEWARDEN_RUNTIME_DIR": str(directory / "shell-runtime"),
            "SITEWARDEN_STATE_DIR": str(self.state),
            "PYTHONPATH": str(ROOT),
        }

    async def start(self, words: str, cwd: Path | None = None) -> asyncio.subprocess.Process:
        """A command that goes on; the caller awaits its end."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *shlex.split(words),
            cwd=cwd or ROOT, env=self.environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, words: str, cwd: Path | None = None) -> Answer:
        """A command to its end. Nothing may end in a traceback."""
        process = await self.start(words, cwd)
        out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
        answer = Answer(process.returncode or 0, out.decode(), err.decode())
        assert "Traceback" not in answer.err, answer.err
        return answer
