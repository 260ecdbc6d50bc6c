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
    from gateway.check import Checked
    from gateway.guard.apply import Running
    from gateway.guard.link import GuardLink
    from gateway.guard.slow_outputs import SlowOutputs
    from gateway.guard.supervise import GuardSupervisor
    from gateway.life.lives import Lives
    from gateway.life.problems import Problems
    from gateway.orders.commands import Commands
    from gateway.orders.substitutions import Substitutions
    from gateway.paths import Paths
    from gateway.plant.scanner import Scanner
    from gateway.plant.simulation import Simulation
    from gateway.plant.tags import TagTable
    from gateway.reload import Reloader
    from gateway.site.model import Config
    from gateway.store.history import History
    from gateway.store.ledger import Ledger
    from gateway.store.recorder import Recorder
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
