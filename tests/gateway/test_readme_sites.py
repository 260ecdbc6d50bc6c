"""Every piece of a site file in README.md is taken by ``check``: whatever a reader copies is good.

A piece is put where the text means it to stand, in a small site that has what it names.
"""

import re
from pathlib import Path

import pytest

from gateway.check import check_site
from gateway.errors import ConfigError
from tests.helpers.harness import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
INDENTED = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", README, re.MULTILINE)
TABLES = [
    *re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL),
    *(re.sub(r"^ {4}", "", text, flags=re.MULTILINE) for text in INDENTED if "    [[" in text),
]
SIGNALS = re.findall(r"^ {4}(signal = .*)$", README, re.MULTILINE)
# `key = value` in a line of text; what stands for something else, as host:port, is left out.
KEYS = sorted(
    {
        key.replace("\n", " ")
        for key in re.findall(r"`([a-z_]+ = [^`]+)`", README)
        if not re.search(r"…|host:port", key)
    }
)
BASE = """
[site]
id = "s"
{site}
[[device]]
id = "plc"
driver = "modbus-tcp"
address = "10.0.0.5:502"
{fast}
heartbeat = {{ address = "hr:90", watchdog = "5s" }}
{device}
[[tag]]
id = "a"
device = "plc"
point = {{ address = "ir:0" }}
range = [0, 500]
stale_after = "20s"
limits = {{ high = 3 }}
unit = "{unit}"
{tag}
[[output]]
id = "o"
device = "plc"
address = "c:1"
trip = false
{output}
[[interlock]]
id = "i"
cause = "2oo3(a > 1, a > 2, a > 3)"
effects = ["o"]
response = "5m"
armed = true
trips_on_gateway_restart = true
{interlock}
[[uplink]]
id = "platform"
kind = "http"
url = "https://p.example"
lanes = ["live", "backfill"]
[[uplink]]
id = "other"
kind = "http"
url = "https://q.example"
[history]
{history}
"""
UPLINK = '[[uplink]]\nid = "u"\nkind = "{}"\nurl = "{}"\n{{}}\n'
OPCUA = '[[device]]\nid = "d"\ndriver = "opcua"\naddress = "opc.tcp://10.0.0.6:4840"\n'
TTY = '[[device]]\nid = "d"\naddress = "/dev/ttyS1"\n'
TAG = '[[tag]]\nid = "t"\ndevice = "d"\n'
# Where a key may stand: a table of BASE, or a table of its own with {} in it.
PLACES = [
    *(f"<{name}>" for name in ("device", "tag", "output", "interlock", "site", "history")),
    "<fast>",
    OPCUA + "{}\n",
    OPCUA + "insecure = true\n{}\n",
    OPCUA + 'security = "None"\n{}\n',
    OPCUA + TAG + "point = {{ node = \"ns=2;s=x\", {} }}\n",
    OPCUA + TAG + "point = {{ {} }}\n",
    TTY + "{}\n",
    TTY + 'template = "nmea0183-wind"\n{}\n',
    TTY + 'driver = "modbus-rtu"\n{}\n',
    TTY + "driver = \"serial\"\nprotocol = {{ {}, start = \"AA 55\", length = 8 }}\n",
    '[[device]]\nid = "d"\n{}\n',
    '[[device]]\nid = "d"\ndriver = "modbus-tcp"\naddress = "10.0.0.7:502"\n{}\n',
    OPCUA.replace("opcua", "modbus-tcp").replace("opc.tcp://10.0.0.6:4840", "10.0.0.6:1") + TAG
    + "{}\n",
    UPLINK.format("http", "https://p.example"),
    UPLINK.format("http", "https://p.example").replace("{}", 'proxy = "http://h:3128"\n{}'),
    UPLINK.format("mqtt", "mqtts://p.example:8883"),
    UPLINK.format("file", "file:///tmp"),
]  # fmt: skip


def errors_of(directory: Path, text: str) -> list[str]:
    site = directory / "site.toml"
    site.write_text(text, encoding="utf-8")
    (directory / "alerts.csv.j2").write_text("{{ messages | length }}", encoding="utf-8")
    (directory / "dcs.pem").touch()
    try:
        check_site(site, require_credentials=False)
    except ConfigError as error:
        return error.errors
    return []


def placed(key: str, place: str) -> str:
    """The base site with a key in one of its places."""
    empty = dict.fromkeys(("device", "tag", "output", "interlock", "site", "history", "fast"), "")
    if place.startswith("<"):
        return BASE.format(**{**empty, "unit": "%CH4", place.strip("<>"): key})
    return BASE.format(**empty, unit="") + place.format(key)


@pytest.mark.parametrize("table", TABLES, ids=lambda text: text.split('"')[1])
def test_tables(tmp_path: Path, table: str) -> None:
    assert errors_of(tmp_path, f'[site]\nid = "s"\n\n{table}') == []


@pytest.mark.parametrize("signal", SIGNALS)
def test_signals(tmp_path: Path, signal: str) -> None:
    assert errors_of(tmp_path, placed(signal, "<tag>")) == []


@pytest.mark.parametrize("key", KEYS)
def test_keys(tmp_path: Path, key: str) -> None:
    """There is a place where it may stand as it is."""
    said = []
    for place in PLACES:
        errors = errors_of(tmp_path, placed(key, place))
        if not errors:
            return
        said.append(errors[0])
    raise AssertionError(said)


def test_there_is_something_to_test() -> None:
    assert (len(TABLES) >= 5, len(SIGNALS), len(KEYS) > 30) == (True, 6, True)
