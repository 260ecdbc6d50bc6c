"""A dead, a slow, a holed and a hostile device beside 46 good ones, through the scanner."""

import asyncio
import contextlib

from fastpath.codes import Quality, Reason
from gateway.site.model import Config, Device, Duration, Point, Site, Tag
from tests.helpers.bad_devices import ILLEGAL, dead, holed, hostile, serving, slow
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.scanning import Bench

MS = 1_000_000
GOOD = 46
POLL_NS, TIMEOUT_NS = 200 * MS, 2_000 * MS  # a busy machine is not to be the one who is late
SLOW_S = 0.4
ROUNDS = 4  # polls that each good device must make beside the bad ones


def _device(ident: str, port: int) -> Device:
    return Device(
        id=ident, driver="modbus-tcp", address=f"127.0.0.1:{port}", poll=Duration(POLL_NS),
        timeout=Duration(TIMEOUT_NS), settle=Duration(0), record="all", max_gap=0,
    )  # fmt: skip


def _tag(ident: str, device: str, register: int) -> Tag:
    return Tag(
        id=ident, device=device, point=Point(address=f"hr:{register}"), poll=Duration(POLL_NS),
        stale_after=Duration(20 * POLL_NS), record="all",
    )  # fmt: skip


def _polls(bench: Bench, device: str) -> int:
    return bench.scanner.stats().devices[device].polls


async def test_the_good_ones_are_read_right_and_go_on() -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(ModbusServer())
        for number in range(GOOD):
            server.set("hr", 100 + number, 1_000 + number)
        await server.sync()
        bad = {
            name: await stack.enter_async_context(serving(serve))
            for name, serve in (
                ("dead", dead), ("slow", slow(SLOW_S)), ("holed", holed), ("hostile", hostile)
            )
        }  # fmt: skip
        devices = [_device(f"good-{n}", server.port) for n in range(GOOD)]
        devices += [_device(name, port) for name, port in bad.items()]
        tags = [_tag(f"good-{n}.x", f"good-{n}", 100 + n) for n in range(GOOD)]
        tags += [_tag(f"{name}.{n}", name, n) for name in bad for n in (ILLEGAL - 1, ILLEGAL)]
        config = Config(site=Site(id="s"), device=tuple(devices), tag=tuple(tags))
        index = {tag.id: i for i, tag in enumerate(tags)}
        async with Bench(config).scanning() as bench, asyncio.timeout(30):
            await bench.until(lambda: bench.quality(index["slow.6"]) == (Quality.GOOD, 0))
            await bench.until(lambda: bench.quality(index["holed.7"])[0] == Quality.BAD)
            begun = {n: stats.polls for n, stats in bench.scanner.stats().devices.items()}
            for number in range(GOOD):
                name = f"good-{number}"
                await bench.until(
                    lambda name=name: _polls(bench, name) >= begun[name] + ROUNDS  # type: ignore[misc]
                )
            stats = bench.scanner.stats().devices
            await bench.until(lambda: stats["dead"].requests["timeout"] >= 1)
            await bench.until(lambda: stats["hostile"].requests["refused"] >= 1)
            good = [sample for sample in bench.samples if sample[0] < GOOD]
            assert {sample[1:3] for sample in good} == {(Quality.GOOD, 0)}
            assert {sample[4] - sample[0] for sample in good} == {1_000.0}
            assert bench.quality(index[f"holed.{ILLEGAL}"]) == (Quality.BAD, Reason.DEVICE_FAILURE)
            assert bench.quality(index[f"holed.{ILLEGAL - 1}"]) == (Quality.GOOD, 0)
            assert all(stats[f"good-{n}"].polls_failed == 0 for n in range(GOOD))
        of_bad = [s for s in bench.samples if tags[s[0]].device in ("dead", "hostile")]
        assert {sample[1] for sample in of_bad} <= {Quality.BAD}
