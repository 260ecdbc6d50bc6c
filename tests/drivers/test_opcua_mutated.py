"""Answers of an OPC UA server with bytes changed, lost and added: nothing but a DriverError."""

import asyncio
import random
from collections import Counter
from typing import Any, Final

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary

from drivers.errors import DriverError
from drivers.kind import Surroundings
from drivers.opcua_subscribing import OpcUaSubscribing
from drivers.registry import make_driver
from gateway.site.model import Device, Duration, Point
from tests.helpers.opcua_script import ScriptedServer, as_data, scripted
from tests.helpers.unsecret import no_secrets

MS: Final = 1_000_000
WITHIN_S: Final = 10.0  # of a session that waits for an answer in 0.3 s
LEVEL: Final = "ns=2;s=Level"
VICTIMS: Final = (
    "CreateSession", "ActivateSession", "Read", "TranslateBrowsePathsToNodeIds",
    "CreateSubscription", "CreateMonitoredItems", "Publish",
)  # fmt: skip
LENGTHS: Final = (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\xfc\xff\xff\xff", bytes(4))


def mutated(data: bytes, chance: random.Random) -> bytes:
    """``data`` with one to four places that are not as they were."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, how = chance.randrange(len(made)), chance.randrange(4)
        if how == 0:
            made[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif how == 1:
            made[at : at + 4] = chance.choice(LENGTHS)
        elif how == 2:
            del made[at : at + chance.randrange(1, 9)]
        else:
            made[at:at] = chance.randbytes(chance.randrange(1, 9))
        made = made or bytearray(1)
    return bytes(made)


def spoil(server: ScriptedServer, chance: random.Random) -> None:
    """Its answers to one service are mutated, from the first, second or third on."""
    victim, whole, answer = chance.choice(VICTIMS), chance.randrange(3), server.answer

    def spoilt(request: Any, request_id: int, response: Any) -> None:
        nonlocal whole
        if type(request).__name__ == f"{victim}Request":
            whole -= 1
            if whole < 0:
                response = mutated(struct_to_binary(response), chance)
        answer(request, request_id, response)

    server.answer = spoilt  # type: ignore[method-assign]


async def one_session(chance: random.Random) -> str:
    """What became of it."""
    async with scripted() as server:
        server.values[LEVEL] = as_data(1.5)
        path = ua.BrowsePathTarget(ua.NodeId("Level", 2), 2**32 - 1)
        server.answers["TranslateBrowsePathsToNodeIds"] = lambda _: (
            ua.TranslateBrowsePathsToNodeIdsResponse(Results=[ua.BrowsePathResult(Targets=[path])])
        )
        spoil(server, chance)
        device = Device(
            id="dut", driver="opcua", address=server.url, security="None", insecure=True,
            read=chance.choice(("poll", "subscribe")), timeout=Duration(300 * MS),
            poll=Duration(50 * MS),
        )  # fmt: skip
        points = [Point(node=LEVEL), Point(path="0:Objects/2:Level"), Point(node="i=99")]
        pairs = [(point, None) for point in points]
        driver = make_driver("opcua", device, pairs, Surroundings(no_secrets))
        try:
            async with asyncio.timeout(WITHIN_S):
                await driver.connect()
                if isinstance(driver, OpcUaSubscribing):
                    await driver.subscribe([(50 * MS, (0, 1, 2))])
                    for values in ({LEVEL: 1.5}, None, {LEVEL: 2.5}):
                        await server.publish(values)
                        await driver.pushed()
                else:
                    for _ in range(3):
                        await driver.read((0, 1, 2))
        except DriverError:
            return "refused"
        finally:
            await driver.close()
    return "fine"


@pytest.mark.parametrize(
    "sessions",
    [25, pytest.param(10_000, marks=[pytest.mark.campaign, pytest.mark.timeout(900)])],
)
async def test_a_mutated_answer_is_an_error_of_ours_in_time(sessions: int) -> None:
    chance = random.Random(4)
    found = Counter([await one_session(chance) for _ in range(sessions)])
    assert found["fine"], found
    assert found["refused"], found
