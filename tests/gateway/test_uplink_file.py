"""The file uplink: its files are whole, durable, bounded and overwrite nothing."""

import asyncio
import errno
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UplinkError
from gateway.site.model import Duration, Size
from gateway.uplink import file as file_module
from gateway.uplink import spool as spool_module
from gateway.uplink.base import ACCEPTED, LinkRefusedError, Outgoing, Refused, Retry
from gateway.uplink.file import FileUplink
from tests.helpers.uplinks import EPOCH, SENDER, T0_NS, alert_out, config_of, row_out, until


@pytest.fixture(autouse=True)
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@asynccontextmanager
async def writing(directory: Path, **more: Any) -> AsyncIterator[FileUplink]:
    uplink = FileUplink(config_of(f"file://{directory}", kind="file", **more), SENDER)
    assert await uplink.connect() is True
    try:
        yield uplink
    finally:
        await uplink.close()


def named(directory: Path) -> list[Path]:
    """What a job would fetch, by name."""
    return sorted(path for path in directory.iterdir() if not path.name.startswith("."))


def parts(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.name.endswith(".part"))


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def seqs(directory: Path) -> list[int]:
    return [line["seq"] for path in named(directory) for line in lines(path)]


async def test_each_lane_has_files_of_its_own(tmp_path: Path) -> None:
    async with writing(tmp_path) as uplink:
        assert await uplink.send("alert", [alert_out(1), alert_out(2)]) == [ACCEPTED, ACCEPTED]
        assert await uplink.send("live", [row_out(1)]) == [ACCEPTED]
        assert await uplink.send("backfill", [row_out(2)]) == [ACCEPTED]
        assert named(tmp_path) == []  # a job sees whole files alone
        assert len(parts(tmp_path)) == 3
    alerts, live, backfill = named(tmp_path)
    assert parts(tmp_path) == []
    for path, lane in ((alerts, "alerts"), (live, "live"), (backfill, "backfill")):
        assert path.name.endswith(f"-gw-1.platform-{lane}.ndjson")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [line["id"] for line in lines(alerts)] == [f"gw-1/{EPOCH}/{n}" for n in (1, 2)]
    assert [(line["seq"], line["historical"]) for line in lines(live)] == [(1, False)]
    assert [(line["seq"], line["historical"]) for line in lines(backfill)] == [(2, True)]


async def test_a_file_that_is_long_enough_gets_its_name(tmp_path: Path) -> None:
    async with writing(tmp_path, rotate_bytes=Size(1_000)) as uplink:
        for seq in range(1, 8):
            await uplink.send("alert", [alert_out(seq)])
        assert len(named(tmp_path)) >= 2
        assert all(path.stat().st_size <= 1_000 for path in named(tmp_path))
    assert seqs(tmp_path) == list(range(1, 8))


async def test_a_file_that_is_old_enough_gets_its_name_by_itself(tmp_path: Path) -> None:
    async with writing(tmp_path, rotate_after=Duration(50_000_000)) as uplink:
        await uplink.send("alert", [alert_out(1)])
        watch = asyncio.create_task(uplink.lost())
        try:
            await until(lambda: named(tmp_path))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        assert parts(tmp_path) == []
    assert seqs(tmp_path) == [1]


def test_names_sort_by_time_and_never_collide(tmp_path: Path) -> None:
    bounds = spool_module.Bounds(10, 10_000_000)
    times = (T0_NS, T0_NS, T0_NS - 86_400_000_000_000, T0_NS)  # a clock that is set back
    for seq, now_ns in enumerate(times, 1):
        spool = spool_module.Spool(tmp_path, "a", bounds, utc_ns=iter([now_ns]).__next__)
        spool.open()
        part = spool.begin("alerts.ndjson")
        part.append(b'{"seq":%d}\n' % seq)
        part.finish()
        spool.close()
    assert seqs(tmp_path) == [1, 2, 3, 4]


async def test_what_a_crash_leaves_is_made_whole(tmp_path: Path) -> None:
    stem = "20251124T160000.000000001Z-gw-1.platform"
    (tmp_path / f".gw-1.platform-{stem}-alerts.ndjson.part").write_bytes(b'{"seq":1}\n{"se')
    (tmp_path / f".gw-1.platform-{stem}-live.ndjson.part").write_bytes(b'{"seq"')
    (tmp_path / f".gw-1.platform-{stem}-live.csv.part").write_bytes(b"1;2\n")
    foreign = tmp_path / ".gw-1.platform-b-20251124T160000.000000001Z-gw-1.platform-b-live.x.part"
    foreign.write_bytes(b"other")
    (tmp_path / f"{stem}-backfill.ndjson").write_bytes(b'{"seq":2}\n')
    os.link(
        tmp_path / f"{stem}-backfill.ndjson",
        tmp_path / f".gw-1.platform-{stem}-backfill.ndjson.part",
    )
    async with writing(tmp_path):
        pass
    assert [path.name for path in named(tmp_path)] == [
        f"{stem}-alerts.ndjson", f"{stem}-backfill.ndjson",
    ]  # fmt: skip
    assert seqs(tmp_path) == [1, 2]
    assert parts(tmp_path) == [foreign]


