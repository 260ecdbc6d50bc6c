"""Where tags lie at rest, what becomes of a site's devices, and who may drive a tag."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from drivers.plant import PlantText
from gateway.__main__ import main
from gateway.check import check_site
from gateway.errors import GatewayError
from gateway.orders.outcome import Exit
from gateway.plant.native import native_plant
from gateway.plant.simulated_site import at_ports, encoded, simulated_site
from gateway.plant.simulation import Simulation, simulate

SITE = """
[site]
id = "s"

[[device]]
id = "plc"
driver = "modbus-tcp"
address = "192.0.2.1:502"
base = 1
order = "CDAB"
fast = true
poll = "100ms"
timeout = "100ms"
{device}

[[output]]
id = "valve"
device = "plc"
address = "hr:20"
trip = 0
normal = 7
readback = "not shut"
confirm_within = "2s"

[[tag]]
id = "shut"
device = "plc"
point = {{ address = "di:1" }}

[[interlock]]
id = "i"
cause = "{cause}"
permissive = "{permissive}"
effects = ["valve"]
response = "1h"
armed = true
"""
TAG = """
[[tag]]
id = "{id}"
device = "plc"
point = {{ address = "{at}", type = "{type}" }}
{more}
"""
ANALOG = {"at": "ir:1", "type": "float32"}
BOOLEAN = {"at": "di:9", "type": "bool"}


def site_of(
    tmp_path: Path,
    cause: str,
    *tags: dict[str, str],
    permissive: str = "not shut",
    device: str = "",
) -> Path:
    file = tmp_path / "site.toml"
    text = SITE.format(cause=cause, permissive=permissive, device=device)
    file.write_text(text + "".join(TAG.format(**{"more": ""} | tag) for tag in tags))
    return file


def plant_of(file: Path) -> PlantText:
    return simulated_site(check_site(file).config).plant


def rest(tmp_path: Path, cause: str, *tags: dict[str, str], permissive: str = "not shut") -> float:
    """The middle of the first tag's band at rest."""
    plant = plant_of(site_of(tmp_path, cause, *tags, permissive=permissive))
    found = {tag.id: tag.signal for server in plant.servers for tag in server.tags}[tags[0]["id"]]
    return (found.low + found.high) / 2


@pytest.mark.parametrize(
    ("cause", "permissive", "low", "high"),
    [
        ("x > 5", "not shut", 0, 5),
        ("5 < x", "not shut", 0, 5),
        ("x < 5", "not shut", 5, 10),
        ("not (x < 5)", "not shut", 0, 5),
        ("x > 8 until < 4", "not shut", 0, 4),
        ("x > 8", "x < 3", 0, 3),
        ("x < 2 or x > 4", "not shut", 2, 4),
        ("1oo2(x > 6, x > 4)", "not shut", 0, 4),
        ("(mean(x, 60s) > 4) for 5s", "not shut", 0, 4),
        ("max(x, x) > 4 hold 3s", "not shut", 0, 4),
        ("x > 4 and x < 3", "not shut", 0, 10),  # nothing is both: the range is left
        ("rate(x, 60s) > 1 m/min", "not shut", 0, 10),
    ],
)
def test_a_number_rests_where_nothing_trips(
    cause: str, permissive: str, low: float, high: float, tmp_path: Path
) -> None:
    tag = {"id": "x", **ANALOG, "more": 'range = [0, 10]\nunit = "m"'}
    assert low < rest(tmp_path, cause, tag, permissive=permissive) < high


@pytest.mark.parametrize(
    ("cause", "value"), [("x", 0), ("not x", 1), ("(not x) for 2s", 1), ("not (shut or x)", 1)]
)
def test_a_boolean_rests_where_nothing_trips(cause: str, value: float, tmp_path: Path) -> None:
    assert rest(tmp_path, cause, {"id": "x", **BOOLEAN}) == value


