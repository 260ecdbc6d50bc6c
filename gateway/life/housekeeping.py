"""What has to be looked at now and then: endpoints.json, the stores, the link, the watchdog."""

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Final

from gateway.life.descriptors import SPARE_ONES, scarce
from gateway.paths import Endpoints, write_endpoints

if TYPE_CHECKING:
    from gateway.life.sd_notify import Notifier
    from gateway.parts import Gateway

_LOGGER = logging.getLogger(__name__)

LOOK_S: Final = 0.25
LINK_MISSING_LOOKS: Final = 12  # a guard that lives but has no link for so many looks
DISK_LOOK_S: Final = 2.0
# More than the stores give back of their reserves at once; or a part of a small disk.
DISK_FREE_BYTES_MIN: Final = 16 * 1024 * 1024
DISK_FREE_PART_MIN: Final = 32
LAG_S_MAX: Final = 5.0  # a loop that was blocked for longer is worth a line


class Housekeeper:
    """Looks four times a second; every look is a few comparisons and, rarely, a small file."""

    def __init__(self, gateway: "Gateway", notifier: "Notifier") -> None:
        self._gateway = gateway
        self._notifier = notifier
        self._written: Endpoints | None = None
        self._write_failed = False
        self._ready = False
        self._looks_without_link = 0
        self._begun_anew = ""
        self._mishaps: dict[str, int] = {}  # that were told, by store

    def ready(self) -> None:
        """From now on endpoints.json is kept; the service manager is told."""
        self._ready = True
        self._keep_endpoints()
        site = self._gateway.config.site.id
        self._notifier.ready(f"site {site}, guard pid {self._gateway.supervisor.state().pid}")

    async def run(self) -> None:
        """Look for ever; returns only by cancellation."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + LOOK_S
            await asyncio.sleep(LOOK_S)
            lag_s = loop.time() - due_s
            if lag_s > LAG_S_MAX:
                text = f"the gateway stood still for {lag_s:.1f} s"
                self._gateway.problems.event("gateway", "loop", text, priority="medium")
            if self._ready:
                self._keep_endpoints()
            self._look_at_descriptors()
            self._look_at_link()
            self._look_at_stores()
            self._look_at_damage()

    async def disk(self) -> None:
        """Look at the room on the disk for ever. In a thread: a disk may hang."""
        while True:
            with contextlib.suppress(OSError):  # the stores tell it
                self._tell_of_room(await asyncio.to_thread(os.statvfs, self._gateway.paths.state))
            await asyncio.sleep(DISK_LOOK_S)

    async def watchdog(self) -> None:
        """WATCHDOG=1 twice per interval, but only while the recorder makes rounds."""
        interval_s = self._notifier.watchdog_s
        if interval_s is None:
            await asyncio.Event().wait()
            return
        rounds, told = -1, True
        while True:
            now = self._gateway.recorder.rounds
            if now != rounds:
                self._notifier.alive()
                told = True
            elif told:
                told = False
                _LOGGER.error("the recorder makes no rounds: the watchdog is not fed")
            rounds = now
            await asyncio.sleep(interval_s / 2)

    def remove_endpoints(self) -> None:
        """Nobody is to be found here any more."""
        self._ready = False
        with contextlib.suppress(OSError):
            self._gateway.paths.endpoints.unlink(missing_ok=True)

    def _keep_endpoints(self) -> None:
        gateway = self._gateway
        guard = gateway.supervisor.state()
        endpoints = Endpoints(
            pid=os.getpid(),
            guard_pid=guard.pid if guard.alive else 0,
            site=gateway.config.site.id,
            http=gateway.http,
            started_utc_ns=gateway.started_utc_ns,
        )
        if endpoints == self._written:
            return
        try:
            write_endpoints(gateway.paths.endpoints, endpoints)
        except OSError as error:
            if not self._write_failed:
                _LOGGER.warning("%s cannot be written: %s", gateway.paths.endpoints, error.strerror)
            self._write_failed = True
            return
        self._written, self._write_failed = endpoints, False

    def _look_at_descriptors(self) -> None:
        SPARE_ONES.refill()
        problems = self._gateway.problems
        if scarce():
            text = "hardly any descriptors are left: callers of the page wait; raise LimitNOFILE="
            problems.raised("gateway", "descriptors", text)
        else:
            problems.cleared("gateway", "descriptors", "there are descriptors again")

    def _look_at_link(self) -> None:
        state = self._gateway.link.state()
        problems = self._gateway.problems
        if not state.compatible:
            problems.raised("guard", "version", state.text, priority="critical")
        elif state.connected:
            problems.cleared("guard", "version", "the guard serves this version")
            problems.cleared("guard", "link", "connected")
        alone = self._gateway.supervisor.state().alive and not state.connected
        self._looks_without_link = self._looks_without_link + 1 if alone else 0
        if self._looks_without_link == LINK_MISSING_LOOKS and state.compatible:
            problems.raised("guard", "link", f"the guard runs but is not reached: {state.text}")

    def _look_at_stores(self) -> None:
        problems = self._gateway.problems
        for name, store in (("ledger", self._gateway.ledger), ("history", self._gateway.history)):
            if store.ok:
                problems.cleared("store", name, f"{name}.db is written again")
            elif trouble := store.stats().trouble:  # else it is only being opened
                text = f"{name}.db cannot be used, it is tried again: {trouble}"
                problems.raised("store", name, text, priority="critical")
            if store.mishaps[0] != self._mishaps.get(name, 0):
                self._mishaps[name], text = store.mishaps
                problems.event("store", name, text, priority="high")
            self._gateway.paces[name].look(time.monotonic(), store.stats().bytes_written)

    def _look_at_damage(self) -> None:
        """Of a damaged ledger its own first alert tells."""
        anew = self._gateway.history.begun_anew
        if anew != self._begun_anew:
            self._begun_anew = anew
            text = f"{anew}; samples that it had are not sent"
            self._gateway.problems.event(
                "store", "history", text, priority="high", alert_kind="gap"
            )

    def _tell_of_room(self, disk: os.statvfs_result) -> None:
        """A disk that is full: the stores live on their reserves, people have to make room."""
        directory = self._gateway.paths.state
        free = disk.f_bavail * disk.f_frsize
        least = min(DISK_FREE_BYTES_MIN, disk.f_blocks * disk.f_frsize // DISK_FREE_PART_MIN)
        problems = self._gateway.problems
        if free < least or (disk.f_files and not disk.f_favail):
            text = (
                f"the disk of {directory} is full ({free // 1024} KiB and {disk.f_favail} files "
                "free): alerts go into the ledger's reserve, old samples are shed"
            )
            problems.raised("store", "disk", text, priority="critical")
        elif free >= 2 * least:
            problems.cleared("store", "disk", f"there is room again in {directory}")
