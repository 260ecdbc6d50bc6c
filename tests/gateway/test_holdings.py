"""What a site holds of a plant, by its file and by its guard's program, however it is addressed."""

import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fastpath import blob
from gateway.commission.holdings import (
    Aim,
    all_holdings,
    holder,
    holdings_of,
    holdings_of_program,
    same_device,
)
from gateway.site.model import Config, Device, Output, Site
from tests.helpers.blobs import wide_program
from tests.helpers.harness import ROOT
from tests.helpers.sites import checked, site_text

LEASED = """
[site]
id = "leased"

[[device]]
id = "io"
driver = "modbus-tcp"
address = "192.168.10.30:502"
unit = 3
base = 1
fast = true
watchdog_registers = [{ address = "hr:4097", value = 30 }]
lease = { address = "hr:201" }
heartbeat = { address = "hr:91", watchdog = "10s" }
"""


@pytest.mark.parametrize("by", ["file", "program", "both"])
def test_every_place_that_a_site_writes(tmp_path: Path, by: str) -> None:
    site = checked(tmp_path, site_text())
    made = {
        "file": lambda: holdings_of(site.config),
        "program": lambda: holdings_of_program(site.program),
        "both": lambda: all_holdings(site.config, site.program),
    }[by]()
    plc, valves = "192.168.10.20:502", "[2001:db8::21]:1502"
    cases = [
        (Aim(plc, 7, "c", 16, 1), "output power"),
        (Aim(plc, 0, "c", 16, 1), "output power"),  # a PLC answers unit 0 and 255 as its own
        (Aim(plc, 255, "c", 10, 10), "output power"),
        (Aim("192.168.10.20:802", 7, "c", 16, 1), "output power"),  # TLS to the same PLC
        (Aim("[::ffff:192.168.10.20]:502", 7, "c", 16, 1), "output power"),
        (Aim(plc, 7, "hr", 91, 1), "heartbeat of plc"),
        (Aim(plc, 7, "hr", 88, 4), "heartbeat of plc"),
        (Aim(valves, 9, "hr", 39, 1), "output valve"),  # base 1, a unit of its own
        (Aim(plc, 7, "c", 17, 1), None),
        (Aim(plc, 7, "hr", 16, 1), None),
        (Aim(plc, 8, "c", 16, 1), None),
        (Aim(plc, 7, "hr", 92, 2), None),
        (Aim(plc, 7, "hr", 88, 2), None),
        (Aim(valves, 9, "hr", 40, 1), None),
        (Aim("192.168.10.21:502", 7, "c", 16, 1), None),
    ]
    for aim, what in cases:
        assert holder(aim, made) == what, aim


@pytest.mark.parametrize("by", ["file", "program"])
def test_lease_and_watchdog_registers_are_held(tmp_path: Path, by: str) -> None:
    output = (
        '[[output]]\nid = "o"\ndevice = "io"\naddress = "c:1"\ntrip = false\n'
        '[[interlock]]\nid = "i"\ncause = "not sys.io.connected"\neffects = ["o"]\n'
        'response = "60s"\narmed = true\n'
    )
    site = checked(tmp_path, LEASED + output)
    config, program = site.config, site.program
    held = holdings_of(config) if by == "file" else holdings_of_program(program)
    address = "192.168.10.30:502"
    for first, what in (
        (200, "lease of io"), (202, "lease of io"), (203, None),
        (4096, "watchdog register of io"), (4097, None),
    ):  # fmt: skip
        assert holder(Aim(address, 3, "hr", first, 1), held) == what, first


