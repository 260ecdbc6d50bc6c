"""Site files for tests: one with every kind of table, and what it reads as."""

from pathlib import Path

from gateway.check import Checked, check_site
from gateway.site.model import Config

SITE = """
[site]
id = "north"
gateway = "gw-1"

[[device]]
id = "plc"
driver = "modbus-tcp"
address = "192.168.10.20:502"
unit = 7
fast = true
poll = "50ms"
timeout = "200ms"
settle = "2s"
heartbeat = { address = "hr:90", watchdog = "5s" }

[[device]]
id = "valves"
driver = "modbus-tcp"
address = "[2001:db8::21]:1502"
timeout = "2s"
base = 1

[[device]]
id = "logger"
driver = "modbus-tcp"
address = "logger.example:502"

[[tag]]
id = "ch4.t1"
device = "plc"
point = { address = "ir:100", type = "float32", order = "ABCD" }
unit = "%CH4"
range = [0, 4]
stale_after = "500ms"
description = "Methane"

[[tag]]
id = "ch4.t2"
device = "plc"
point = { address = "ir:102", type = "float32", order = "ABCD" }
unit = "%CH4"
range = [0, 4]
stale_after = "500ms"

[[tag]]
id = "flow"
device = "plc"
point = { address = "ir:120", type = "float64", scale = 0.5, offset = -1 }
poll = "1s"

[[tag]]
id = "fan"
device = "plc"
point = { address = "di:0" }

[[tag]]
id = "closed"
device = "plc"
point = { address = "di:1" }

[[tag]]
id = "word"
device = "plc"
point = { address = "hr:5.3" }

[[tag]]
id = "level"
device = "logger"
point = { address = "ir:1" }
unit = "m"
range = [0, 10]
stale_after = "15s"
uncertain = "use"

[[tag]]
id = "unread"
device = "logger"
point = { address = "ir:2" }

[[output]]
id = "power"
device = "plc"
address = "c:16"
trip = false
normal = true
readback = "not closed"
confirm_within = "500ms"

[[output]]
id = "valve"
device = "valves"
address = "hr:40"
trip = 7
unit = 9

[[interlock]]
id = "cut"
cause = '''2oo2(ch4.t1 >= 1.5 %CH4 until < 1.0, ch4.t2 >= 1.5 %CH4 until < 1.0)
           or (not fan) for 300ms'''
permissive = "ch4.t1 < 1.0"
effects = ["power", "valve"]
delay = "100ms"
min_trip = "3s"
response = "2s"
armed = true
group = "face"
guidance = "Withdraw"

[[interlock]]
id = "watch"
cause = "not sys.plc.connected or not sys.gateway.alive or level > 9"
effects = ["power"]
response = "40s"
on_bad = "hold"
hold_max = "1s"
bad_for = "50ms"
latch = false
armed = false
"""


def site_text() -> str:
    """The site file."""
    return SITE


def checked(tmp_path: Path, text: str) -> Checked:
    """What check makes of a site file. Raises ConfigError."""
    path = tmp_path / "site.toml"
    path.write_text(text)
    return check_site(path)


def config_of(tmp_path: Path, text: str) -> Config:
    """A site without errors."""
    return checked(tmp_path, text).config