def test_alarm_limits_and_units_bound_what_no_condition_names(tmp_path: Path) -> None:
    limits = {"id": "x", **ANALOG, "more": "limits = { low = 20, high = 30 }"}
    assert 20 < rest(tmp_path, "shut", limits) < 30
    beyond = {"id": "x", **ANALOG, "more": "limits = { low = 2000 }"}
    assert rest(tmp_path, "shut", beyond) > 2000
    volts = {"id": "x", **ANALOG, "more": 'unit = "V"'}
    assert rest(tmp_path, "shut", volts) == 230
    toggling = plant_of(site_of(tmp_path, "shut", {"id": "x", **BOOLEAN}))
    assert toggling.servers[0].tags[1].signal.kind == "square"


def test_a_modbus_device_keeps_its_places(tmp_path: Path) -> None:
    device = 'heartbeat = { address = "hr:91", watchdog = "5s" }\n'
    device += 'watchdog_registers = [{ address = "hr:101", value = 30 }]'
    tag = {"id": "x", "at": "hr:5", "type": "int32"}
    server = plant_of(site_of(tmp_path, "not shut", tag, device=device)).servers[0]
    place = {tag.id: tag.place for tag in server.tags}["x"]
    assert (place.address, place.type.name, place.order.name) == (4, "INT32", "CDAB")
    output = server.outputs[0]
    assert (output.place.address, output.trip, output.normal) == (19, 0, 7)
    assert (output.readback, output.inverted) == ("shut", True)
    assert output.follow_ns == 200_000_000
    assert server.heartbeats[0].address == 90
    assert (server.registers[0].place.address, server.registers[0].value) == (100, 30)


def test_no_address_of_the_file_is_left(tmp_path: Path) -> None:
    file = site_of(tmp_path, "not shut", {"id": "x", **BOOLEAN})
    checked = check_site(file)
    site = simulated_site(checked.config)
    config = at_ports(site, {"plc": 1234}, checked).config
    assert config.device[0].address == "127.0.0.1:1234"
    assert "192.0.2.1" not in repr(config)
    assert "192.0.2.1" not in encoded(site.plant).decode()


def test_a_site_describes_itself_for_a_plant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = site_of(tmp_path, "not shut", {"id": "x", **BOOLEAN})
    assert main(["simulate", "--describe", str(file)]) == 0
    plant = msgspec.json.decode(capsys.readouterr().out, type=PlantText)
    assert [tag.id for tag in plant.servers[0].tags] == ["shut", "x"]
    file.write_text("[site]\n")
    assert main(["simulate", "--describe", str(file)]) == 2
    assert "site.id" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["x"], ["x", "1", "--bad"], ["--end"], ["x", "1", "--ramp", "y"]]
)
def test_what_is_no_command_is_said(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *wrong]) == 2
    assert "expected" in (err := capsys.readouterr().err) or "goes with a TAG" in err


def test_uplinks_go_with_simulate_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "site.toml", "--uplinks"]) == 2
    assert "--simulate" in capsys.readouterr().err


async def test_a_real_site_is_not_driven() -> None:
    gateway = cast("Any", SimpleNamespace(simulation=None))
    outcome = await simulate(gateway, "x", 1.0, 0.0, "uid:me", bad=False, end=False)
    assert outcome.exit_code == 4
    assert "this site is real" in outcome.text


def test_an_answer_that_comes_late_is_none_to_the_next_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = Simulation(cast("Any", SimpleNamespace(runtime=tmp_path)))
    simulation._start(PlantText())
    process = simulation._process
    assert process is not None
    try:
        for question in ({"do": "driven"}, {"do": "become", "description": "none"}):
            process.send_signal(signal.SIGSTOP)
            with monkeypatch.context() as patch:
                patch.setattr("gateway.plant.simulation.ANSWER_S", 0.05)
                assert simulation.tell(question).exit_code == Exit.NOT_REACHED
            process.send_signal(signal.SIGCONT)
            assert simulation._become(PlantText()) == {}
            outcome = simulation.tell({"do": "drive", "tag": "none.such", "value": 1.0})
            assert outcome.exit_code == Exit.USAGE
            assert "none.such" in outcome.text
            assert simulation.tell({"do": "driven"}).exit_code == Exit.DONE
    finally:
        simulation.close()


def test_a_plant_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    simulation = Simulation(cast("Any", SimpleNamespace(runtime=tmp_path / "none")))
    with pytest.raises(GatewayError, match=r"did not start: .*No such file"):
        simulation._start(PlantText())