def test_a_program_without_names_and_one_of_another_version() -> None:
    """Some other guard on this machine: what it holds is known by its places, or not at all."""
    program = blob.build(wide_program())
    held = holdings_of_program(program)
    assert holder(Aim("127.0.0.1:502", 1, "hr", 90, 1), held) == "heartbeat of #0"
    assert holder(Aim("/dev/serial/by-id/usb-one", 3, "hr", 4, 1), held) == "output #2"
    assert held.unplaced == ("#3",)
    later = program.replace(blob.FORMAT.to_bytes(4, "little"), b"\x63\0\0\0", 1)
    with pytest.raises(ValueError, match="of another version"):
        holdings_of_program(later)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.5:502", "10.0.0.5:502", True),
        ("10.0.0.5:502", "10.0.0.5:802", True),
        ("10.0.0.5:502", "10.0.0.6:502", False),
        ("127.0.0.1:1502", "localhost:1502", True),
        ("[::1]:1502", "127.0.0.1:1502", True),
        ("0.0.0.0:1502", "127.9.9.9:1502", True),
        ("127.0.0.1:1502", "127.0.0.1:1503", False),  # simulators: every port is another device
        ("opc.tcp://10.0.0.5:4840/x", "opc.tcp://10.0.0.5:4840", True),
        ("no-such-host.invalid:502", "NO-SUCH-HOST.invalid:502", True),
        ("no-such-host.invalid:502", "10.0.0.5:502", False),
        ("/dev/null", "/dev/null", True),
        ("/dev/null", "/dev/zero", False),
        ("/dev/null", "10.0.0.5:502", False),
    ],
)
def test_the_same_device_by_other_names(one: str, other: str, same: bool) -> None:
    assert same_device(one, other) is same
    assert same_device(other, one) is same


def test_this_machine_by_its_own_name_and_a_port_by_its_link(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9)) if _routed() else probe.bind(("127.0.0.1", 0))
        own = probe.getsockname()[0]
    assert same_device(f"{own}:1502", "localhost:1502")
    link = tmp_path / "usb-adapter"
    link.symlink_to("/dev/null")
    assert same_device(str(link), "/dev/null")


def _routed() -> bool:
    return len(Path("/proc/net/route").read_text().splitlines()) > 1


def test_a_trip_waits_for_no_driver_to_be_imported() -> None:
    script = (
        "import sys; from gateway.__main__ import parser; parser(['trip', 'x']);"
        "print([name for name in sys.modules if name.startswith(('drivers', 'pymodbus', 'asyncua',"
        " 'serial'))])"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out == "[]\n"


def _slow_site(output: str, device: str) -> Config:
    return Config(
        site=Site(id="s"),
        device=(msgspec.toml.decode(device, type=Device),),
        output=(Output(id="o", device="io", address=output, trip=False, via="gateway"),),
    )


def test_the_second_address_of_a_device_is_held_too() -> None:
    config = _slow_site(
        "c:16",
        'id = "io"\ndriver = "modbus-tcp"\naddress = "10.0.0.1:502"\nbackup = "10.0.0.2:502"\n',
    )
    made = holdings_of(config)
    assert holder(Aim("10.0.0.2:502", 1, "c", 16, 1), made) == "output o"
    assert holder(Aim("10.0.0.3:502", 1, "c", 16, 1), made) is None


@pytest.mark.parametrize(
    ("node", "held"),
    [
        ("ns=2;i=1001", True), ("ns=02;i=1001", True), ("ns=2;i=01001", True),
        ("nsu=urn:plant;i=1001", True),  # what the URI means the server alone knows
        ("0:Objects/2:Plant/2:Breaker", True),
        ("ns=2;i=1002", False), ("ns=3;i=1001", False), ("ns=2;s=1001", False),
    ],
)  # fmt: skip
def test_a_node_is_held_however_it_is_spelled(node: str, held: bool) -> None:
    url = "opc.tcp://10.0.0.1:4840"
    config = _slow_site("ns=2;i=1001", f'id = "io"\ndriver = "opcua"\naddress = "{url}"\n')
    found = holder(Aim(url, 1, "", 0, 0, node), holdings_of(config))
    assert found == ("output o" if held else None)
