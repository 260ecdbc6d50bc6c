"""Stores, an uplink and problems in memory, for tests of the pump."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gateway.errors import StoreError, UplinkError
from gateway.site.model import Duration
from gateway.site.model import Uplink as UplinkConfig
from gateway.store.alert import AlertDraft, AlertItem
from gateway.store.items import SampleItem
from gateway.store.letter import Letter
from gateway.uplink.base import (
    ACCEPTED,
    ALERT,
    BACKFILL,
    Acknowledges,
    GapItem,
    Outgoing,
    Verdict,
)
from gateway.uplink.message import Sender

GOOD = 2
EPOCH = 1_700_000_000_000_000_000
T0_NS = 1_764_000_000_000_000_000
SENDER = Sender(gateway="gw-1", site="site-1", uplink="platform")


def config_of(url: str, *, kind: str = "mqtt", **changes: Any) -> UplinkConfig:
    """An uplink of a site file, with short times."""
    fields = {"id": "platform", "kind": kind, "url": url, "timeout": Duration(2_000_000_000)}
    return msgspec.convert({**fields, **changes}, UplinkConfig)


class MemoryLedger:
    """Alerts, cursors and letters; ``broken`` makes every call fail."""

    def __init__(self) -> None:
        self.epoch = EPOCH
        self.bodies: list[bytes] = []
        self.cursors: dict[tuple[str, str], int] = {}
        self.moves: list[tuple[str, int]] = []
        self.letters: dict[tuple[str, str, int], tuple[str, bytes]] = {}
        self.drafts: list[AlertDraft] = []
        self.broken = False
        self.bound_bytes = 1_000_000
        self.queued: list[Letter] = []

    @property
    def head(self) -> int:
        return len(self.bodies)

    @property
    def audit_head(self) -> str:
        return f"audit-{self.head}"

    def put(self, count: int = 1, kind: str = "alarm", cause: str = "methane") -> None:
        """Record so many alerts."""
        for _ in range(count):
            seq = self.head + 1
            self.bodies.append(
                msgspec.json.encode(
                    {
                        "id": f"gw-1/{EPOCH}/{seq}",
                        "gateway": "gw-1",
                        "epoch": EPOCH,
                        "seq": seq,
                        "kind": kind,
                        "state": "raised",
                        "site": "site-1",
                        "source": {"kind": "tag", "id": "ch4.t1"},
                        "time": "2025-11-24T16:00:00.000000001Z",
                        "recorded": "2025-11-24T16:00:00.000000002Z",
                        "cause": cause,
                    }
                )
            )

    async def bytes_after(self, seq: int) -> int:
        self._check()
        return sum(map(len, self.bodies[seq:]))

    async def alerts(self, after: int, limit: int) -> list[AlertItem]:
        self._check()
        return [
            AlertItem(after + 1 + index, body)
            for index, body in enumerate(self.bodies[after : after + limit])
        ]

    async def cursor(self, uplink: str, lane: str) -> int:
        self._check()
        return self.cursors.get((uplink, lane), 0)

    async def move_cursor(self, uplink: str, lane: str, seq: int, *, epoch: int = 0) -> None:
        self._check()
        assert epoch == self.epoch
        assert seq > self.cursors.get((uplink, lane), 0), "a cursor only grows"
        self.cursors[uplink, lane] = seq
        self.moves.append((lane, seq))

    async def letter(
        self,
        uplink: str,
        lane: str,
        seq: int,
        reason: str,
        body: bytes,
        draft: AlertDraft | None = None,
        *,
        epoch: int = 0,
    ) -> bool:
        self._check()
        assert epoch in (EPOCH, EPOCH + 1)
        if (uplink, lane, seq) in self.letters:
            return False
        self.letters[uplink, lane, seq] = (reason, body)
        if draft is not None:
            self.drafts.append(draft)
            self.put(kind="gap", cause=draft.cause)
        return True

    def letters_marked(self, uplink: str) -> int:
        return len(self.queued)

    async def letters_to_send(self, uplink: str) -> list[Letter]:
        self._check()
        return list(self.queued)

    async def letter_sent(self, uplink: str, lane: str, epoch: int, seq: int) -> None:
        self._unqueue(lane, seq)
        del self.letters[uplink, lane, seq]

    async def letter_refused(
        self, uplink: str, lane: str, epoch: int, seq: int, reason: str
    ) -> None:
        self._unqueue(lane, seq)

    def resend(self, lane: str, seq: int) -> None:
        """What ``letters resend`` does."""
        reason, body = self.letters["platform", lane, seq]
        epoch = EPOCH if lane == ALERT else EPOCH + 1
        self.queued.append(
            Letter(seq, "platform", lane, epoch, seq, reason, T0_NS, "queued", T0_NS, "", body)
        )

    def _unqueue(self, lane: str, seq: int) -> None:
        self._check()
        self.queued = [one for one in self.queued if (one.lane, one.seq) != (lane, seq)]

    def _check(self) -> None:
        if self.broken:
            msg = "disk full"
            raise StoreError(msg)


class MemoryHistory:
    """Rows by lane; ``shed`` drops the oldest."""

    def __init__(self) -> None:
        self.epoch = EPOCH + 1
        self.rows: dict[str, list[SampleItem]] = {"live": [], "backfill": []}
        self.heads = Counter[str]()
        self.lane = ""
        self.lanes_set: list[str] = []
        self.cursors: dict[str, int] = {}
        self.on_move: Callable[[], None] = lambda: None
        self.bound_bytes = 1_000_000

    def put(self, lane: str, count: int = 1) -> None:
        """Record so many rows of three samples."""
        for _ in range(count):
            self.heads[lane] += 1
            self.rows[lane].append(row(self.heads[lane]))

    def shed(self, lane: str, count: int) -> None:
        """Drop the oldest rows."""
        del self.rows[lane][:count]

    async def bytes_since(self, utc_ns: int) -> int:
        return sum(100 for rows in self.rows.values() for one in rows if one.t0_ns >= utc_ns)

    def lane_head(self, uplink: str, lane: str) -> int:
        return self.heads[lane]

    def unnumbered(self, uplink: str, lane: str) -> int:
        return 0

    def set_lane(self, uplink: str, lane: str) -> None:
        if self.lane != lane:
            self.lanes_set.append(lane)
        self.lane = lane

    async def items(self, uplink: str, lane: str, after: int, limit: int) -> list[SampleItem]:
        return [item for item in self.rows[lane] if item.seq > after][:limit]

    async def cursor(self, uplink: str, lane: str) -> int:
        return self.cursors.get(lane, 0)

    async def move_cursor(self, uplink: str, lane: str, seq: int, *, epoch: int = 0) -> None:
        assert epoch == self.epoch
        assert seq > self.cursors.get(lane, 0), "a cursor only grows"
        self.cursors[lane] = seq
        self.on_move()


class MemoryProblems:
    """What is wrong now, and everything that was said."""

    def __init__(self) -> None:
        self.active: dict[tuple[str, str], str] = {}
        self.said: list[tuple[str, str]] = []

    def raised(self, kind: str, ident: str, text: str, *, priority: str = "high") -> None:
        if (kind, ident) not in self.active:
            self.said.append(("raised", ident))
        self.active[kind, ident] = text

    def cleared(self, kind: str, ident: str, text: str) -> None:
        if self.active.pop((kind, ident), None) is not None:
            self.said.append(("cleared", ident))


class MemoryUplink:
    """Takes everything, unless ``answer`` says otherwise or ``error`` is set."""

    acknowledges = Acknowledges.STORED

    def __init__(self) -> None:
        self.answer: Callable[[str, Outgoing], Verdict] = lambda _lane, _out: ACCEPTED
        self.error: UplinkError | None = None
        self.sends: list[tuple[str, list[Outgoing]]] = []
        self.taken: list[tuple[str, int]] = []  # lane, sequence; a marker is negative
        self.connects = 0
        self.closed = 0
        self.sent = asyncio.Event()

    async def connect(self) -> bool:
        self.connects += 1
        if self.error is not None:
            raise self.error
        return True

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        self.sends.append((lane, list(items)))
        self.sent.set()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        verdicts = [self.answer(lane, out) for out in items]
        for out, verdict in zip(items, verdicts, strict=True):
            if verdict == ACCEPTED:
                sign = -1 if isinstance(out.item, GapItem) else 1
                self.taken.append((lane, sign * out.item.seq))
        return verdicts

    async def close(self) -> None:
        self.closed += 1

    def of(self, lane: str) -> list[int]:
        """What was taken of a lane, in order."""
        return [seq for name, seq in self.taken if name == lane]


def row(seq: int) -> SampleItem:
    """Two tags at two times; the second tag has no sample at the second time."""
    return SampleItem(
        seq=seq,
        t0_ns=T0_NS + seq * 1_000_000_000,
        dt_ns=(0, 500_000_000),
        tags=("ch4.t1", "air.speed"),
        values=((0.25 + seq, 0.5 + seq), (3.0, float("nan"))),
        qualities=(bytes((GOOD, GOOD)), bytes((GOOD, 0xFF))),
    )


def alert_out(seq: int = 1, body: bytes | None = None) -> Outgoing:
    """One alert on its way."""
    ledger = MemoryLedger()
    ledger.put(seq)
    return Outgoing(AlertItem(seq, body or ledger.bodies[-1]), epoch=EPOCH, audit_head="a1")


def row_out(seq: int = 1, *, historical: bool = False) -> Outgoing:
    """One row on its way."""
    return Outgoing(row(seq), epoch=EPOCH + 1, historical=historical)


ORDER = (ALERT, "live", BACKFILL)


async def until(true: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait for what another task brings about."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110  a plain state is what is looked at
            await asyncio.sleep(0.002)
