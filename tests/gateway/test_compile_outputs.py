"""Outputs, effects, fallbacks, leases, watchdogs and serial devices of a site as its program."""

from pathlib import Path
from typing import Any

import pytest

from fastpath import blob
from fastpath.codes import (
    NONE_U32,
    DeviceFlag,
    DeviceKind,
    InterlockFlag,
    Op,
    OutputFlag,
    OutputPath,
    Owner,
    Parity,
    TagFlag,
)
from fastpath.program import verify
from gateway.check import check_site
from gateway.site.model import Config

MS = 1_000_000
SITE = Path(__file__).parent.parent / "cases/good-graded/site.toml"


@pytest.fixture(scope="module")
def program() -> bytes:
    found = check_site(SITE).program
    verify(found)
    return found


@pytest.fixture(scope="module")
def config() -> Config:
    return check_site(SITE).config


def named(program: bytes, section: str) -> dict[str, Any]:
    """The records of a section by their ids."""
    ids = blob.names(program)[section]
    return dict(zip(ids, blob.section(program, section), strict=True))


def test_effects_have_their_delays(program: bytes) -> None:
    outputs, effects = blob.names(program)["outputs"], blob.section(program, "effects")
    locks = named(program, "interlocks")
    seen = {
        name: [
            (outputs[effect.output], effect.delay_ns // MS)
            for effect in effects[lock.effects_first :][: lock.effects_count]
        ]
        for name, lock in locks.items()
    }
    assert seen == {
        "high": [("siren", 0)],
        "very-high": [("feed", 0), ("siren", 2_000), ("pump", 500)],
        "rising": [("siren", 0)],
    }


def test_fallbacks_and_silence(program: bytes) -> None:
    outputs = blob.names(program)["outputs"]
    pairs = {(outputs[f.output], outputs[f.fallback]) for f in blob.section(program, "fallbacks")}
    assert pairs == {("feed", "pump"), ("pump", "valve")}
    silences = {name: output.silence_ns for name, output in named(program, "outputs").items()}
    assert silences == {"feed": 0, "pump": 0, "valve": 0, "siren": 600_000 * MS}
    assert blob.HEADER.unpack_from(program)[9] == blob.ON_NOTHING  # on_output_failure


def test_an_output_through_the_gateway_has_no_device(program: bytes) -> None:
    siren = named(program, "outputs")["siren"]
    assert (siren.path, siren.device, siren.address, siren.unit) == (
        OutputPath.GATEWAY, NONE_U32, 0, 0,
    )  # fmt: skip
    assert (siren.trip, siren.normal, siren.flags) == (1, 0, OutputFlag.HAS_NORMAL)
    assert set(blob.names(program)["devices"]) == {"plc", "bus-a", "bus-b"}  # not the horns


def test_serial_devices_of_one_port(program: bytes) -> None:
    devices = named(program, "devices")
    assert blob.names(program)["ttys"] == ["/dev/serial/by-id/usb-one"]
    for name, unit in (("bus-a", 1), ("bus-b", 2)):
        bus = devices[name]
        assert (bus.kind, bus.tty, bus.unit) == (DeviceKind.MODBUS_RTU, 0, unit)
        assert (bus.baud, bus.data_bits, bus.parity, bus.stop_bits) == (115200, 8, Parity.EVEN, 1)
        assert (bus.address, bus.port, bus.flags) == (bytes(16), 0, DeviceFlag.RS485)
        assert (bus.timeout_ns, bus.connect_timeout_ns) == (100 * MS, 100 * MS)
    assert devices["plc"].tty == NONE_U32
    assert named(program, "outputs")["valve"].unit == 2


def test_a_lease_and_the_registers_of_a_watchdog(program: bytes) -> None:
    plc = named(program, "devices")["plc"]
    assert plc.flags == DeviceFlag.HAS_HEARTBEAT | DeviceFlag.HAS_LEASE
    assert (plc.lease_address, plc.lease_ns) == (200, 3_000 * MS)
    tags = named(program, "tags")
    watched = {name: tag for name, tag in tags.items() if name.startswith("sys.plc.watchdog.")}
    assert {name: (tag.low, tag.high) for name, tag in watched.items()} == {
        "sys.plc.watchdog.1": (30.0, 30.0),
        "sys.plc.watchdog.2": (1.0, 1.0),
    }
    for tag in watched.values():
        assert tag.flags == TagFlag.HAS_RANGE | TagFlag.WATCHDOG
        assert (tag.owner, tag.stale_after_ns) == (Owner.GUARD, 3_200 * MS)
    requests = [r for r in blob.section(program, "requests") if r.period_ns == 1_000 * MS]
    assert [(r.address, r.count, r.function) for r in requests] == [(4098, 2, 3)]


def test_bypass_rules(program: bytes) -> None:
    locks = named(program, "interlocks")
    flags = {name: InterlockFlag(lock.flags) for name, lock in locks.items()}
    plain = InterlockFlag.LATCH | InterlockFlag.ARMED
    assert flags == {
        "high": plain | InterlockFlag.BYPASS_VOTES_TRIP,
        "very-high": plain | InterlockFlag.NO_BYPASS,
        "rising": plain,
    }
    hour = 3_600_000 * MS
    assert {name: lock.bypass_max_ns // hour for name, lock in locks.items()} == {
        "high": 8, "very-high": 4, "rising": 4,
    }  # fmt: skip
    assert named(program, "groups")["tank"].max_bypassed == 2
    ops = [Op(ins.op) for ins in blob.section(program, "code")]
    assert ops.count(Op.VOTE_TRIP) == 2  # of `high` alone
    assert ops.count(Op.WINDOW) == len(blob.section(program, "windows")) == 1


def test_proof_tests_are_the_gateways(config: Config) -> None:
    due = {item.id: item.test_every for item in config.interlock}
    assert due == {"high": 90 * 86_400_000 * MS, "very-high": None, "rising": None}
