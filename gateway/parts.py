"""The gateway's parts in one place: the daemon fills it, the view and the commands read it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.store.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastpath.image import TagImage
    from fastpath.journal import GuardView
    from gateway.alarms.limits import Limits
    from gateway.apply import Running
    from gateway.check import Checked
    from gateway.commands import Commands
    from gateway.guardlink import GuardLink
    from gateway.lives import Lives
    from gateway.paths import Paths
    from gateway.problems import Problems
    from gateway.reload import Reloader
    from gateway.scanner import Scanner
    from gateway.simulation import Simulation
    from gateway.site.model import Config
    from gateway.slow_outputs import SlowOutputs
    from gateway.store.history import History
    from gateway.store.ledger import Ledger
    from gateway.store.recorder import Recorder
    from gateway.substitutions import Substitutions
    from gateway.supervise import GuardSupervisor
    from gateway.tags import TagTable
    from gateway.uplink.pump import Pump


@dataclass(slots=True, kw_only=True)
class Gateway:
    """Everything that runs in this process. Parts are added in the order of this list."""

    config: "Config"
    checked: "Checked"  # config, program blob, alarm program, warnings, summary
    paths: "Paths"
    started_mono_ns: int
    started_utc_ns: int
    problems: "Problems"  # what is wrong now: logged once, a metric, an alert
    image: "TagImage"  # the gateway's own image, by tag index
    tags: "TagTable"  # image plus ids, units and staleness
    link: "GuardLink"
    supervisor: "GuardSupervisor"
    running: "Running"  # the guard's running program: hash, names, slot table
    view: "Callable[[], GuardView | None]"  # the mapped guard.shm; None before the first guard
    limits: "Limits"
    ledger: "Ledger"
    history: "History"
    recorder: "Recorder"
    scanner: "Scanner"
    slow_outputs: "SlowOutputs"
    substitutions: "Substitutions | None" = None
    pumps: "tuple[Pump, ...]" = ()
    credentials: "Path | None" = None  # the directory that was given
    commands: "Commands | None" = None  # set before the view starts
    reloader: "Reloader | None" = None
    simulation: "Simulation | None" = None  # no device is real
    lives: "Lives | None" = None  # of this process and those before it
    http: str = ""  # base URL with the real port; "" while the port is not bound
    stopping: bool = False
    paces: dict[str, Pace] = field(default_factory=lambda: {"ledger": Pace(), "history": Pace()})
    dropped: dict[tuple[str, str], int] = field(default_factory=dict)  # (part, reason): count