async def test_nothing_is_overwritten_and_no_link_is_followed(tmp_path: Path) -> None:
    directory, victim = tmp_path / "out", tmp_path / "victim"
    directory.mkdir()
    victim.write_text("mine")
    stamp = spool_module._stamped(T0_NS)
    name = f"{stamp}-gw-1.platform-alerts.ndjson"
    async with writing(directory) as uplink:
        uplink._spool._utc_ns = lambda: T0_NS
        (directory / f".gw-1.platform-{name}.part").symlink_to(victim)
        with pytest.raises(UplinkError, match="File exists"):
            await uplink.send("alert", [alert_out()])
        (directory / f".gw-1.platform-{name}.part").unlink()
        await uplink.send("live", [row_out()])
        (taken,) = parts(directory)
        final = directory / taken.name.removeprefix(".gw-1.platform-").removesuffix(".part")
        final.symlink_to(victim)
    assert victim.read_text() == "mine"
    assert final.is_symlink()  # left as it was; ours keeps waiting under its hidden name
    assert parts(directory) == [taken]


async def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as FAT, which USB sticks have."""

    def link(*_arguments: Any, **_more: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    async with writing(tmp_path) as uplink:
        assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]
        (taken,) = parts(tmp_path)
        final = tmp_path / taken.name.removeprefix(".gw-1.platform-").removesuffix(".part")
        final.write_text("mine")
    assert final.read_text() == "mine"
    final.unlink()
    async with writing(tmp_path):
        pass
    assert seqs(tmp_path) == [1]
    assert parts(tmp_path) == []


@pytest.mark.parametrize("make", ["missing", "file", "link"])
async def test_a_directory_that_is_none_is_a_link_refused(tmp_path: Path, make: str) -> None:
    directory = tmp_path / "out"
    if make == "file":
        directory.write_text("")
    elif make == "link":
        directory.symlink_to(tmp_path)
    uplink = FileUplink(config_of(f"file://{directory}", kind="file"), SENDER)
    with pytest.raises(LinkRefusedError, match="out"):
        await uplink.connect()
    await uplink.close()


@pytest.mark.parametrize(
    ("bound", "words"),
    [({"max_files": 2}, "2 files"), ({"max_bytes": Size(2_000)}, "wait to be fetched")],
)
async def test_as_much_as_may_wait_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(spool_module, "_RECOUNT_S", 0.0)
    async with writing(tmp_path, rotate_bytes=Size(1_000), **bound) as uplink:
        verdicts = []
        for seq in range(1, 30):
            verdicts += await uplink.send("alert", [alert_out(seq)])
        first = verdicts.index(next(v for v in verdicts if isinstance(v, Retry)))
        assert all(isinstance(verdict, Retry) for verdict in verdicts[first:])
        refusal = verdicts[first]
        assert isinstance(refusal, Retry)
        assert words in refusal.reason
        assert not refusal.denied
        assert refusal.after_s > 0
        for path in named(tmp_path):
            path.unlink()
        assert await uplink.send("alert", [alert_out(40)]) == [ACCEPTED]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
async def test_a_disk_that_is_full_or_read_only_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real, broken = os.write, True

    def write(file: int, data: Any) -> int:
        if not broken or not os.readlink(f"/proc/self/fd/{file}").endswith(".part"):
            return real(file, data)
        real(file, bytes(data)[: len(data) // 2])  # some of it went to the disk
        raise OSError(code, os.strerror(code))

    async with writing(tmp_path) as uplink:
        broken = False
        await uplink.send("alert", [alert_out(1)])
        monkeypatch.setattr(os, "write", write)
        broken = True
        (verdict,) = await uplink.send("alert", [alert_out(2)])
        assert isinstance(verdict, Retry)
        assert os.strerror(code) in verdict.reason
        broken = False
        assert await uplink.send("alert", [alert_out(2), alert_out(3)]) == [ACCEPTED, ACCEPTED]
    assert seqs(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("more", [True, False])
async def test_half_a_line_that_could_not_be_cut_off_is_cut_off_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    """A disk that is read-only for a while, or one that needs room to give some back."""
    write, cut = os.write, os.ftruncate

    def write_half(file: int, data: Any) -> int:
        if os.readlink(f"/proc/self/fd/{file}").endswith(".part"):
            write(file, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    def cut_nothing(_file: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with writing(tmp_path) as uplink:
        await uplink.send("alert", [alert_out(1)])
        monkeypatch.setattr(os, "write", write_half)
        monkeypatch.setattr(os, "ftruncate", cut_nothing)
        assert isinstance((await uplink.send("alert", [alert_out(2)]))[0], Retry)
        monkeypatch.setattr(os, "write", write)
        assert isinstance((await uplink.send("alert", [alert_out(2)]))[0], Retry)
        monkeypatch.setattr(os, "ftruncate", cut)
        if more:
            assert await uplink.send("alert", [alert_out(2)]) == [ACCEPTED]
    assert seqs(tmp_path) == ([1, 2] if more else [1])


async def test_an_empty_file_that_cannot_be_removed_is_closed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another file's by then."""
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    template = tmp_path / "alerts.txt.j2"
    template.write_text("")
    closed: list[int] = []
    opened, close = os.open, os.close

    def open_(*arguments: Any, **more: Any) -> int:
        number = opened(*arguments, **more)
        if str(arguments[0]).endswith(".part"):
            closed.clear()
            closed.append(-number)
        return number

    def close_(number: int) -> None:
        closed.append(number)
        close(number)

    def unlink(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    directory = tmp_path / "out"
    directory.mkdir()
    async with writing(directory, template=str(template)) as uplink:
        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(os, "close", close_)
        monkeypatch.setattr(os, "unlink", unlink)
        assert isinstance((await uplink.send("alert", [alert_out(1)]))[0], Retry)
        assert closed.count(-closed[0]) == 1


async def test_nothing_counts_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = {name: getattr(os, name) for name in ("write", "fsync", "link")}

    def kind(file: int) -> str:
        return "file" if stat.S_ISREG(os.fstat(file).st_mode) else "directory"

    def write(file: int, data: Any) -> int:
        written: int = real["write"](file, data)
        if os.readlink(f"/proc/self/fd/{file}").endswith(".part"):
            calls.append("write")
        return written

    def fsync(file: int) -> None:
        real["fsync"](file)
        calls.append(f"fsync {kind(file)}")

    def link(*arguments: Any, **more: Any) -> None:
        real["link"](*arguments, **more)
        calls.append("link")

    for name, call in (("write", write), ("fsync", fsync), ("link", link)):
        monkeypatch.setattr(os, name, call)
    async with writing(tmp_path) as uplink:
        await uplink.send("alert", [alert_out(1)])
        assert calls == ["write", "fsync file", "fsync directory"]
        await uplink.send("alert", [alert_out(2)])
        assert calls[3:] == ["write", "fsync file"]
        calls.clear()
    assert calls == ["link", "fsync directory"]


async def test_another_directory_in_its_place_is_opened(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    async with writing(directory) as uplink:
        directory.rename(tmp_path / "gone")
        directory.mkdir()
        with pytest.raises(UplinkError, match="another directory"):
            await uplink.send("alert", [alert_out(1)])
        await uplink.connect()
        assert await uplink.send("alert", [alert_out(1)]) == [ACCEPTED]
    assert seqs(directory) == [1]


async def test_an_open_file_of_a_directory_that_was_replaced_takes_nothing_more(
    tmp_path: Path,
) -> None:
    """Nobody fetches from there any more: a disk that was mounted over it hides it."""
    directory = tmp_path / "out"
    directory.mkdir()
    async with writing(directory) as uplink:
        await uplink.send("alert", [alert_out(1)])
        directory.rename(tmp_path / "gone")
        directory.mkdir()
        with pytest.raises(UplinkError, match="another directory"):
            await uplink.send("alert", [alert_out(2)])
        await uplink.connect()
        assert await uplink.send("alert", [alert_out(2)]) == [ACCEPTED]
    assert seqs(tmp_path / "gone") == [1]
    assert seqs(directory) == [2]


async def test_an_open_file_that_somebody_removed_takes_nothing_more(tmp_path: Path) -> None:
    async with writing(tmp_path) as uplink:
        await uplink.send("alert", [alert_out(1)])
        parts(tmp_path)[0].unlink()
        with pytest.raises(UplinkError, match="somebody removed it"):
            await uplink.send("alert", [alert_out(2)])


async def test_a_disk_that_hangs_is_nothing_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(file_module, "CLOSE_S", 0.05)
    async with writing(tmp_path, timeout=Duration(100_000_000)) as uplink:
        real = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: (gate.wait(5), real(file)))
        with pytest.raises(UplinkError, match="does not answer in time"):
            await uplink.send("alert", [alert_out(1)])
        await uplink.close()  # gives up after its time
        gate.set()


async def test_an_unreadable_item_is_refused_and_the_others_pass(tmp_path: Path) -> None:
    async with writing(tmp_path) as uplink:
        items: list[Outgoing] = [alert_out(1), alert_out(2, b"not JSON"), alert_out(3)]
        first, second, third = await uplink.send("alert", items)
    assert (first, third) == (ACCEPTED, ACCEPTED)
    assert isinstance(second, Refused)
    assert seqs(tmp_path) == [1, 3]
