"""One alert among ten thousand that neither a broker nor a platform takes, by a whole gateway."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.store.alert import AlertDraft, Source
from gateway.store.ledger import Ledger
from tests.helpers.harness import Site, until
from tests.helpers.mosquitto import Mosquitto, Subscriber
from tests.helpers.platform import Platform

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

ALERTS = 10_000
POISON = 7_777
LIMIT_BYTES = 8_000
WAIT_S = 60.0


class Picky(Platform):
    """Refuses a body with an alert in it that is too long for it, and takes nothing of that."""

    limit_bytes = LIMIT_BYTES

    async def _take(self, kept: list[dict[str, Any]], items: list[dict[str, Any]]) -> web.Response:
        if any(len(json.dumps(item)) > self.limit_bytes for item in items):
            return web.Response(status=422)
        return await super()._take(kept, items)


async def _fill(state: Path) -> None:
    """A ledger of so many alerts, one of them long; its own first alert is number 1."""
    state.mkdir(mode=0o700, exist_ok=True)
    uplinks = ("broker", "platform")
    ledger = await Ledger.open(state / "ledger.db", "test-site", site="test-site", uplinks=uplinks)
    for first in range(2, ALERTS + 1, 500):
        seqs = range(first, min(first + 500, ALERTS + 1))
        causes = {seq: "x" * LIMIT_BYTES if seq == POISON else f"storm {seq}" for seq in seqs}
        drafts = [
            AlertDraft(kind="alarm", state="event", source=Source("tag", "t"), cause=cause)
            for cause in causes.values()
        ]
        await ledger.append(drafts)
    assert ledger.head == ALERTS
    await ledger.close()


def _text(broker: Mosquitto, platform: Platform) -> str:
    return "\n".join(
        [
            '[site]\nid = "test-site"\n[view]\nlisten = "127.0.0.1:0"',
            f'[[uplink]]\nid = "broker"\nkind = "mqtt"\nurl = "{broker.url}"\ntimeout = "5s"',
            f'[[uplink]]\nid = "platform"\nkind = "http"\nurl = "{platform.url}"',
        ]
    )


def _numbers(alerts: list[dict[str, Any]]) -> tuple[set[int], list[int]]:
    """Of the alerts that came, and of the gap markers."""
    came = {alert["seq"] for alert in alerts if "gap" not in alert}
    return came, sorted({alert["gap"]["first"] for alert in alerts if "gap" in alert})


async def test_the_others_arrive_and_the_one_is_a_letter_with_its_reason(tmp_path: Path) -> None:
    lines = [f"message_size_limit {LIMIT_BYTES}", "max_queued_messages 0"]
    broker = Mosquitto(tmp_path, lines=lines)
    asyncio.get_running_loop().set_debug(False)
    others = set(range(1, ALERTS + 1)) - {POISON}
    async with broker, Subscriber(broker.port) as subscriber, Picky() as platform:
        site = Site(tmp_path, _text(broker, platform))
        await _fill(site.state)
        async with site:
            await site.start()
            await site.ready()

            async def letters() -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = (await site.cli("letters", "--json")).json()
                return found

            def of_state(state: str) -> int:
                rows = site.ledger("SELECT state FROM letter")
                return [found for (found,) in rows].count(state)

            await until("two letters", lambda: of_state("dead") == 2, WAIT_S)
            for count, alerts in (
                (lambda: len(subscriber.received), lambda: subscriber.of("alerts")),
                (lambda: len(platform.alerts), lambda: list(platform.unique().values())),
            ):
                await until(
                    "the others",
                    lambda count=count, alerts=alerts: (  # type: ignore[misc]
                        count() > ALERTS and others <= _numbers(alerts())[0]
                    ),
                    WAIT_S,
                )
            for arrived in (subscriber.of("alerts"), list(platform.unique().values())):
                came, gaps = _numbers(arrived)
                assert POISON not in came
                assert gaps == [POISON]
            rows = {row["uplink"]: row for row in await letters()}
            assert {(row["lane"], row["seq"]) for row in rows.values()} == {("alert", POISON)}
            assert rows["platform"]["reason"] == "http_422"
            assert rows["broker"]["reason"] in {"packet_too_large", "protocol_error"}
            told = [alert["cause"] for alert in site.alerts() if alert["kind"] == "gap"]
            assert sum(f"alert item {POISON} was refused" in cause for cause in told) == 2

            platform.limit_bytes = 10 * LIMIT_BYTES  # mended: it is sent again and settled
            ident = str(rows["platform"]["id"])
            answer = await site.cli("letters", "resend", ident, "--reason", "limit raised")
            assert answer.code == 0, answer
            await platform.wait_for({f"test-site/{_epoch(site)}/{POISON}"}, WAIT_S)
            await until("it is settled", lambda: of_state("resent") == of_state("dead") == 1)


def _epoch(site: Site) -> int:
    epoch: int = site.alerts()[0]["epoch"]
    return epoch
