"""The site's program on its way to the guard: found, refused, retried, known by its slots."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastpath import blob
from fastpath.codes import NONE_U32, MessageType, ResultCode
from fastpath.messages import Result, Welcome
from gateway import paths as paths_module
from gateway.errors import GuardError, StoreError
from gateway.guard import apply
from gateway.guard.apply import Applier, Running
from gateway.guard.link import LinkState
from gateway.life.problems import Problems
from gateway.paths import Paths

TAGS = {"a": 0, "b": 1, "c": 2}


def program(*tags: str) -> bytes:
    return blob.build(
        blob.Program(1, 10_000_000, 5_000_000_000, names={"tags": list(tags)}),
    )


SITE = program("c", "sys.gateway.alive", "a")
SITE_HASH = blob.blob_hash(SITE)
EMPTY_HASH = blob.blob_hash(blob.EMPTY)


class FakeLink:
    """A guard that answers LOAD with ``answers``, one after the other."""

    def __init__(self, running: bytes, *answers: ResultCode | Exception) -> None:
        self.answers = list(answers)
        self.loads: list[tuple[bytes, bytes, int]] = []
        self.found: list[bool] = []
        self.programs = Path()
        self.connect(running)

    def connect(self, running: bytes) -> None:
        welcome = Welcome(1, 1, 0, 7, 1, 1, 0, running, 1)
        self._state = LinkState(True, True, welcome, "connected")

    def state(self) -> LinkState:
        return self._state

    async def load(self, digest: bytes, expected: bytes, ledger_seq: int) -> Result:
        self.loads.append((digest, expected, ledger_seq))
        self.found.append((self.programs / digest.hex()).exists())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Result(answer, MessageType.LOAD, 1, 0, 0, "because")


class FakeAudit:
    """Counts commands; ``full`` refuses them."""

    def __init__(self) -> None:
        self.full = False
        self.results: list[tuple[int, int]] = []

    async def command(self, who: str, action: str, target: str, detail: Mapping[str, Any]) -> int:
        if self.full:
            raise StoreError("disk full")
        assert (who, action, target) == ("gateway", "load", SITE_HASH.hex())
        assert set(detail) == {"from"}
        return 31

    async def command_result(self, seq: int, code: int, text: str) -> None:
        assert text == "because"
        self.results.append((seq, code))


@pytest.fixture
def site(tmp_path: Path) -> Paths:
    site = Paths(tmp_path / "run", tmp_path / "state")
    paths_module.prepare(site)
    return site


class Bench:
    """An Applier with everything around it."""

    def __init__(self, site: Paths, link: FakeLink) -> None:
        self.link, self.audit, self.problems = link, FakeAudit(), Problems()
        link.programs = site.programs
        self.seen: list[Running] = []
        typed: Any = link
        self.shown: Any = None  # what guard.shm says; None: it cannot be read
        self.applier = Applier(
            site, SITE, TAGS, typed, lambda: self.shown, self.audit, self.problems, self.seen.append
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        task = asyncio.create_task(self.applier.run())
        self.applier.wake()
        await self.applier.settled.wait()
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def round(self) -> None:
        """One more look at the link."""
        self.applier.wake()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_new_program_is_stored_audited_and_loaded(site: Paths) -> None:
    async with Bench(site, FakeLink(EMPTY_HASH, ResultCode.DONE)).running() as bench:
        await bench.round()
    assert bench.link.loads == [(SITE_HASH, EMPTY_HASH, 31)]
    assert bench.link.found == [True]
    assert bench.audit.results == [(31, ResultCode.DONE)]
    assert [running.program for running in bench.seen][:2] == [EMPTY_HASH, SITE_HASH]
    assert bench.problems.active() == []
    assert apply.program_blob(site, SITE_HASH) == SITE


async def test_the_same_program_is_not_loaded_again(site: Paths) -> None:
    async with Bench(site, FakeLink(SITE_HASH)).running() as bench:
        pass
    assert bench.link.loads == []


@pytest.mark.parametrize("starts", [1, 2])
async def test_what_was_loaded_since_the_welcome_is_what_runs(site: Paths, starts: int) -> None:
    """After a reload in a session with the guard that is older; but not by another guard's file."""
    bench = Bench(site, FakeLink(EMPTY_HASH, ResultCode.DONE))
    header = SimpleNamespace(program=SITE_HASH, journal_id=7, guard_starts=starts)
    bench.shown = SimpleNamespace(header=lambda: header)
    async with bench.running():
        pass
    same = starts == 1
    assert len(bench.link.loads) == (not same)
    assert bench.seen[0].program == (SITE_HASH if same else EMPTY_HASH)
    assert bench.problems.active() == []


async def test_a_refusal_is_told_and_not_repeated_until_the_guard_changed(site: Paths) -> None:
    link = FakeLink(b"o" * 32, ResultCode.WOULD_REMOVE_TRIP, ResultCode.DONE)
    async with Bench(site, link).running() as bench:
        [problem] = bench.problems.active()
        await bench.round()
        assert len(link.loads) == 1
        link.connect(EMPTY_HASH)
        await bench.round()
    assert problem.kind == "program"
    assert problem.text == (
        "running program differs from the site file: "
        "the guard refused it: would remove trip, because"
    )
    assert len(link.loads) == 2
    assert bench.problems.active() == []


@pytest.mark.parametrize("reason", ["no answer", "disk full"])
async def test_passing_trouble_is_tried_again(
    site: Paths, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(apply, "RETRY_S", 0.01)
    answers: list[ResultCode | Exception] = [GuardError(reason), ResultCode.DONE]
    bench = Bench(site, FakeLink(EMPTY_HASH, *answers))
    if reason == "disk full":
        bench.link.answers.pop(0)
        bench.audit.full = True
    async with bench.running():
        assert reason in bench.problems.active()[0].text
        bench.audit.full = False
        while bench.problems.active():  # noqa: ASYNC110  the applier's own timer tries again
            await asyncio.sleep(0.005)
    assert bench.audit.results == [(31, ResultCode.DONE)]


def test_slots_and_tags_meet_by_name(site: Paths) -> None:
    apply.store_program(site, SITE)
    running = apply.running_of(site, SITE_HASH, TAGS)
    assert list(running.table) == [2, NONE_U32, 0]
    assert [running.slot_of(tag) for tag in range(4)] == [2, NONE_U32, 0, NONE_U32]
    assert running.number == int.from_bytes(SITE_HASH[:8], "little")


def test_a_program_is_found_by_its_own_hash_alone(site: Paths) -> None:
    assert apply.program_blob(site, EMPTY_HASH) == blob.EMPTY
    assert apply.program_blob(site, SITE_HASH) is None
    assert apply.running_of(site, SITE_HASH, TAGS) == Running(program=SITE_HASH)
    (site.programs / SITE_HASH.hex()).write_bytes(SITE[:-1] + b"x")
    assert apply.program_blob(site, SITE_HASH) is None
    site.last_good.write_bytes(SITE)
    assert apply.program_blob(site, SITE_HASH) == SITE
    apply.store_program(site, SITE)
    assert (site.programs / SITE_HASH.hex()).read_bytes() == SITE


async def test_old_programs_are_pruned(site: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "PROGRAMS_KEPT", 2)
    for number in range(4):
        apply.store_program(site, program(f"old-{number}"))
    async with Bench(site, FakeLink(EMPTY_HASH, ResultCode.DONE)).running():
        pass
    names = {path.name for path in site.programs.iterdir()}
    assert len(names) == 2
    assert SITE_HASH.hex() in names
