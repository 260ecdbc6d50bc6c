"""A Gateway whose parts are simple stand-ins around a real guard: for the view and its sockets."""

import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import msgspec

from drivers.base import Facts
from drivers.session import SessionStats, State
from fastpath.codes import DeviceState, Quality
from fastpath.image import TagImage
from gateway.guard.apply import Running, running_of
from gateway.life.lives import Lives
from gateway.life.problems import Problem
from gateway.orders.commands import Commands
from gateway.parts import Gateway
from gateway.plant.tags import TagTable
from gateway.site.model import (
    Config,
    Device,
    Duration,
    Interlock,
    Point,
    Site,
    Tag,
    Uplink,
    View,
)
from gateway.store.alert import ActiveAlert
from gateway.store.audit import AuditEntry
from gateway.store.audit_memory import AuditMemory
from gateway.uplink.backlog import Waiting
from gateway.uplink.pump import PumpStats
from tests.helpers.live_guard import LiveGuard

ALERTS: list[dict[str, Any]] = [
    {"id": "g/1/1", "kind": "device", "priority": "high", "time": "2026-01-01T00:00:01.000000000Z",
     "source": {"kind": "device", "id": "weather"}, "cause": "no connection"},
    {"id": "g/1/2", "kind": "alarm", "priority": "critical",
     "time": "2026-01-01T00:00:02.000000000Z", "source": {"kind": "tag", "id": "gas"},
     "value": 1.1, "cause": "gas >= 1"},
]  # fmt: skip


class Ledger:
    """Numbers commands; has two alerts."""

    epoch = 1_700_000_000_000_000_000

    def __init__(self) -> None:
        self.audit = AuditMemory()
        self.audit.take(
            AuditEntry(1, 1_700_000_000_000_000_000, "proof", None, "uid:ann", "proof test",
                       "gas-high", '{"passed": true}')
        )  # fmt: skip
        self.commands: list[tuple[str, str, str]] = []

    async def command(self, who: str, action: str, target: str, _detail: Any) -> int:
        self.commands.append((who, action, target))
        return len(self.commands)

    async def command_result(self, seq: int, code: int, text: str) -> None:
        """Nothing is kept."""

    def active(self) -> list[ActiveAlert]:
        return [ActiveAlert(a["id"], a["id"], msgspec.json.encode(a)) for a in ALERTS]

    def stats(self) -> Any:
        return SimpleNamespace(
            ok=True, bytes=4096, bytes_written=1234, dropped={}, letters={("mine", "too_large"): 2},
            letter_states={("mine", "dead"): 1, ("mine", "resent"): 1}, audit_entries=3,
            audit_head="ab" * 32,
        )  # fmt: skip


class Problems:
    """Keeps what is raised."""

    def __init__(self) -> None:
        self.now: dict[tuple[str, str], Problem] = {}
        self.dropped: Counter[str] = Counter({"no_room": 1})

    def active(self) -> list[Problem]:
        return list(self.now.values())

    def raised(self, kind: str, ident: str, text: str, *, priority: str = "high") -> None:
        del priority
        self.now[kind, ident] = Problem(kind, ident, text, time.time_ns())

    def cleared(self, kind: str, ident: str, text: str) -> None:
        del text
        self.now.pop((kind, ident), None)


def config(listen: str = "127.0.0.1:0") -> Config:
    """The bench site: the guard's device, and a slow one with a text full of surprises."""
    return Config(
        site=Site(id="bench", gateway="bench-gw"),
        device=(
            Device(id="plc", driver="modbus-tcp", address="127.0.0.1:1", fast=True),
            Device(id="weather", driver="modbus-tcp", address="127.0.0.1:2", backup="127.0.0.1:3"),
        ),
        tag=(
            Tag(id="gas", device="plc", unit="%CH4", point=Point(address="ir:100")),
            Tag(id="fan.running", device="plc", point=Point(address="di:6")),
            Tag(id="wind", device="weather", unit='m"/s\\\n', point=Point(address="hr:1")),
            Tag(id="rain", device="weather", unit="mm", point=Point(address="hr:2")),
        ),
        interlock=(
            Interlock(
                id="gas-high",
                cause="gas >= 1.5",
                effects=(),
                response=Duration(2_000_000_000),
                armed=True,
                test_every=Duration(86_400_000_000_000),
            ),
        ),
        uplink=(Uplink(id="mine", kind="http", url="http://127.0.0.1:1"),),
        view=View(listen=listen),
    )


def gateway_of(guard: LiveGuard, listen: str = "127.0.0.1:0") -> Gateway:
    """Real: guard, link, commands, image, tags. Stand-ins: stores, pump, scanner, recorder."""
    site = config(listen)
    image = TagImage(len(site.tag))
    now_ns = time.monotonic_ns()
    image.put(2, 7.25, Quality.GOOD, 0, now_ns, time.time_ns(), 0)
    index = {tag.id: i for i, tag in enumerate(site.tag)}

    def running() -> Running:
        return running_of(guard.paths, guard.map().header().program, index)

    ledger: Any = Ledger()
    stats = SessionStats(up=True, state=State(DeviceState.UP), requests={"good": 10, "timeout": 2})
    ends_ns = time.time_ns() + 3_600_000_000_000
    stats.facts = Facts("127.0.0.1:3", ends_ns, {"backup": "on it"}, clock_ahead_ns=1_500_000_000)
    stats.lateness_ns, stats.polls_missed = 2_500_000, 3
    uplink = PumpStats(
        id="mine", up=False, reason="down", sent={"alert": 7}, retried=1, refused=2,
        waiting={
            "alert": Waiting(3, 12.5, 3_600, 0.25, 7_200.0),
            "live": Waiting(0, 0.0, 0),
            "backfill": Waiting(40, 4.0),
        },
        letters={"too_large": 2},
        connects=4,
        certificate_not_after_utc_ns=time.time_ns() + 86_400_000_000_000,
    )  # fmt: skip
    parts: Any = {
        "config": site,
        "checked": None,
        "paths": guard.paths,
        "started_mono_ns": now_ns,
        "started_utc_ns": time.time_ns(),
        "problems": Problems(),
        "image": image,
        "tags": TagTable(site, image, guard.map, running),
        "link": guard.link,
        "supervisor": None,
        "lives": Lives(guard.paths.lives),
        "running": running(),
        "view": lambda: guard.view,
        "limits": None,
        "ledger": ledger,
        "history": SimpleNamespace(
            stats=lambda: SimpleNamespace(
                ok=False, bytes=8192, bytes_written=99, dropped={"shed_rows": 5}
            )
        ),
        "recorder": SimpleNamespace(
            rounds=1,
            stats=lambda: SimpleNamespace(events=11, samples=22, dropped={"overwritten": 6}),
        ),
        "scanner": SimpleNamespace(
            stats=lambda: SimpleNamespace(
                devices={"weather": stats}, dropped={"settle": 4}, texts={"rain": "DN 200"}
            )
        ),
        "slow_outputs": SimpleNamespace(
            stats=lambda: {("valve", "good"): 3}, dropped={"audit_full": 1}
        ),
        "pumps": (SimpleNamespace(stats=lambda: uplink),),
    }
    gateway = Gateway(**parts)
    gateway.commands = Commands(ledger, guard.link, guard.map, guard.blob)
    return gateway
