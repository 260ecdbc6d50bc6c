"""From a checked site to the gateway's parts, in the order in which they need each other."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from drivers.errors import LinkError
from drivers.kind import Surroundings
from fastpath.image import TagImage
from gateway.alarms.alerts import EventWords
from gateway.alarms.limits import Limits
from gateway.alarms.programs import KnownPrograms
from gateway.guard import apply
from gateway.guard.apply import Running
from gateway.guard.board import GuardBoard
from gateway.guard.eventlog import EventLog
from gateway.guard.slow_outputs import SlowOutputs
from gateway.life import clock
from gateway.orders.commands import Commands
from gateway.orders.substitutions import Substitutions
from gateway.parts import Gateway
from gateway.plant.computed import ComputedValues
from gateway.plant.scanner import Scanner
from gateway.plant.tags import TagTable
from gateway.site.credentials import CredentialError, Credentials, load_credentials
from gateway.site.recording import recording_of
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.ledger import Ledger
from gateway.store.recorder import Recorder
from gateway.uplink.base import ALERT, BACKFILL, LIVE
from gateway.uplink.credentialed import CredentialedUplink
from gateway.uplink.message import Sender
from gateway.uplink.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastpath.records import Event
    from gateway.check import Checked
    from gateway.guard.link import GuardLink
    from gateway.guard.sharedview import SharedView
    from gateway.guard.supervise import GuardSupervisor
    from gateway.life.problems import Problems
    from gateway.orders.hands import Hand, Hands
    from gateway.paths import Paths
    from gateway.plant.simulation import Simulation
    from gateway.site.model import Config
    from gateway.store.audit_memory import Order


async def open_stores(
    config: "Config", paths: "Paths", *, exercise: bool = False
) -> tuple[Ledger, History]:
    """The two databases, opened side by side.

    A disk that does not take them now is told later, by their state. Cancelled, what is opened is
    closed again.
    ``exercise``: every alert says that it is one.
    Raises StoreError for a file of a newer version.
    """
    told = [item.id for item in config.uplink if ALERT in item.lanes]
    ledger_opens = asyncio.create_task(
        Ledger.open(
            paths.ledger,
            gateway_name(config),
            site=config.site.id,
            uplinks=told,
            clock_synced=clock.synchronised,
            exercise=exercise,
        ),
        name="ledger opens",
    )
    history_opens = asyncio.create_task(
        History.open(
            paths.history,
            groups=poll_groups(config),
            uplinks=[item.id for item in config.uplink if {LIVE, BACKFILL} & set(item.lanes)],
            max_bytes=config.history.max_bytes,
            max_age_ns=config.history.raw_max_age_ns,
            five_minute_max_age_ns=config.history.five_minute_max_age,
        ),
        name="history opens",
    )
    try:
        await asyncio.wait({ledger_opens, history_opens})
        ledger, history = ledger_opens.result(), history_opens.result()
        for item in config.uplink:
            if BACKFILL not in item.lanes and LIVE in item.lanes:
                history.set_lane(item.id, LIVE)  # before the first commit: nothing else is its own
    except BaseException:
        ledger_opens.cancel()
        history_opens.cancel()
        for opened in await asyncio.gather(ledger_opens, history_opens, return_exceptions=True):
            if not isinstance(opened, BaseException):
                await opened.close()
        raise
    return ledger, history


def build_gateway(
    checked: "Checked",
    paths: "Paths",
    stores: tuple[Ledger, History],
    link: "GuardLink",
    supervisor: "GuardSupervisor",
    view: "SharedView",
    problems: "Problems",
    *,
    credentials: Path | None,
    observers: "Sequence[Callable[[Event], None]]",
    simulation: "Simulation | None" = None,
) -> Gateway:
    """Every part, nothing running yet."""
    config, (ledger, history) = checked.config, stores
    image = TagImage(len(config.tag))
    tags = TagTable(config, image, view, lambda: gateway.running)
    programs = KnownPrograms(paths.programs, paths.last_good, tags.index)
    commands = Commands(ledger, link, view, lambda digest: apply.program_blob(paths, digest))
    words = EventWords(config, programs, _People(ledger, commands.hands))
    limits = Limits(checked.alarms, tags.ids, image)
    computed = ComputedValues(checked.computed, config, link, lambda: gateway.running)

    recording = recording_of(config)

    def stored() -> None:
        for pump in gateway.pumps:
            pump.nudge()

    recorder = Recorder(
        view,
        ledger,
        history,
        image=image,
        limits=limits,
        computed=computed,
        recording=recording,
        words=words,
        programs=programs,
        ack=link.ack,
        on_stored=stored,
        observers=(*observers, EventLog(words.draft_of).observe),
    )
    problems.on_stored = stored
    if ledger.epoch:
        problems.follow(item.subject for item in ledger.active())
    around = surroundings(paths, credentials)
    scanner = Scanner(
        config,
        image,
        link,
        lambda: gateway.running,
        recorder.take,
        recording,
        problems,
        around,
        raised_tags=limits.raised_tags,
    )
    substitutions = Substitutions(config, ledger, problems, scanner.substitute)
    commands.substitutions = substitutions
    gateway = Gateway(
        config=config,
        checked=checked,
        paths=paths,
        started_mono_ns=time.monotonic_ns(),
        started_utc_ns=time.time_ns(),
        problems=problems,
        image=image,
        tags=tags,
        link=link,
        supervisor=supervisor,
        running=Running(),
        view=view,
        limits=limits,
        ledger=ledger,
        history=history,
        recorder=recorder,
        scanner=scanner,
        pumps=make_pumps(
            config, ledger, history, problems, credentials, exercise=simulation is not None
        ),
        credentials=credentials,
        commands=commands,
        substitutions=substitutions,
        slow_outputs=SlowOutputs(
            config,
            lambda: GuardBoard.read(view(), commands.programs),
            link,
            ledger,
            problems,
            around,
        ),
        simulation=simulation,
    )
    return gateway


def surroundings(paths: "Paths", credentials: Path | None) -> Surroundings:
    """What drivers find around themselves; a credential is read when a driver asks for it."""

    def secrets(name: str) -> Credentials:
        try:
            return load_credentials(name, credentials)
        except CredentialError as error:
            raise LinkError(str(error)) from None

    return Surroundings(secrets, paths.state)


class _People:
    """Who is behind a record: by the audit, or a moment ago by hand."""

    def __init__(self, ledger: Ledger, hands: "Hands") -> None:
        self._ledger = ledger
        self._hands = hands

    def order(self, ident: bytes) -> "Order | None":
        return self._ledger.audit.order(ident)

    def order_at(self, seq: int) -> "Order | None":
        return self._ledger.audit.order_at(seq)

    def hand(self, key: int, mono_ns: int) -> "Hand | None":
        return self._hands.of(key, mono_ns)


def make_pumps(
    config: "Config",
    ledger: Ledger,
    history: History,
    problems: "Problems",
    credentials: Path | None,
    *,
    exercise: bool = False,
) -> tuple[Pump, ...]:
    """One pump per uplink of the site; its credentials are read when it connects."""

    def load(name: str) -> Credentials:
        return load_credentials(name, credentials)

    pumps = []
    for uplink in config.uplink:
        sender = Sender(
            gateway=gateway_name(config),
            site=config.site.id,
            uplink=uplink.id,
            exercise=exercise,
        )
        link = CredentialedUplink(uplink, sender, load)
        pumps.append(Pump(uplink, link, ledger, history, problems, sender))
    return tuple(pumps)


def poll_groups(config: "Config") -> list[PollGroup]:
    """The tags of one device and period each; a tag without a device is a group of its own."""
    groups: dict[str, list[int]] = {}
    for index, tag in enumerate(config.tag):
        key = f"{tag.device}/{tag.poll or 0}" if tag.device else f"/{tag.id}"
        groups.setdefault(key, []).append(index)
    return [
        PollGroup(key, tuple(config.tag[i].id for i in indices), tuple(indices))
        for key, indices in groups.items()
    ]


def gateway_name(config: "Config") -> str:
    """The name that alerts carry."""
    return config.site.gateway or config.site.id
