"""When to kill: close to a trip, behind it, before it, or at any moment."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.helpers.harness import COIL, GAS, LIMIT
from tests.helpers.modbus_server import ModbusServer

NEAR_NS = 50_000_000

# Of ten kills five come just behind the device's own word of the trip, two just after the trip
# value left, two at about the time when it is read, one at any time: at least half are near a trip
# that is on the wire, whatever chance and the machine's load say.
MOMENTS = ("behind",) * 5 + ("after",) * 2 + ("about",) * 2 + ("any",)


@dataclass(frozen=True)
class Ranges:
    """Seconds to wait at most: behind the trip, after the value left or was made ready, at any."""

    behind: float
    after: float
    about: float
    any: float


def plan(kills: int, chance: random.Random) -> list[str]:
    """The moments of so many kills, in random order."""
    moments = [MOMENTS[i % len(MOMENTS)] for i in range(kills)]
    chance.shuffle(moments)
    return moments


async def provoke(device: ModbusServer, moment: str, ranges: Ranges, chance: random.Random) -> bool:
    """Make the next read carry the trip value; returns when it is time to kill.

    True where the device's word of the trip was waited for already.
    """
    device.send(f"arm k ir {GAS} {LIMIT + 0.5} {COIL} 0")
    if moment != "about":
        await device.event("sent")
    if moment == "behind":
        await device.event("trip")
    await asyncio.sleep(chance.uniform(0.0, getattr(ranges, moment)))
    return moment == "behind"


def near(killed: Sequence[int], trips: Sequence[int]) -> int:
    """How many of the kills were within NEAR_NS of a trip; both in ns."""
    return sum(min(abs(kill - trip) for trip in trips) <= NEAR_NS for kill in killed)
