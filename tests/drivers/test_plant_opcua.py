"""A simulated OPC UA server as a site's own driver meets it, and as any client does."""

import asyncio
from collections.abc import Awaitable, Callable

from asyncua import Client, ua

from drivers.kind import Surroundings
from drivers.opcua_points import parse_opcua_point
from drivers.plant import NodeText, OutputText, PlantText, ServerText, TagText
from drivers.plant_server import PlantServers
from drivers.points import parse_point
from drivers.registry import make_driver
from drivers.signals import parse_signal
from fastpath.codes import Quality
from gateway.site.model import Device, Duration, Point
from tests.helpers.unsecret import no_secrets

POINTS = {
    "level": Point(node="ns=2;s=Tank.Level", scale=0.5),
    "second": Point(node="ns=3;i=1001"),
    "shut": Point(path="0:Objects/2:Plant/2:Valve/2:Shut", type="bool"),
}
VALUES = {"level": 12.5, "second": -3.0}
ARRAY = Point(node="nsu=urn:other;s=Array", index=2)
VALVE = Point(address="ns=2;s=Valve.Command", type="bool")


def plant() -> PlantText:
    tags = tuple(
        TagText(
            id=ident, unit=1, place=parse_point("di:0" if ident == "shut" else "ir:0"),
            signal=parse_signal(f"constant {VALUES.get(ident, 0)}", None),
        )
        for ident in POINTS
    )  # fmt: skip
    valve = OutputText(
        id="valve", unit=1, place=parse_point("c:0"), trip=1, normal=0, readback="shut",
        follow_ns=0,
    )  # fmt: skip
    nodes = [NodeText(id=i, place=parse_opcua_point(p, None)) for i, p in POINTS.items()]
    nodes.append(NodeText(id="second", place=parse_opcua_point(ARRAY, None)))
    nodes.append(NodeText(id="valve", place=parse_opcua_point(VALVE, None), output=True))
    server = ServerText(name="ua", kind="opcua", tags=tags, outputs=(valve,), nodes=tuple(nodes))
    return PlantText(servers=(server,))


async def until(ready: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await ready():  # noqa: ASYNC110  only reading tells
            await asyncio.sleep(0.05)


async def test_a_sites_own_driver_reads_and_writes_it() -> None:
    servers = PlantServers(plant())
    try:
        url = str((await servers.start())["ua"])
        device = Device(
            id="ua", driver="opcua", address=url, security="None", insecure=True, read="poll",
            timeout=Duration(2_000_000_000), settle=Duration(0),
        )  # fmt: skip
        points = [(point, None) for point in (*POINTS.values(), VALVE)]
        driver = make_driver("opcua", device, points, Surroundings(no_secrets))
        await driver.connect()
        plan = driver.plan(range(3))

        async def read() -> dict[str, tuple[float, int]]:
            names = list(POINTS)
            return {names[r.point]: (r.value, r.quality) for r in await driver.read(plan)}

        try:
            good = int(Quality.GOOD)
            assert await read() == {
                "level": (12.5, good), "second": (-3.0, good), "shut": (0.0, good)
            }  # fmt: skip
            await driver.write(3, 1.0)

            async def shut() -> bool:
                return (await read())["shut"] == (1.0, good)

            await until(shut)
            servers.obey(b'{"do": "drive", "tag": "level", "value": 99}')

            async def driven() -> bool:
                return (await read())["level"] == (99.0, good)

            await until(driven)
            servers.obey(b'{"do": "bad", "tag": "second"}')

            async def bad() -> bool:
                return (await read())["second"][1] == Quality.BAD

            await until(bad)
        finally:
            await driver.close()
        async with Client(url) as client:
            other = await client.get_namespace_index("urn:other")
            array = client.get_node(f"ns={other};s=Array")
            servers.obey(b'{"do": "end", "tag": "second"}')

            async def whole() -> bool:
                value = await array.read_data_value(raise_on_bad_status=False)
                return value.Value is not None and value.Value.Value == [0.0, 0.0, -3.0]

            await until(whole)
            node = client.get_node("ns=2;s=Tank.Level")
            assert await node.read_value() == 198.0, "the driver's scale is off"
            servers.obey(b'{"do": "fault", "device": "ua", "fault": "silent"}')

            async def lost() -> bool:
                value = await node.read_data_value(raise_on_bad_status=False)
                code = value.StatusCode
                return code is not None and code.value == ua.StatusCodes.BadNoCommunication

            await until(lost)
    finally:
        await servers.close()
