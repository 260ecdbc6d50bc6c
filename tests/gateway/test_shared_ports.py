"""One port by two names, and backups that cross: check sees that devices hang on one thing."""

from pathlib import Path

import pytest

from fastpath import blob
from tests.gateway.test_check import errors_of, warnings_of
from tests.helpers.harness import ROOT
from tests.helpers.sites import checked

GRADED = ROOT / "tests" / "cases" / "good-graded" / "site.toml"
ONE = "/dev/serial/by-id/usb-one"
BACKED = """
[site]
id = "s"
{devices}
[[interlock]]
id = "i"
cause = "1oo2(a.t > 1, b.t > 1)"
effects = []
response = "5m"
armed = false
trips_on_gateway_restart = true
"""
DEVICE = """
[[device]]
id = "{name}"
driver = "modbus-tcp"
address = "{address}:502"
backup = "{backup}:502"
[[tag]]
id = "{name}.t"
device = "{name}"
point = {{ address = "ir:0" }}
range = [0, 10]
"""
OUTPUT = """
[[output]]
id = "o"
device = "b"
address = "c:1"
trip = false
via = "gateway"
"""


@pytest.fixture
def graded(tmp_path: Path) -> str:
    """Its two units of one adapter, the second one by the name of the device node."""
    node, name = tmp_path / "ttyUSB0", tmp_path / "usb-one"
    name.symlink_to(node)
    first, found, rest = GRADED.read_text().replace(ONE, str(name), 1).partition(ONE)
    assert found
    return first + str(node) + rest


def test_the_guard_opens_a_port_of_two_names_once(tmp_path: Path, graded: str) -> None:
    found = checked(tmp_path, graded)
    assert len(blob.names(found.program)["ttys"]) == 1
    [shared] = [line for item in found.summary.conditions for line in item.shared]
    assert [device for _, device in (*shared.inputs, *shared.outputs)] == [
        "bus-a",
        "bus-a",
        "bus-b",
    ]


def test_a_port_of_two_names_has_one_setting_one_master_and_one_writer(
    tmp_path: Path, graded: str
) -> None:
    second = graded.index('id = "bus-b"')

    def other(old: str, new: str) -> list[str]:
        assert old in graded[second:]
        return errors_of(tmp_path, graded[:second] + graded[second:].replace(old, new, 1))

    [error] = other("baud = 115200", "baud = 9600")
    assert "found 9600, expected 115200 as device[bus-a] on this line" in error
    [error] = other("unit = 2\nfast = true", "unit = 2")
    assert "a device that the gateway polls on the guard's port" in error
    errors = other('device = "plc"\naddress = "c:1"', 'device = "bus-a"\nunit = 2\naddress = "c:1"')
    assert any('found "c:1", which output[feed] writes' in error for error in errors)


@pytest.mark.parametrize(
    ("backups", "told"),
    [(("192.0.2.2", "192.0.2.1"), True), (("192.0.2.3", "192.0.2.4"), False)],
)
def test_votes_that_back_up_each_other(
    tmp_path: Path, backups: tuple[str, str], told: bool
) -> None:
    devices = [
        DEVICE.format(name=name, address=address, backup=backup)
        for name, address, backup in zip(
            ("a", "b"), ("192.0.2.1", "192.0.2.2"), backups, strict=True
        )
    ]
    warnings = warnings_of(tmp_path, BACKED.format(devices="".join(devices)))
    said = "all 2 votes of 1oo2 come from a and b at one address"
    assert warnings.count(said) == int(told)


def test_a_backup_in_use_keeps_others_waiting(tmp_path: Path) -> None:
    """Behind a serial server each exchange is a timeout, and everybody there waits for it."""
    pair = [
        DEVICE.format(name="a", address="10.0.0.1", backup="10.0.0.2"),
        DEVICE.format(name="b", address="10.0.0.2", backup="10.0.0.3"),
    ]
    met = "".join(pair).replace("modbus-tcp", "modbus-rtu-tcp")
    worst = {}
    for name, devices in (("met", met), ("apart", met.replace("10.0.0.2:502", "10.0.0.9:502", 1))):
        found = checked(tmp_path, BACKED.format(devices=devices + OUTPUT).replace("[]", '["o"]'))
        [path] = found.summary.conditions[0].paths
        worst[name] = path.demand_ns // 1_000_000
    # two polls of 1 s, a timeout, the guard's tick; its wish 1 s, a poll of 1 s, the write 1 s
    assert worst["apart"] == 6_010
    # a round of both, and what times out: its own poll, and the other's that was running
    assert worst["met"] == 2_000 + 2_000 + 3_000 + 3_000 + 10 + 1_000 + 3_000 + 1_000


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        (("10.0.0.1:502", "10.0.0.1:503"), True),  # one box, one plug, whatever its ports
        (("[::ffff:10.0.0.1]:502", "10.0.0.1:503"), True),
        (("10.0.0.1:502", "10.0.0.2:502"), False),
        (("127.0.0.1:502", "127.0.0.1:503"), False),  # simulators
        (("127.0.0.2:502", "127.0.0.2:503"), False),
        (("[::1]:502", "[::1]:503"), False),
        (("localhost:502", "localhost:503"), False),
        (("plc.example:502", "plc.example:503"), True),
    ],
)
def test_ports_of_one_host_are_one_box(
    tmp_path: Path, addresses: tuple[str, str], told: bool
) -> None:
    devices = ""
    for name, address in zip("ab", addresses, strict=True):
        one = DEVICE.format(name=name, address=address, backup="192.0.2.9").replace(":502", "", 1)
        devices += "".join(line for line in one.splitlines(True) if "backup" not in line)
    found = checked(tmp_path, BACKED.format(devices=devices))
    shared = [line for item in found.summary.conditions for line in item.shared]
    assert len(shared) == int(told)
    said = "all 2 votes of 1oo2 come from a and b at one address"
    assert "\n".join(found.warnings).count(said) == int(told)


def test_one_register_under_three_names_is_one_vote(tmp_path: Path) -> None:
    """Copied and pasted, with the address forgotten; ``shares`` owns up to a device, not to it."""
    device = DEVICE.format(name="a", address="10.0.0.1", backup="10.0.0.2")
    tag = device[device.index("[[tag]]") :]
    others = "".join(tag.replace('"a.t"', f'"{name}.t"') for name in "bc")
    text = BACKED.format(devices=device + others).replace("1oo2(a.t", "2oo3(c.t > 1, a.t")
    text = text.replace("armed = false", 'armed = false\nshares = ["a"]')
    said = "c.t and a.t and b.t are one point of one device: they fail as one"
    assert said in warnings_of(tmp_path, text)
    for name in "bc":
        old = f'id = "{name}.t"\ndevice = "a"\npoint = {{ address = "ir:0"'
        assert old in text
        text = text.replace(old, old.replace("ir:0", f"ir:1{ord(name)}"))
    assert "one point" not in warnings_of(tmp_path, text)
