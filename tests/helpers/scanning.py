"""A scanner with nothing around it: its samples are kept and make its image."""

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from drivers.kind import Surroundings
from fastpath import messages
from fastpath.codes import NONE_U32
from fastpath.image import TagImage
from gateway.guard.apply import Running
from gateway.life.problems import Problems
from gateway.plant.scanner import Scanner
from gateway.site.model import Config
from gateway.site.recording import recording_of
from tests.helpers.unsecret import no_secrets


class FakeLink:
    """Keeps what would go to the guard."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[tuple[Any, ...]]]] = []
        self.touched: list[tuple[int, int, list[int]]] = []  # program, mono_ns, slots

    def send_samples(self, samples: bytes, program: int) -> None:
        self.sent.append((program, list(messages.SAMPLE.iter_unpack(samples))))

    def touch(self, slots: Sequence[int], mono_ns: int, program: int) -> None:
        self.touched.append((program, mono_ns, list(slots)))


class Bench:
    """A scanner over the slow devices of a site; every sample wakes ``until``."""

    def __init__(self, config: Config, around: Surroundings | None = None) -> None:
        self.config = config
        self.image = TagImage(len(config.tag))
        self.link = FakeLink()
        self.problems = Problems()
        self.running = Running(b"P" * 32, {}, array("I"), array("I", [NONE_U32] * len(config.tag)))
        self.samples: list[tuple[Any, ...]] = []
        self.recorded: list[tuple[Any, ...]] = []
        self._news = asyncio.Event()
        link: Any = self.link
        self.scanner = Scanner(
            config,
            self.image,
            link,
            lambda: self.running,
            self._take,
            recording_of(config),
            self.problems,
            around or Surroundings(no_secrets),
        )

    def _take(self, samples: bytes, recorded: bytes) -> None:
        self.image.apply(samples)
        self.samples += messages.SAMPLE.iter_unpack(samples)
        self.recorded += messages.SAMPLE.iter_unpack(recorded)
        self._news.set()

    def value(self, tag: int) -> float:
        return self.image.get(tag)[0]

    def quality(self, tag: int) -> tuple[int, int]:
        return self.image.get(tag)[1:3]

    async def until(self, wanted: Callable[[], bool]) -> None:
        while not wanted():
            self._news.clear()
            await self._news.wait()

    async def told(self, *, problems: int) -> None:
        """Wait until so many problems are there; they are told after the samples."""
        while len(self.problems.active()) != problems:  # noqa: ASYNC110  no event of its own
            await asyncio.sleep(0.005)

    @contextlib.asynccontextmanager
    async def scanning(self) -> AsyncIterator["Bench"]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job()) for job in self.scanner.jobs().values()]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()
