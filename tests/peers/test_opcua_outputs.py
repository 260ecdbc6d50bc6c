"""An output on an OPC UA server: a real guard wishes, the gateway writes, node-opcua has it."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, cast

import pytest

from drivers.kind import Surroundings
from fastpath.codes import OutputState
from gateway.guard.board import GuardBoard
from gateway.guard.program_text import Programs
from gateway.guard.slow_outputs import SlowOutputs
from gateway.life.problems import Problems
from gateway.orders.commands import Commands
from gateway.site.model import Config, Device, Duration, Output, Site
from tests.gateway.test_slow_outputs import Ledger, ViaGuard
from tests.helpers.live_guard import FAN
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.opcua_server import OpcUaServer
from tests.helpers.unsecret import no_secrets

MS = 1_000_000


def config(url: str) -> Config:
    return Config(
        site=Site(id="bench"),
        device=(
            Device(
                id="slow",
                driver="opcua",
                address=url,
                security="None",
                insecure=True,
                timeout=Duration(2_000 * MS),
            ),
        ),
        output=(
            Output(
                id="siren",
                device="slow",
                address="ns=1;s=flag",
                trip=False,
                normal=True,
                via="gateway",
            ),
        ),
    )


@pytest.mark.timeout(60)
async def test_a_trip_is_written_to_the_node_and_so_is_its_release(
    opcua_peer: OpcUaServer, tmp_path: Path
) -> None:
    opcua_peer.set("flag", False)
    async with ModbusServer() as fast, ViaGuard.at(tmp_path, fast) as guard:
        programs = Programs(guard.blob)
        ledger = cast("Any", Ledger())
        outputs = SlowOutputs(
            config(opcua_peer.url),
            lambda: GuardBoard.read(guard.view, programs),
            guard.link,
            ledger,
            Problems(),
            Surroundings(no_secrets),
        )
        jobs = [asyncio.create_task(job()) for job in outputs.jobs().values()]
        try:
            commands = Commands(ledger, guard.link, guard.map, guard.blob)
            outcome = await commands.release("siren", "first start", "uid:tester")
            assert outcome.exit_code == 0, outcome
            assert opcua_peer.get("flag") is True
            guard.server.set("di", FAN, 0)
            await guard.output_of("siren", OutputState.TRIPPED)
            assert opcua_peer.get("flag") is False
        finally:
            for job in jobs:
                job.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*jobs)
            opcua_peer.set("flag", True)
