"""The receiving platform inside a test, and messages for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from gateway.receiver.receive import Settings, receive
from tests.helpers.uplinks import EPOCH, T0_NS


@asynccontextmanager
async def receiving(**settings: Any) -> AsyncIterator[str]:
    """Its URL while it receives on any free port."""
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(receive(Settings(**settings), on_ready=url.set_result))
    try:
        async with asyncio.timeout(5):
            await asyncio.wait((url, task), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield url.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Receiver:
    """What a client sees of it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def report(self) -> dict[str, Any]:
        """GET /received."""
        async with self._session.get(f"{self._url}/received") as response:
            answer: dict[str, Any] = await response.json()
            return answer

    async def stream(self, lane: str) -> dict[str, Any]:
        """The one stream of a lane."""
        rows = [row for row in (await self.report())["streams"] if row["lane"] == lane]
        assert len(rows) == 1, rows
        found: dict[str, Any] = rows[0]
        return found

    async def alerts(self, after: int = 0) -> list[dict[str, Any]]:
        """GET /alerts: the alerts themselves."""
        async with self._session.get(f"{self._url}/alerts?after={after}") as response:
            return [row["alert"] for row in await response.json()]

    async def control(self, *, down: bool) -> None:
        """Cut the link, or bring it back."""
        async with self._session.post(f"{self._url}/control", json={"down": down}) as response:
            assert response.status == 200

    async def post(self, path: str, **body: Any) -> int:
        """The status of a POST."""
        async with self._session.post(f"{self._url}/{path}", json=body) as response:
            return response.status


def alert_of(seq: int, **changes: Any) -> dict[str, Any]:
    """An alert as it leaves."""
    return {
        "id": f"gw-1/{EPOCH}/{seq}", "gateway": "gw-1", "epoch": EPOCH, "seq": seq,
        "kind": "alarm", "state": "raised", "site": "site-1",
        "source": {"kind": "tag", "id": "ch4.t1"},
        "time": "2025-11-24T16:00:00.000000001Z", "recorded": "2025-11-24T16:00:00.000000002Z",
        "clock_synced": True, "priority": "high", "historical": False, "audit_head": "a1",
        **changes,
    }  # fmt: skip


def event_of(alert: dict[str, Any]) -> dict[str, Any]:
    """The CloudEvent around it."""
    return {"specversion": "1.0", "id": alert["id"], "type": "t", "source": "s", "data": alert}


def samples_of(seq: int, **changes: Any) -> dict[str, Any]:
    """Three samples: the second time of the first tag has none."""
    return {
        "gateway": "gw-1", "uplink": "platform", "epoch": EPOCH + 1, "seq": seq,
        "historical": False, "t0_ns": T0_NS + seq * 1_000_000_000, "dt_ms": [0, 500],
        "tags": ["ch4.t1", "air.speed"], "v": [[1.0, None], [2.0, 3.0]],
        **changes,
    }  # fmt: skip


def gap_of(first: int, last: int, reason: str = "shed", **changes: Any) -> dict[str, Any]:
    """A marker in the place of messages."""
    gap = {"first": first, "last": last, "reason": reason}
    return samples_of(last, dt_ms=[], tags=[], v=[], gap=gap, **changes)
