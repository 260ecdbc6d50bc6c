"""What mbpoll reads, decoded by Python's struct, is what ``sitewarden tags --json`` says."""

import asyncio
import math
import re
import struct
from pathlib import Path

import pytest

from tests.helpers.harness import Site
from tests.helpers.modbus_server import ModbusServer
from tests.helpers.programs import find

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

# type: (struct format, value)
TYPES: dict[str, tuple[str, float]] = {
    "int16": (">h", -12345),
    "uint16": (">H", 54321),
    "int32": (">i", -1234567890),
    "uint32": (">I", 3456789012),
    "int64": (">q", -1234567890123456),
    "uint64": (">Q", 8234567890123456),
    "float32": (">f", 1.5625e-3),
    "float64": (">d", -1234.5678901234),
}
ORDERS = ("ABCD", "BADC", "CDAB", "DCBA")
TAG = """
[[tag]]
id = "{id}"
device = "{device}"
point = {{ address = "{area}:{address}", type = "{type}", order = "{order}" }}
"""
BIT = 700  # hr: bits are read out of this register
BITS = 0b1010_0110_1100_0101


def _swap(data: bytes, order: str) -> bytes:
    """Big-endian bytes as they lie in the registers of a device of that order (or back)."""
    words = [data[i : i + 2] for i in range(0, len(data), 2)]
    if order in {"CDAB", "DCBA"}:
        words.reverse()
    if order in {"BADC", "DCBA"}:
        words = [word[::-1] for word in words]
    return b"".join(words)


def _points() -> list[tuple[str, str, str, int]]:
    """(id, type, order, address) of every type in every order."""
    points = []
    address = 10
    for name, (layout, _) in TYPES.items():
        for order in ORDERS:
            points.append((f"{name}.{order.lower()}", name, order, address))
            address += struct.calcsize(layout) // 2 + 1  # a hole after each
    return points


def _site(address: str) -> str:
    parts = ['[site]\nid = "types"\n\n[view]\nlisten = "127.0.0.1:0"\n']
    for device, fast, area in (("slow", "false", "hr"), ("fast", "true", "ir")):
        parts.append(
            f'[[device]]\nid = "{device}"\ndriver = "modbus-tcp"\naddress = "{address}"\n'
            f'fast = {fast}\npoll = "100ms"\nsettle = "0s"\n'
        )
        parts += [
            TAG.format(id=f"{device}.{i}", device=device, area=area, address=a, type=t, order=o)
            for i, t, o, a in _points()
        ]
        parts += [
            TAG.format(
                id=f"{device}.bit{n}", device=device, area=area, address=f"{BIT}.{n}",
                type="bool", order="ABCD",
            )
            for n in range(16)
        ]  # fmt: skip
        parts.append(
            f'[[tag]]\nid = "{device}.di"\ndevice = "{device}"\npoint = {{ address = "di:3" }}\n'
        )
        parts.append(
            f'[[tag]]\nid = "{device}.coil"\ndevice = "{device}"\npoint = {{ address = "c:4" }}\n'
        )
    return "\n".join(parts)


async def _mbpoll(port: int, table: int, address: int, count: int) -> bytes:
    """Registers as mbpoll reads them, 4 for hr and 3 for ir, zero-based."""
    process = await asyncio.create_subprocess_exec(
        find("mbpoll"), "-m", "tcp", "-0", "-1", "-q", "-t", f"{table}:hex", "-p", str(port),
        "-r", str(address), "-c", str(count), "127.0.0.1",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    words = re.findall(r"^\[\d+\]:\s+0x([0-9A-F]{4})", out.decode(), re.MULTILINE)
    assert len(words) == count, out.decode()
    return bytes.fromhex("".join(words))


async def test_mbpoll_agrees_for_every_type_and_order(tmp_path: Path) -> None:
    async with ModbusServer() as server, Site(tmp_path, _site(server.address)) as site:
        for _, name, order, address in _points():
            layout, value = TYPES[name]
            data = _swap(struct.pack(layout, value if "f" in name else int(value)), order)
            for area in ("hr", "ir"):
                server.set(area, address, *struct.unpack(f">{len(data) // 2}H", data))
        server.set("hr", BIT, BITS)
        server.set("ir", BIT, BITS)
        server.set("di", 3, 1)
        server.set("c", 4, 1)
        await server.sync()
        await site.start()
        await site.ready()
        tags = await _good_tags(site)
        for device, table in (("slow", 4), ("fast", 3)):
            for ident, name, order, address in _points():
                layout, value = TYPES[name]
                raw = await _mbpoll(server.port, table, address, struct.calcsize(layout) // 2)
                decoded = struct.unpack(layout, _swap(raw, order))[0]
                assert math.isclose(decoded, value, rel_tol=1e-6)
                assert tags[f"{device}.{ident}"] == decoded, (device, ident)
            raw = await _mbpoll(server.port, table, BIT, 1)
            bits = struct.unpack(">H", raw)[0]
            for n in range(16):
                assert tags[f"{device}.bit{n}"] == bits >> n & 1, (device, n)
            assert tags[f"{device}.di"] == 1
            assert tags[f"{device}.coil"] == 1


async def _good_tags(site: Site) -> dict[str, float]:
    for _ in range(40):
        tags = (await site.cli("tags", "--json")).json()
        if all(tag["quality"] == "GOOD" for tag in tags):
            break
        await asyncio.sleep(0.1)
    bad = {tag["id"]: tag["reason"] for tag in tags if tag["quality"] != "GOOD"}
    assert not bad
    return {tag["id"]: tag["value"] for tag in tags}
