"""Serial instruments in a process of their own, and how a site has them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.site.model import Device, Duration
from gateway.site.serial_templates import templates
from tests.helpers.build import build
from tests.helpers.serial_bench import Peer, running

MS = 1_000_000
TEMPLATES = {
    "wind": "nmea0183-wind",
    "scale": "ascii-scale",
    "gas": "ascii-gas",
    "logger": "logger-4-20ma",
}


@dataclass(slots=True)
class Instrument:
    """A running one; its commands are in instrument.c."""

    peer: Peer
    kind: str
    path: Path

    async def tell(self, line: str) -> None:
        """One command."""
        assert await self.peer.ask(line) == ["ok"]

    async def count(self) -> tuple[int, int, int]:
        """(frames sent, bytes damaged, requests heard)."""
        _, *numbers = await self.peer.ask("count")
        sent, damaged, asked = map(int, numbers)
        return sent, damaged, asked

    def device(self, **changes: Any) -> Device:
        """As a resolved site file has it."""
        return device_of(self.kind, str(self.path), **changes)


def device_of(kind: str, path: str, **changes: Any) -> Device:
    """A device of a shipped template, its tables in their place."""
    template = templates()[TEMPLATES[kind]]
    fields: dict[str, Any] = {
        "id": "dut",
        "driver": "serial",
        "address": path,
        "poll": Duration(20 * MS),
        "timeout": Duration(150 * MS),
        "settle": Duration(0),
        "line": template.line,
        "protocol": template.protocol,
        "fields": template.fields,
        "station": "01" if kind == "gas" else None,
    }
    return Device(**{**fields, **changes})


@asynccontextmanager
async def instrument(
    kind: str, path: Path, *, period_us: int = 10_000, seed: int = 1
) -> AsyncIterator[Instrument]:
    """One instrument behind the tty ``path``, until the end."""
    program = build("instrument")
    async with running(program, kind, str(path), str(period_us), str(seed)) as peer:
        assert await peer.answer() == ["ready"]
        yield Instrument(peer, kind, path)