OTHERS = """
[[device]]
id = "wind.{n}"
driver = "serial"
address = "/dev/serial/by-id/same-port"
template = "nmea0183-wind"

[[tag]]
id = "wind.{n}.speed"
device = "wind.{n}"
point = {{ field = "speed" }}
range = [0, 60]
"""
CURRENT = """
[[device]]
id = "slow"
driver = "modbus-tcp"
address = "192.0.2.1:502"
base = 1

[[tag]]
id = "level"
device = "slow"
point = { address = "ir:65533", type = "uint16", scale = 0.001 }
signal = { kind = "4-20mA" }
unit = "mm"
range = [0, 12000]
"""


def test_other_devices_and_signals_get_places_of_their_own(tmp_path: Path) -> None:
    file = site_of(tmp_path, "not shut", {"id": "x", "at": "ir:65536", "type": "uint16"})
    file.write_text(file.read_text() + OTHERS.format(n=1) + OTHERS.format(n=2) + CURRENT)
    site = simulated_site(check_site(file).config)
    servers = {server.name: server for server in site.plant.servers}
    assert servers.keys() == {"plc", "wind.1", "wind.2"}, "one server for one Modbus address"
    assert all(device.driver == "modbus-tcp" for device in site.config.device)
    places = {tag.id: tag.place for server in site.plant.servers for tag in server.tags}
    taken = [
        (server.name, tag.unit, tag.place.area, number)
        for server in site.plant.servers
        for tag in server.tags
        for number in range(tag.place.address, tag.place.address + tag.place.width)
    ]
    assert len(set(taken)) == len(taken), "no place is used twice"
    assert {places[i].type.name for i in ("level", "wind.1.speed")} == {"FLOAT64"}
    assert places["level"].high == 12_000
    level = next(tag for tag in site.config.tag if tag.id == "level")
    assert level.signal is None


def test_a_plant_of_its_own_has_the_lines_of_the_site(tmp_path: Path) -> None:
    file = site_of(tmp_path, "not shut", {"id": "x", **BOOLEAN})
    rtu = """
[[device]]
id = "{id}"
driver = "modbus-rtu"
address = "/dev/serial/by-id/bus"
unit = {unit}

[[tag]]
id = "{id}.x"
device = "{id}"
point = {{ address = "hr:0" }}
"""
    buses = rtu.format(id="r1", unit=1) + rtu.format(id="r2", unit=2)
    file.write_text(file.read_text() + OTHERS.format(n=1) + OTHERS.format(n=2) + CURRENT + buses)
    plant = native_plant(check_site(file).config)
    kinds = {server.name: server.kind for server in plant.servers}
    assert kinds == {"plc": "tcp", "wind.1": "serial", "r1": "rtu"}
    servers = {server.name: server for server in plant.servers}
    assert len(servers["wind.1"].instruments) == 2
    assert {tag.unit for tag in servers["r1"].tags} == {1, 2}
    level = next(tag for tag in servers["plc"].tags if tag.id == "level")
    assert (level.place.type.name, level.place.scale) == ("UINT16", 0.001)
    assert (level.signal.low + level.signal.high) / 2 == 12


def test_opc_ua_devices_are_servers_of_a_plant_of_their_own(tmp_path: Path) -> None:
    file = site_of(tmp_path, "not shut", {"id": "x", **BOOLEAN})
    server = """
[[device]]
id = "server"
driver = "opcua"
address = "opc.tcp://192.0.2.1:4840"
security = "None"
insecure = true

[[tag]]
id = "level"
device = "server"
point = { path = "0:Objects/2:Level", scale = 0.1 }

[[output]]
id = "horn"
device = "server"
address = "ns=2;s=Horn"
trip = true
via = "gateway"
"""
    file.write_text(file.read_text() + server)
    plant = native_plant(check_site(file).config)
    found = next(server for server in plant.servers if server.kind == "opcua")
    nodes = {node.id: node for node in found.nodes}
    assert (nodes["level"].place.path[-1], nodes["level"].place.scale) == ((2, "Level"), 0.1)
    assert (nodes["horn"].output, nodes["horn"].place.boolean, nodes["horn"].first) == (
        True,
        True,
        0,
    )
    assert msgspec.json.decode(encoded(plant), type=PlantText) == plant
