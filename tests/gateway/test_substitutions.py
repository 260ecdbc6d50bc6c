"""Values by hand: durable before they count, timed, told at both ends, restored after a restart."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastpath.codes import Quality, Reason
from fastpath.messages import SAMPLE
from gateway.errors import StoreError
from gateway.guard.by_hand import unsubstituted
from gateway.life.problems import Problems
from gateway.orders.outcome import Exit, Outcome
from gateway.orders.substitutions import FOR_NS_MAX, Substitutions
from gateway.site.model import Config, Device, Point, Site, Tag
from gateway.store.ledger import Ledger
from tests.helpers.audits import audit_entries

SECOND = 1_000_000_000
WHO = "uid:ann"
CONFIG = Config(
    site=Site(id="s"),
    device=(
        Device(id="mux", driver="modbus-tcp", address="127.0.0.1:1"),
        Device(id="plc", driver="modbus-tcp", address="127.0.0.1:2", fast=True),
    ),
    tag=(
        Tag(id="level", device="mux", point=Point(address="ir:0"), range=(0.0, 10.0), unit="m"),
        Tag(id="gas", device="plc", point=Point(address="ir:0")),
        Tag(id="highest", value="max(level, gas)"),
    ),
)


async def nobody() -> None:
    """Whoever waits for nothing."""


class Bench:
    """Substitutions over a real ledger, with a clock of the test's."""

    def __init__(self, ledger: Any) -> None:
        self.ledger = ledger
        self.now_ns = 1_000 * SECOND
        self.given: list[tuple[int, float | None]] = []
        self.problems = Problems()
        self.life()

    def life(self, boot: str = "b1") -> None:
        """A new gateway on the same ledger."""
        self.parts = Substitutions(
            CONFIG,
            self.ledger,
            self.problems,
            lambda tag, value: self.given.append((tag, value)),
            now_ns=lambda: self.now_ns,
            boot_id=lambda: boot,
        )
        self.given.clear()

    async def begin(self, ident: str = "level", value: float = 4.5, for_s: int = 60) -> Outcome:
        return await self.parts.begin(
            ident, value, for_s * SECOND, "transmitter away", WHO, answered=nobody
        )

    async def restore(self) -> None:
        """As the gateway's task does, up to its first look."""
        task = asyncio.create_task(self.parts.run())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})

    async def alerts(self) -> list[tuple[str, str]]:
        await self.problems.flush(self.ledger)
        bodies = [json.loads(item.body) for item in await self.ledger.alerts(1, 100)]
        return [(body["state"], body["cause"]) for body in bodies]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    ledger = await Ledger.open(tmp_path / "ledger.db", "gw", reserve_bytes=0)
    yield Bench(ledger)
    await ledger.close()


async def test_it_is_audited_told_and_ends_with_its_time(bench: Bench) -> None:
    outcome = await bench.begin()
    assert outcome.exit_code == Exit.DONE
    assert outcome.text.startswith("level is 4.5 m by hand until ")
    assert outcome.text.endswith("by uid:ann: transmitter away; interlocks take it for bad")
    assert bench.given == [(0, 4.5)]
    assert bench.ledger.audit.substitutions()[0][2] == WHO
    bench.now_ns += 60 * SECOND - 1
    bench.parts.look()
    assert bench.parts.live()
    bench.now_ns += 1
    bench.parts.look()
    assert bench.given == [(0, 4.5), (0, None)]
    assert not bench.parts.live()
    assert [state for state, _ in await bench.alerts()] == ["raised", "cleared"]
    assert audit_entries(bench.ledger) > 0


async def test_it_goes_on_over_a_restart_with_its_own_end(bench: Bench) -> None:
    await bench.begin()
    bench.life()
    await bench.restore()
    assert bench.given == [(0, 4.5)]
    bench.now_ns += 60 * SECOND
    bench.parts.look()
    assert bench.given == [(0, 4.5), (0, None)]
    assert [state for state, _ in await bench.alerts()] == ["raised", "cleared"]


@pytest.mark.parametrize(("boot", "later_s"), [("b1", 60), ("b2", 1)])
async def test_what_ended_meanwhile_is_told_and_does_not_come_back(
    bench: Bench, boot: str, later_s: int
) -> None:
    """Its time was over, or the machine was started anew."""
    await bench.begin()
    await bench.alerts()
    bench.problems = Problems()
    bench.life(boot)
    bench.now_ns += later_s * SECOND
    await bench.restore()
    assert bench.given == []
    said = await bench.alerts()
    assert said[-1] == ("cleared", "it ended while no gateway ran: level is what is read")


async def test_people_end_it_once(bench: Bench) -> None:
    await bench.begin()
    assert (await bench.begin()).exit_code == Exit.ALREADY
    outcome = await bench.parts.end("level", "it is back", WHO, answered=nobody)
    assert outcome.exit_code == Exit.DONE
    again = await bench.parts.end("level", "", WHO, answered=nobody)
    assert again.exit_code == Exit.ALREADY
    bench.life()
    await bench.restore()
    assert bench.given == []


@pytest.mark.parametrize(
    ("ident", "value", "for_ns", "words"),
    [
        ("gas", 1.0, SECOND, "bypass gas --tag"),
        ("highest", 1.0, SECOND, "computed"),
        ("level", 10.5, SECOND, "not within the range"),
        ("level", math.nan, SECOND, "not within the range"),
        ("level", 1.0, FOR_NS_MAX + 1, "at most 1 d"),
        ("levle", 1.0, SECOND, "did you mean level"),
    ],
)
async def test_what_is_refused(
    bench: Bench, ident: str, value: float, for_ns: int, words: str
) -> None:
    outcome = await bench.parts.begin(ident, value, for_ns, "r", WHO, answered=nobody)
    assert outcome.exit_code in (Exit.FAILED, Exit.USAGE)
    assert words in outcome.text
    assert bench.given == []
    assert bench.ledger.audit.substitutions() == []


async def test_nothing_is_given_that_the_ledger_does_not_take() -> None:
    class Full:
        async def command(self, *_: Any) -> int:
            text = "the disk is full"
            raise StoreError(text)

    bench = Bench(Full())
    outcome = await bench.begin()
    assert outcome.exit_code == Exit.FAILED
    assert "the disk is full" in outcome.text
    assert bench.given == []


def test_the_guard_gets_it_as_bad_and_everything_else_as_it_is() -> None:
    mine = SAMPLE.pack(3, Quality.UNCERTAIN, Reason.SUBSTITUTED, 0, 4.5, 7, 8)
    other = SAMPLE.pack(4, Quality.UNCERTAIN, Reason.PRECISION, 0, 1.5, 7, 8)
    told = unsubstituted(mine + other)
    slot, quality, reason, _, value, *times = SAMPLE.unpack_from(told)
    assert (slot, quality, reason, times) == (3, Quality.BAD, Reason.SUBSTITUTED, [7, 8])
    assert math.isnan(value)
    assert told[SAMPLE.size :] == other
