"""What is true of every kind of uplink that a site file may name."""

from pathlib import Path

import pytest

from gateway.check import check_site
from gateway.site.uplink_rules import ACKNOWLEDGES
from gateway.uplink.registry import make_uplink
from tests.helpers.uplinks import SENDER, config_of

URLS = {"mqtt": "mqtt://127.0.0.1", "http": "http://127.0.0.1", "file": "file:///tmp"}


@pytest.mark.parametrize("kind", ACKNOWLEDGES)
def test_check_says_what_the_uplink_itself_says(tmp_path: Path, kind: str) -> None:
    uplink = make_uplink(config_of(URLS[kind], kind=kind), SENDER)
    assert ACKNOWLEDGES[kind] == uplink.acknowledges
    site = tmp_path / "site.toml"
    site.write_text(
        f'[site]\nid = "s"\n[[uplink]]\nid = "u"\nkind = "{kind}"\nurl = "{URLS[kind]}"\n'
    )
    checked = check_site(site)
    told = f"u: {kind}, alert live backfill, acknowledged means {uplink.acknowledges}"
    assert f"uplink      {told}" in checked.summary.text().splitlines()
    assert checked.warnings == []


@pytest.mark.parametrize("kind", ["mqtt", "http"])
def test_a_password_in_the_clear_is_a_warning(tmp_path: Path, kind: str) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        f'[site]\nid = "s"\n[[uplink]]\nid = "u"\nkind = "{kind}"\nurl = "{kind}://far.example"\n'
        'credentials = "x"\n'
    )
    (warning,) = check_site(site, require_credentials=False).warnings
    assert warning == (
        f"{site}:6: uplink[u].url: found {kind}:// with credentials: "
        "who listens on the way reads them"
    )


def test_a_backup_in_the_clear_is_a_warning_too(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        '[site]\nid = "s"\n[[uplink]]\nid = "u"\nkind = "mqtt"\nurl = "mqtt://127.0.0.1"\n'
        'backup_urls = ["mqtt://far.example"]\ncredentials = "x"\n'
    )
    (warning,) = check_site(site, require_credentials=False).warnings
    assert warning.startswith(f"{site}:7: uplink[u].backup_urls: found mqtt:// with credentials")
