"""What a site file may say of a device, and the driver made of it."""

import pytest

from drivers.errors import PointError
from drivers.kind import Surroundings, parse_endpoint
from drivers.modbus import ModbusUnit
from drivers.registry import DRIVERS, make_driver
from gateway.site.model import Device, Point
from tests.helpers.unsecret import no_secrets


@pytest.mark.parametrize(
    ("text", "host", "port", "numeric"),
    [
        ("192.168.10.20:502", "192.168.10.20", 502, True),
        ("[fe80::1]:502", "fe80::1", 502, True),
        ("plc-face.local:1502", "plc-face.local", 1502, False),
    ],
)
def test_endpoints(text: str, host: str, port: int, numeric: bool) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.host, endpoint.port, endpoint.numeric) == (host, port, numeric)


@pytest.mark.parametrize(
    "text",
    [
        "", "plc", "plc:", ":502", "plc:0", "plc:65536", "plc:x", "fe80::1", "a b:502",
        "plc:" + "9" * 5000, "tcp://plc:502", "plc:502/", "plc:-1", "plc:５０２",
    ],
)  # fmt: skip
def test_wrong_endpoints(text: str) -> None:
    with pytest.raises(PointError, match="expected host:port"):
        parse_endpoint(text)


def test_a_device_of_the_site_file_makes_a_driver() -> None:
    kind = DRIVERS["modbus-tcp"]
    device = Device(id="plc", driver="modbus-tcp", address="127.0.0.1:502", base=1, order="CDAB")
    point = Point(address="hr:1", type="float32", scale=2.0)
    kind.check_device(device)
    kind.check_point(device, point, (0.0, 4.0))
    points = [(point, (0.0, 4.0)), (Point(address="c:17"), None)]
    driver = make_driver("modbus-tcp", device, points, Surroundings(no_secrets))
    assert isinstance(driver, ModbusUnit)
    blocks = driver.plan([0, 1])
    assert len(blocks) == 2


@pytest.mark.parametrize(
    ("device", "point", "key"),
    [
        ({"max_registers": 2}, {"address": "hr:1", "type": "int64"}, "address"),
        ({}, {"address": "hr:x"}, "address"),
        ({}, {"address": "hr:1", "order": "ABXD"}, "order"),
        ({"order": "ABXD"}, {"address": "hr:1"}, "order"),
    ],
)
def test_points_are_checked_with_their_device(
    device: dict[str, object], point: dict[str, object], key: str
) -> None:
    made = Device(id="plc", driver="modbus-tcp", address="h:1", **device)  # type: ignore[arg-type]
    with pytest.raises(PointError) as caught:
        DRIVERS["modbus-tcp"].check_point(made, Point(**point), None)  # type: ignore[arg-type]
    assert caught.value.key == key


def test_devices_are_checked() -> None:
    check = DRIVERS["modbus-tcp"].check_device
    with pytest.raises(PointError, match="host:port"):
        check(Device(id="plc", driver="modbus-tcp", address="plc"))
    with pytest.raises(PointError, match="ABCD"):
        check(Device(id="plc", driver="modbus-tcp", address="plc:1", order="AB"))  # type: ignore[arg-type]


def test_keys_that_the_site_file_may_use() -> None:
    fields = set(Device.__struct_fields__)
    for name, not_taken in (("modbus-tcp", {"line"}), ("modbus-rtu", {"lease"})):
        kind = DRIVERS[name]
        assert kind.device_keys <= fields
        assert not kind.device_keys & not_taken
        assert kind.point_keys <= set(Point.__struct_fields__)


@pytest.mark.parametrize("address", ["", "ttyS0", "/", "/dev/tty S0", "/dev/" + 255 * "x", "COM3"])
def test_serial_ports_are_paths(address: str) -> None:
    bus = Device(id="bus", driver="modbus-rtu", address=address)
    with pytest.raises(PointError, match="expected a serial port such as"):
        DRIVERS["modbus-rtu"].check_device(bus)


def test_units_of_a_serial_line_are_1_to_247() -> None:
    for name, address in (("modbus-rtu", "/dev/ttyS0"), ("modbus-rtu-tcp", "h:1")):
        check = DRIVERS[name].check_device
        check(Device(id="bus", driver=name, address=address, unit=247))
        with pytest.raises(PointError, match="1 to 247"):
            check(Device(id="bus", driver=name, address=address, unit=0))


def test_modbus_tls_needs_credentials() -> None:
    check = DRIVERS["modbus-tls"].check_device
    check(Device(id="plc", driver="modbus-tls", address="plc:802", credentials="plc"))
    with pytest.raises(PointError, match=r"ca\.pem, cert\.pem and key\.pem") as caught:
        check(Device(id="plc", driver="modbus-tls", address="plc:802"))
    assert caught.value.key == "credentials"
