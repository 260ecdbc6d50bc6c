"""Maps of Modbus devices: what the installed ones are, and how a site changes them."""

import shutil
from pathlib import Path

import pytest

from drivers.kind import Surroundings
from drivers.registry import make_driver
from gateway.check import check_site
from gateway.site.load import load_site
from gateway.site.model import Config, by_id
from tests.helpers.unsecret import no_secrets

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted(path.stem for path in (ROOT / "config" / "devices").glob("*.toml"))
TEN = ROOT / "tests" / "cases" / "good-templates"


def loaded(path: Path) -> Config:
    config, errors, _ = load_site(path)
    assert errors == []
    assert config is not None
    return config


@pytest.mark.parametrize("name", SHIPPED)
def test_an_installed_map_is_a_device_without_another_word(name: str, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        '[site]\nid = "one"\n[[device]]\nid = "x"\ndriver = "modbus-tcp"\n'
        f'address = "10.0.0.1:502"\ntemplate = "{name}"\n'
    )
    assert check_site(site).summary.text()
    config = loaded(site)
    assert len(config.tag) >= 5
    assert all(tag.id.startswith("x.") and tag.device == "x" for tag in config.tag)


def test_ten_equal_devices_and_what_a_tag_changes() -> None:
    tags = by_id(loaded(TEN / "site.toml").tag)
    assert sum(ident.startswith("ch4-") for ident in tags) == 50
    assert tags["ch4-2.gas"].range == (0, 100)
    changed = tags["ch4-3.gas"]
    assert (changed.range, changed.unit, changed.device) == ((0, 4), "%CH4", "ch4-3")
    assert changed.point == tags["ch4-2.gas"].point
    corrected = tags["ch4-4.temperature"]
    assert (corrected.point.offset, corrected.point.scale, corrected.poll) == (-1.5, 0.1, 10**10)
    assert corrected.description == "Corrected by its calibration"


def test_the_map_says_how_its_device_is_spoken_to() -> None:
    config = loaded(TEN / "site.toml")
    pump = by_id(config.device)["pump"]
    assert (pump.base, pump.order, pump.exclude) == (1, "CDAB", ("hr:50-59",))
    points = [(tag.point, tag.range) for tag in config.tag if tag.device == "pump"]
    driver = make_driver("modbus-tcp", pump, points, Surroundings(no_secrets))
    requests = [block._whole.request for block in driver.plan([0, 1])]
    assert [(request.address, request.count) for request in requests] == [(40, 2), (59, 1)]


def test_a_power_meter_costs_two_reads() -> None:
    config = loaded(TEN / "site.toml")
    feeder = by_id(config.device)["feeder"]
    points = [(tag.point, tag.range) for tag in config.tag if tag.device == "feeder"]
    driver = make_driver("modbus-tcp", feeder, points, Surroundings(no_secrets))
    assert len(driver.plan(range(len(points)))) <= 3


def test_a_map_beside_the_site_file_goes_before_an_installed_one(tmp_path: Path) -> None:
    shutil.copytree(TEN, tmp_path / "site")
    mine = tmp_path / "site" / "devices" / "power-meter.toml"
    mine.write_text('[[point]]\nid = "only"\naddress = "hr:1"\n')
    config = loaded(tmp_path / "site" / "site.toml")
    assert [tag.id for tag in config.tag if tag.device == "feeder"] == ["feeder.only"]
