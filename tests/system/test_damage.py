"""Databases that are damaged between two starts: the gateway starts by itself and tells of it.

The guard lives on, the platform was away before, so that every alert of the ledger is still owed.
"""

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.harness import COIL, CONTACT, GAS, LIMIT, Site, site_text, until
from tests.helpers.machine import COUNTER
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.platform import Platform
from tests.helpers.spawner import Spawner

pytestmark = pytest.mark.system

START_S = 10.0
TRIPS = 40
SMALL = ("flip", "zero page")  # what leaves nearly all of it to be read
KEPT_MIN = 0.8  # of the owed alerts, over all small damages

Damage = Callable[[Path, random.Random], None]


def _flip(path: Path, chance: random.Random) -> None:
    body = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 8))):
        body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    path.write_bytes(body)


def _zero_page(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * chance.randrange(1, max(2, path.stat().st_size // 4096)))
        file.write(bytes(4096))


def _truncate(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size))


def _empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def _directory(path: Path, _: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "something").touch()


def _garbage_shm(path: Path, chance: random.Random) -> None:
    path.with_name(f"{path.name}-shm").write_bytes(chance.randbytes(32768))


def _lose_wal(path: Path, _: random.Random) -> None:
    path.with_name(f"{path.name}-wal").unlink(missing_ok=True)


def _other(path: Path) -> Path:
    return path.with_name("history.db" if path.name == "ledger.db" else "ledger.db")


def _wal_of_the_other(path: Path, _: random.Random) -> None:
    shutil.copy(f"{_other(path)}-wal", f"{path}-wal")


def _swap(path: Path, _: random.Random) -> None:
    for suffix in ("", "-wal"):
        own, other = Path(f"{path}{suffix}"), Path(f"{_other(path)}{suffix}")
        between = path.with_name("between")
        own.rename(between)
        other.rename(own)
        between.rename(other)


def _flip_wal(path: Path, chance: random.Random) -> None:
    _flip(path.with_name(f"{path.name}-wal"), chance)


DAMAGES: dict[str, Damage] = {
    "flip": _flip,
    "zero page": _zero_page,
    "truncate": _truncate,
    "empty": _empty,
    "directory": _directory,
    "garbage -shm": _garbage_shm,
    "-wal lost": _lose_wal,
    "-wal of the other": _wal_of_the_other,
    "-wal flipped": _flip_wal,
    "swap": _swap,
    "-wal a directory": lambda path, chance: _directory(Path(f"{path}-wal"), chance),
}


class Damaged:
    """A site whose databases are damaged again and again, from the same beginning."""

    def __init__(self, site: Site, platform: Platform, seed: int) -> None:
        self._site = site
        self._platform = platform
        self._chance = random.Random(seed)
        self._origin = site.directory / "origin"
        self.starts_s: list[float] = []
        self.damages: Counter[str] = Counter()
        self.set_aside = 0
        self.owed: set[str] = set()
        self.kept: list[float] = []  # of the owed, after small damages

    async def begin(self, device: ModbusServer) -> None:
        """Fill both databases, with the platform away, and end by kill -9."""
        self._platform.down = True
        await self._site.start()
        await self._site.ready()
        await self._site.protecting()
        for _ in range(TRIPS):
            for gas, coil in ((LIMIT + 0.5, 0), (0.3, 1)):
                device.set_float("ir", GAS, gas)

                async def there(wanted: int = coil) -> bool:
                    return (await device.get("c", COIL))[0] == wanted

                await until(f"coil {coil}", there)
        await until("the trips", lambda: self._site.trips_recorded() >= TRIPS)
        await self._site.kill_gateway()
        self.owed = {alert["id"] for alert in self._site.alerts()}
        self._origin.mkdir()
        for path in self._site.state.glob("*.db*"):
            if not path.name.endswith(".reserve"):
                shutil.copy(path, self._origin)
        self._platform.down = False

    async def damage(self, number: int) -> None:
        """One damage, one start, one end."""
        self._restore()
        kind = list(DAMAGES)[number % len(DAMAGES)]
        name = self._chance.choice(("ledger.db", "history.db"))
        DAMAGES[kind](self._site.state / name, self._chance)
        self.damages[kind] += 1
        told = f"{kind} of {name}"
        self._platform.alerts.clear()
        began = time.monotonic()
        await self._site.start()
        await self._site.ready(START_S)
        self.starts_s.append(time.monotonic() - began)
        await until(f"an alert of this life, {told}", partial(self._has, "has started"))
        for aside in self._asides():
            self.set_aside += 1
            await until(f"{aside} told, {told}", partial(self._has, aside))
        if kind in SMALL and name == "ledger.db":
            await until("the ledger is delivered", self._delivered)
            received = [event["data"] for event in self._platform.alerts]
            had = {alert.get("was") or alert["id"] for alert in received}
            self.kept.append(len(self.owed & had) / len(self.owed))
        await self._site.kill_gateway()

    def _restore(self) -> None:
        for path in self._site.state.glob("*.db*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.endswith(".reserve"):
                path.unlink()
        for path in self._origin.iterdir():
            shutil.copy(path, self._site.state)

    def _asides(self) -> list[str]:
        found = self._site.state.glob("*.damaged-*")
        return sorted(path.name for path in found if path.suffix[-1].isdigit())

    def _has(self, text: str) -> bool:
        return any(text in json.dumps(event) for event in self._platform.alerts)

    async def _delivered(self) -> bool:
        status = await self._site.get("/status")
        return bool(status["uplinks"][0]["backlog"]["alerts"] == 0)


async def _run(tmp_path: Path, damages: int, seed: int) -> Damaged:
    async with (
        Spawner() as spawner,
        ModbusServer(tmp_path / "requests", reads=False) as device,
        Platform() as platform,
    ):
        device.set("c", COIL, 1)
        device.link(COIL, CONTACT, ms=2)
        device.set_float("ir", GAS, 0.3)
        device.count("hr", 10, 1)
        text = site_text([device.address], url=platform.url, latch=False) + COUNTER
        async with Site(tmp_path, text, spawner) as site:
            damaged = Damaged(site, platform, seed)
            await damaged.begin(device)
            for number in range(damages):
                await damaged.damage(number)
    assert max(damaged.starts_s) < START_S, f"seed {seed}"
    assert min(damaged.damages.values()) >= damages // len(DAMAGES), damaged.damages
    assert damaged.set_aside * 3 >= damages, f"too little harm, seed {seed}"
    assert sum(damaged.kept) >= KEPT_MIN * len(damaged.kept), (damaged.kept, f"seed {seed}")
    return damaged


@pytest.mark.timeout(240)
async def test_fifty_damages_are_survived_and_told(tmp_path: Path) -> None:
    await _run(tmp_path, 50, random.randrange(1 << 30))


@pytest.mark.campaign
@pytest.mark.timeout(5000)
async def test_a_thousand_damages_are_survived_and_told(tmp_path: Path) -> None:
    await _run(tmp_path, 1_000, random.randrange(1 << 30))
