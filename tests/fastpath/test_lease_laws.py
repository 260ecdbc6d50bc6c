"""At most one guard drives a device's outputs: its lease, under every order and delay."""

import heapq
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.blobs import MS

LEASE_NS = 1000 * MS
EVERY_NS = 100 * MS
TURN_NS = 10 * MS
REPLY_WITHIN_NS = 200 * MS
LIVES, TURNS = 150, 3000


@dataclass
class Registers:
    """The three of the device."""

    values: list[int] = field(default_factory=lambda: [0, 0, 0])

    def asked(self, request: tuple[Any, ...]) -> bytes:
        if request[0] != "read":
            self.values[-len(request[1:]) :] = request[1:]
        return b"".join(each.to_bytes(2, "big") for each in self.values)


@dataclass
class Guard:
    """One of them, its connection, and when it runs again."""

    lease: Any
    connection: int = 0
    waits: int = 0  # for the reply of this request, 0: for none
    waits_until_ns: int = 0
    frozen_until_ns: int = 0
    arrives_ns: int = 0  # nothing overtakes on a connection
    inbox: list[tuple[int, int, bytes]] = field(default_factory=list)


class Plant:
    """Guards, the device, and a network that delays, loses and keeps the order of a connection."""

    def __init__(self, leases: list[Any], seed: int) -> None:
        self.chance = random.Random(seed)
        self.device = Registers()
        self.guards = [Guard(each) for each in leases]
        for each in leases:
            each.forget()
        self.numbers = itertools.count(1)
        self.network: list[tuple[int, int, Guard, int, tuple[Any, ...]]] = []
        self.now_ns = 10**12
        self.drove = [0, 0, 0]
        self.changes = 0
        self.last = -1

    def live(self) -> None:
        """Turn by turn; never two that drive."""
        for _turn in range(TURNS):
            self.now_ns += TURN_NS
            self._carry()
            self._happen()
            awake = [g for g in self.guards if g.frozen_until_ns <= self.now_ns]
            for guard in awake:
                self._turn(guard)
            sure = [n for n, g in enumerate(self.guards) if g.lease.sure(self.now_ns)]
            assert len(sure) <= 1, f"{sure} drive at {self.now_ns}"
            for number in sure:
                self.drove[number] += 1
                self.changes += number != self.last
                self.last = number

    def _carry(self) -> None:
        """Requests that reach the device now, and their replies into the inbox."""
        while self.network and self.network[0][0] <= self.now_ns:
            at_ns, number, guard, connection, request = heapq.heappop(self.network)
            reply = self.device.asked(request)
            if connection == guard.connection and request[0] == "read":
                back_ns = at_ns + self.chance.choice([0, 0, 20, 150]) * MS
                guard.inbox.append((back_ns, number, reply))
            elif connection == guard.connection:
                guard.inbox.append((at_ns, number, b""))

    def _happen(self) -> None:
        """Seldom: a stop of one, its end, a lost connection, a device that starts anew."""
        guard = self.chance.choice(self.guards)
        match self.chance.randrange(400):
            case 0 | 1 | 2:
                guard.frozen_until_ns = self.now_ns + self.chance.randrange(100, 5000) * MS
            case 3:
                guard.lease.forget()
                self._reconnect(guard)
            case 4 | 5:
                self._reconnect(guard)
            case 6 if self.chance.random() < 0.3:
                self.device.values = [0, 0, 0]

    def _reconnect(self, guard: Guard) -> None:
        """What is on its way still arrives, and is not answered."""
        guard.connection = next(self.numbers)
        guard.waits = 0
        guard.arrives_ns = 0
        guard.inbox.clear()
        guard.lease.opened()

    def _turn(self, guard: Guard) -> None:
        """What came, then what is wished for; one request at a time."""
        for back_ns, number, reply in list(guard.inbox):
            if back_ns <= self.now_ns:
                guard.inbox.remove((back_ns, number, reply))
                if number == guard.waits:
                    guard.waits = 0
                    if reply:
                        guard.lease.look(reply, self.now_ns)
        if guard.waits and self.now_ns >= guard.waits_until_ns:
            guard.waits = 0
        if guard.waits:
            return
        request = guard.lease.wish(self.now_ns)
        if request is None:
            return
        guard.waits = next(self.numbers)
        guard.waits_until_ns = self.now_ns + REPLY_WITHIN_NS
        late_ns = self.chance.choice([0, 0, 0, 10, 50, 150, 400]) * MS
        guard.arrives_ns = max(guard.arrives_ns, self.now_ns + late_ns)
        heapq.heappush(
            self.network, (guard.arrives_ns, guard.waits, guard, guard.connection, request)
        )


@pytest.fixture
def leases(inside: Any, tmp_path: Path) -> Iterator[list[Any]]:
    """Three guards' views of one device."""
    found = [
        inside.Contender(str(tmp_path / f"{n}"), 100 + n, LEASE_NS, EVERY_NS) for n in range(3)
    ]
    yield found
    for each in found:
        each.close()


def test_never_do_two_guards_drive_one_device(leases: list[Any]) -> None:
    drove, changes = 0, 0
    for seed in range(LIVES):
        plant = Plant(leases, seed)
        try:
            plant.live()
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
        drove += sum(plant.drove)
        changes += plant.changes
    assert drove >= LIVES * TURNS // 10
    assert changes >= LIVES
