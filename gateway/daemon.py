"""The gateway of one site: starts every part in order, exchanges them, ends them in order.

The guard comes first and goes last. Whatever fails here later is told and mended while the guard
protects on; only what makes a start senseless (a refused site file, a second instance) ends it.
"""

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.build import build_gateway, gateway_name, open_stores
from gateway.closing import Closing
from gateway.errors import GuardError
from gateway.guard.apply import Applier, Running
from gateway.guard.fast_points import FastPoints
from gateway.guard.link import GuardLink, LinkState
from gateway.guard.process import simulated_guard_command
from gateway.guard.sharedview import SharedView
from gateway.guard.supervise import GuardSupervisor
from gateway.life.certificate_watch import CertificateWatch
from gateway.life.clock_watch import ClockWatch
from gateway.life.descriptors import SPARE_ONES
from gateway.life.housekeeping import Housekeeper
from gateway.life.lives import STEADY_S, Lives
from gateway.life.problems import Problems
from gateway.life.sd_notify import Notifier
from gateway.life.start_watch import EXTEND_S, extended
from gateway.life.tasks import Tasks
from gateway.orders.proof_tests import ProofWatch
from gateway.parting import Parting
from gateway.paths import Paths, is_tmpfs
from gateway.plant.simulation import Simulation
from gateway.reload import Reloader
from gateway.view.reactions import Reactions
from gateway.view.server import ViewServer

if TYPE_CHECKING:
    from gateway.check import Checked
    from gateway.parts import Gateway
    from gateway.store.history import History
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)

READY_S: Final = 5.0  # READY waits no longer for the guard's first answer and for the sockets
TASKS_STOP_S: Final = 1.3
PARTED_S: Final = 1.0  # that a start waits for what it parts with
REBUILD_S: Final = 2.0
EXCHANGE_S: Final = 0.1  # until the answer to a reload has gone


class Daemon:
    """Its parts, its tasks, the order of both. Made before the loop."""

    def __init__(
        self,
        site: Path,
        checked: "Checked",
        paths: Paths,
        credentials: Path | None,
        *,
        attach: bool = False,
        simulation: Simulation | None = None,
        guard_cpu: int | None = None,
    ) -> None:
        self._simulation = simulation
        self._reloader = Reloader(site, credentials, self._parts, self._exchange_soon)
        self._exchanging: asyncio.Task[None] | None = None
        self._checked = checked
        self._paths = paths
        self._credentials = credentials
        self._attach = attach
        self._notifier = Notifier(os.environ)
        self._lives = Lives(paths.lives)
        self._problems = Problems()
        self._tasks = Tasks(self._problems)
        self._view = SharedView(paths.guard_shm)
        self._link = GuardLink(paths.guard_sock, on_nudge=self._nudged, on_state=self._linked)
        self._supervisor = GuardSupervisor(
            paths,
            self._view,
            self._problems,
            attach=attach,
            on_scans=self._link.retry,
            cpu=guard_cpu,
            command=None if simulation is None else simulated_guard_command(paths, guard_cpu),
        )
        self._stores: tuple[Ledger, History] | None = None
        self._closing = Closing(self._problems)
        self._decided = False  # the present reload knew what the uplinks are owed
        self._applier: Applier | None = None
        self._housekeeper: Housekeeper | None = None
        self.gateway: Gateway | None = None

    async def start(self) -> None:
        """Start everything; returns when the gateway is ready. Raises GatewayError."""
        SPARE_ONES.hold()
        self._lives.begin()
        self._warn()
        self._tasks.start("guard", self._supervisor.run)
        self._tasks.start("link", self._link.run)
        if (simulation := self._simulation) is not None:
            self._tasks.start("plant", lambda: simulation.watch(self._problems))
        if self._lives.looping:
            self._tell_loop()
        if self._notifier.managed:  # who starts it by hand has waited already
            await self._space_out()
        self._lives.work()
        async with extended(self._notifier):
            gateway = await self._start_parts()
        name = gateway_name(gateway.config)
        unclean = self._lives.after_unclean
        how = "started again; it had not ended in order" if unclean else "started"
        self._problems.event("gateway", name, f"the gateway has {how}")
        if not self._lives.looping:
            self._problems.cleared("gateway", "restarts", "no restart follows another soon")
        asyncio.get_running_loop().call_later(STEADY_S, self._steady)

    async def reload(self) -> None:
        """SIGHUP: the site file anew; what became of it is in the log and in the alerts."""
        outcome = await self._reloader.reload("", "", "SIGHUP")
        _LOGGER.warning("reload: %s", outcome.text)

    def _parts(self) -> "Gateway":
        if self.gateway is None:
            msg = "the gateway is still starting"
            raise GuardError(msg)
        return self.gateway

    def _exchange_soon(self, checked: "Checked") -> None:
        """A moment after the answer has gone: it travels through what is exchanged."""
        if self._exchanging is not None:
            self._exchanging.cancel()  # it may still try to build what is not wanted any more
        self._decided = self._stores is None or all(store.epoch for store in self._stores)
        self._exchanging = asyncio.create_task(self._exchange(checked), name="exchange")

    async def _exchange(self, checked: "Checked") -> None:
        """The gateway's own part, whole; the guard and the session with it go on."""
        await asyncio.sleep(EXCHANGE_S)
        await self._stop_parts()
        self._checked = checked
        self._warn()
        gateway = await self._build_again()
        name = gateway_name(gateway.config)
        self._problems.event("gateway", name, "the site file was loaded anew")

    async def _stop_parts(self) -> None:
        parts = [name for name in self._tasks.names if name not in {"guard", "link", "plant"}]
        if parts:  # no names would mean all
            await self._tasks.stop(TASKS_STOP_S, *parts)
        await self._close_stores()

    async def _close_stores(self) -> None:
        stores, self._stores = self._stores, None
        if stores is not None:
            await self._closing.close(*stores)

    async def _build_again(self) -> "Gateway":
        """The parts of the site that the guard runs by now, tried until they stand.

        There is no way back to the old site: its program is not the guard's any more.
        """
        while True:
            try:
                gateway = await self._start_parts(decided=True)
            except Exception as error:
                _LOGGER.exception("the gateway cannot be built anew; again in %g s", REBUILD_S)
                text = f"the guard runs the new site file, the gateway cannot: {error}"
                self._problems.raised("gateway", "reload", text, priority="critical")
                await self._stop_parts()
                await asyncio.sleep(REBUILD_S)
            else:
                self._problems.cleared("gateway", "reload", "the gateway runs the new site file")
                return gateway

    async def _start_parts(self, *, decided: bool = False) -> "Gateway":
        """``decided``: the guard runs the site file by now, so it is refused no more."""
        simulated = self._simulation is not None
        self._stores = await open_stores(self._checked.config, self._paths, exercise=simulated)
        if not simulated:
            await self._part(*self._stores, reloaded=decided)
        reactions = Reactions()
        gateway = build_gateway(
            self._checked,
            self._paths,
            self._stores,
            self._link,
            self._supervisor,
            self._view,
            self._problems,
            credentials=self._credentials,
            observers=(reactions.observe,),
            simulation=self._simulation,
        )
        gateway.lives = self._lives
        self.gateway = gateway
        view = ViewServer(gateway, reactions)
        await self._start_tasks(gateway, view)
        gateway.reloader = self._reloader
        return gateway

    async def _part(self, ledger: "Ledger", history: "History", *, reloaded: bool) -> None:
        """Part with uplinks that the site has no more. Raises ConfigError at a start alone."""
        config, decided = self._checked.config, reloaded and self._decided
        parting = Parting(config, ledger, history, self._problems, decided=decided)
        known = parting.known
        if known and not reloaded:
            parting.check()
        self._tasks.start("parted uplinks", parting.run)
        if known:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(parting.done.wait(), PARTED_S)

    async def stop(self, *, failed: bool = False) -> None:
        """End everything in order, whatever the disk does.

        It takes 3.4 s at most, and 1.4 s more where a reload is under way.
        ``failed``: the start did not succeed; a guard that ran before it is left protecting.
        """
        self._notifier.stopping()
        if self._exchanging is not None and not self._exchanging.done():
            await asyncio.wait({self._exchanging}, timeout=TASKS_STOP_S)
            self._exchanging.cancel()
            await asyncio.wait({self._exchanging}, timeout=EXCHANGE_S)
        if self.gateway is not None:
            self.gateway.stopping = True
        if self._housekeeper is not None:
            self._housekeeper.remove_endpoints()
        await self._tasks.stop(TASKS_STOP_S)
        keep_guard = failed and self._supervisor.state().adopted
        await asyncio.gather(
            self._close_stores(),
            self._supervisor.release() if keep_guard else self._supervisor.stop(),
        )
        self._view.close()
        SPARE_ONES.hold(0)
        if not failed:
            self._lives.end()

    # Start

    def _tell_loop(self) -> None:
        text = (
            f"the gateway has ended {self._lives.unclean} times without being told to, again and "
            "again soon after its start: see its log; the guard protects on"
        )
        self._problems.raised("gateway", "restarts", text, priority="critical")

    def _steady(self) -> None:
        self._lives.steady()
        self._problems.cleared("gateway", "restarts", f"the gateway has run for {STEADY_S:g} s")

    async def _space_out(self) -> None:
        """Before heavy work, where the lives before were short: the guard runs meanwhile."""
        space_s = self._lives.space_s()
        if space_s > 0:
            _LOGGER.warning("the databases are opened in %.0f s", space_s)
            self._notifier.extend(space_s + EXTEND_S)
            self._notifier.status(f"waits for {space_s:.0f} s: it has ended too often")
            await asyncio.sleep(space_s)

    def _warn(self) -> None:
        if not is_tmpfs(self._paths.runtime):
            _LOGGER.warning("%s is not tmpfs: the guard may wait for a disk", self._paths.runtime)
        for warning in self._checked.warnings:
            _LOGGER.warning("%s", warning)

    async def _start_tasks(self, gateway: "Gateway", view: ViewServer) -> None:
        self._housekeeper = housekeeper = Housekeeper(gateway, self._notifier)
        self._applier = applier = Applier(
            self._paths,
            self._checked.program,
            gateway.tags.index,
            self._link,
            self._view,
            gateway.ledger,
            self._problems,
            self._runs,
        )
        self._tasks.start("problems", lambda: self._problems.run(gateway.ledger))
        self._tasks.start("recorder", gateway.recorder.run)
        self._tasks.start("program", applier.run)
        for name, job in gateway.scanner.jobs().items():
            self._tasks.start(name, job)
        if gateway.substitutions is not None:
            self._tasks.start("substitutions", gateway.substitutions.run)
        points = FastPoints(gateway.config, self._view, lambda: gateway.running, self._problems)
        self._tasks.start("fast points", points.run)
        proofs = ProofWatch(gateway.config, gateway.ledger, self._problems)
        self._tasks.start("proof tests", proofs.run)
        for name, job in gateway.slow_outputs.jobs().items():
            self._tasks.start(name, job)
        for uplink, pump in zip(gateway.config.uplink, gateway.pumps, strict=True):
            self._tasks.start(f"uplink {uplink.id}", pump.run)
        certificates = CertificateWatch(
            gateway.config.uplink, gateway.pumps, self._credentials, self._problems
        )
        self._tasks.start("certificates", certificates.run)
        self._tasks.start("view", view.run)
        self._tasks.start("housekeeping", housekeeper.run)
        self._tasks.start("disk", housekeeper.disk)
        self._tasks.start("watchdog", housekeeper.watchdog)
        self._tasks.start("clock", ClockWatch(self._paths.clock, gateway.ledger).run)
        applier.wake()  # the link may be older than the applier
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                await view.ready.wait()
                await applier.settled.wait()
        housekeeper.ready()

    # What parts tell each other

    def _nudged(self, event_head: int, sample_head: int) -> None:
        del event_head, sample_head  # the recorder looks for itself
        if self.gateway is not None:
            self.gateway.recorder.nudge()
            self.gateway.slow_outputs.nudge()

    def _linked(self, state: LinkState) -> None:
        if not state.compatible:
            self._problems.raised("guard", "version", state.text, priority="critical")
        elif state.connected:
            self._problems.cleared("guard", "version", "guard and gateway understand each other")
        if self._applier is not None:
            self._applier.wake()

    def _runs(self, running: Running) -> None:
        """The guard runs this program, or runs it anew."""
        if self.gateway is None:
            return
        self.gateway.running = running
        self.gateway.ledger.stamp(program=running.program.hex(), unarmed_count=running.unarmed)
        self.gateway.scanner.resend()
