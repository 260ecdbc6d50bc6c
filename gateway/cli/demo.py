"""``demo``: the whole story on a simulated mine face, told as it happens.

Nothing is said that was not read back: values from the gateway, states from the guard's shared
file, arrivals from the platform.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from fastpath.codes import OutputState
from fastpath.journal import OutputView
from gateway.cli.demo_plant import Plant, demo_paths
from gateway.cli.offline import guard_view, programs_of
from gateway.cli.table import plain
from gateway.errors import GatewayError
from gateway.guard.board import GuardBoard
from gateway.orders.outcome import Exit

METHANE: Final = ("ch4.t1", "ch4.t2", "ch4.t3")
CONTACT: Final = "power.face.closed"
BREAKER: Final = "power.face"
INTERLOCK: Final = "face-power-cut"
STEP_S: Final = 25.0  # no part of the story takes longer
RESETS_MAX: Final = 20  # refused ones, each told; methane hovers at the limit for a moment
OUTAGE_S: Final = 4.0
LOOK_S: Final = 0.05
SHOW_S: Final = 2.0
CALM: Final = 0.7  # %CH4

_STYLES: Final = {
    "trip": "bold red", "alarm": "yellow", "confirmed": "bold green", "failed": "bold red",
    "alert": "cyan", "link": "magenta", "backlog": "magenta", "reset": "green",
}  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Tell the story again and again until interrupted; once with ``--once``."""
    paths = demo_paths(args.runtime_dir, args.state_dir)
    say = Narrator()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    code: int = Exit.DONE
    try:
        say("demo", "starting a simulated mine face, a receiving platform, the gateway, the guard")
        with Plant(paths, stuck_breaker=args.stuck_breaker) as plant:
            story = Story(plant, say)
            story.begin()
            code = story.tell()
            while not args.once:
                say("demo", "and again (Ctrl-C ends it)")
                code = story.tell()
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            print()
    say("demo", "everything was stopped")
    return code


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


class Narrator:
    """One line per fact: seconds, a word, what was read. Colours on a terminal alone."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._console: Any = None
        if sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False, soft_wrap=True)

    def __call__(self, word: str, text: str) -> None:
        """Print one line."""
        line = f"{time.monotonic() - self._began:6.1f} s  {word:<10} {plain(text)}"
        if self._console is None:
            print(line, flush=True)
        else:
            self._console.print(line, style=_STYLES.get(word, ""), markup=False)


class Story:
    """One round: rise, alarm, trip, confirmation, alert, cut link, backlog, recovery, reset."""

    def __init__(self, plant: Plant, say: Narrator) -> None:
        self._plant = plant
        self._say = say

    def begin(self) -> None:
        """Addresses, and the first values."""
        plant = self._plant
        http = plant.wait_ready()
        self._until("the first values", lambda: self._values()[0] is not None)
        self._until("the guard's program", self._normal)
        self._say("demo", f"metrics  {http}/metrics")
        self._say("demo", f"health   {http}/healthz")
        directories = f"--runtime-dir {plant.paths.runtime} --state-dir {plant.paths.state}"
        self._say("demo", f"in a second terminal: {_program()} status {directories}")
        self._say("demo", f"what came: {_program()} receive --show {plant.received_db}")
        self._say("demo", f"log of gateway and guard: {plant.log}")

    def tell(self) -> int:
        """The whole round; the exit code."""
        self._wait_showing(self._settled)
        known = int(self._plant.received()["last_alert"])
        self._rise()
        if not self._trip():
            self._plant.direct("clear")
            return Exit.UNCONFIRMED
        self._alert(known)
        self._outage()
        self._reset()
        return Exit.DONE

    def _rise(self) -> None:
        for _ in range(3):
            self._show_values()
            time.sleep(0.7)
        self._say("live", "an inflow begins: methane rises")
        self._plant.direct("inflow")
        end = time.monotonic() + STEP_S
        alarmed = False
        shown = 0.0
        while time.monotonic() < end and self._state() == "NORMAL":
            if not alarmed and (active := self._alarms()):
                alarmed = True
                for alarm in active:
                    self._say("alarm", _alarm_text(alarm))
            if time.monotonic() - shown > 1.0:
                shown = time.monotonic()
                self._show_values()
            time.sleep(LOOK_S)

    def _trip(self) -> bool:
        """Read the latch, then the contact; False where the breaker did not open."""
        self._until("the trip", lambda: self._state() == "TRIPPED")
        interlock = self._interlock()
        votes = [leg for leg in interlock["legs"] if leg["result"] == "true"]
        text = "; ".join(f"{leg['text']} is {leg['value']:.2f}" for leg in votes)
        first = ", first out of its group" if interlock["first_out"] else ""
        self._say("trip", f"{INTERLOCK} tripped{first}, 2oo3: {text}")
        self._until("the outcome", lambda: self._output().state in _DECIDED)
        output = self._output()
        reaction_us = (output.wire_ns - output.demand_ns) / 1000
        self._say(
            "trip",
            f"reaction {reaction_us:.0f} us from the deciding reply's arrival to the coil's "
            "write on the wire",
        )
        if output.state != OutputState.TRIPPED or not output.confirmed:
            self._say(
                "failed",
                f"TRIP_FAILED: {BREAKER} was written, but its contact still says "
                f"{self._contact()}; the guard goes on trying, people must act",
            )
            return False
        confirmed_ms = (output.confirm_ns - output.wire_ns) / 1e6
        self._until("the contact", lambda: self._contact() == "open")
        self._say(
            "confirmed",
            f"the breaker's auxiliary contact reads {self._contact()}, {confirmed_ms:.0f} ms "
            "after the write",
        )
        return True

    def _alert(self, known: int) -> None:
        def arrived() -> list[dict[str, Any]]:
            return [a for a in self._new_alerts(known) if a["kind"] == "trip"]

        self._until("the alert at the platform", lambda: bool(arrived()))
        for alert in arrived():
            self._say("alert", f"the platform has {alert['id']}: {alert['kind']} of {_what(alert)}")

    def _outage(self) -> None:
        """Cut the link, let alerts and samples pile up, bring it back, watch the order."""
        plant = self._plant
        plant.cut_link(down=True)
        self._say("link", "cut: the platform closes every connection")
        before = plant.received()
        plant.direct("fan off")  # something to tell while nobody listens
        self._until("the uplink's loss", lambda: not self._uplink()["up"])
        end = time.monotonic() + OUTAGE_S
        while time.monotonic() < end or self._backlog()["alerts"] == 0:
            if time.monotonic() > end + STEP_S:
                break
            time.sleep(LOOK_S)
        kept = self._backlog()
        self._say("backlog", f"kept in the ledger and the history: {_count(kept)}")
        plant.direct("fan on")
        plant.cut_link(down=False)
        self._say("link", "back")
        self._until("the backfill", lambda: "backfill" in self._lanes(before))
        self._until("an empty backlog", lambda: not any(self._backlog().values()))
        after = plant.received()
        lanes = _lanes_since(before["order"], after["order"])
        self._say(
            "link",
            f"everything arrived: {after['alerts'] - before['alerts']} alerts and "
            f"{after['values'] - before['values']} values, in the order "
            f"{' > '.join(_first_of_each(lanes)) or 'alert'}; {after['duplicates']} doubles, "
            f"{sum(row['missing'] for row in after['streams'])} missing",
        )
        self._say("backlog", f"now: {_count(self._backlog())}")

    def _reset(self) -> None:
        """Every interlock that holds, each when its cause is gone."""
        for interlock in [row for row in self._interlocks() if row["state"] != "NORMAL"]:
            self._say("reset", f"waiting until {interlock['id']} may be reset")
            self._reset_one(interlock["id"])
        self._until("the breaker", lambda: self._contact() == "closed")
        self._say("reset", f"{BREAKER} is permitted, its contact reads {self._contact()}")
        self._until("the interlock", self._normal)

    def _reset_one(self, ident: str) -> None:
        """Reset when it is ready; again where methane rose anew between the look and the reset."""
        for _ in range(RESETS_MAX):
            self._wait_showing(partial(self._ready, ident))
            body = {"id": ident, "generation": self._interlock(ident)["generation"]}
            self._say("reset", str(self._plant.command("/reset", body).get("text", "")))
            if self._state(ident) not in {"TRIPPED", "READY_TO_RESET"}:
                return

    def _wait_showing(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, with the values every two seconds. Raises GatewayError."""
        shown = time.monotonic()
        end = shown + STEP_S
        while not condition():
            if time.monotonic() > end:
                msg = f"the story stopped: methane did not fall; see {self._plant.log}"
                raise GatewayError(msg)
            if time.monotonic() - shown > SHOW_S:
                shown = time.monotonic()
                self._show_values()
            time.sleep(LOOK_S)

    # ---- what is read ------------------------------------------------------------------------

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises GatewayError after STEP_S."""
        end = time.monotonic() + STEP_S
        while not condition():
            if time.monotonic() > end:
                msg = f"the story stopped: {what} did not come; see {self._plant.log}"
                raise GatewayError(msg)
            time.sleep(LOOK_S)

    def _show_values(self) -> None:
        values = ", ".join("-" if v is None else f"{v:.2f}" for v in self._values())
        self._say("live", f"methane {values} %CH4, breaker contact {self._contact()}")

    def _tags(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self._plant.read("/tags") or []}

    def _values(self) -> list[float | None]:
        tags = self._tags()
        return [tags[i]["value"] if i in tags else None for i in METHANE]

    def _contact(self) -> str:
        row = self._tags().get(CONTACT)
        if row is None or row["quality"] != "GOOD":
            return "nothing (bad)"
        return "closed" if row["value"] else "open"

    def _interlocks(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._plant.read("/interlocks") or []
        return rows

    def _interlock(self, ident: str = INTERLOCK) -> dict[str, Any]:
        rows = {row["id"]: row for row in self._interlocks()}
        found: dict[str, Any] = rows.get(ident, {"state": "", "legs": [], "generation": 0})
        return found

    def _state(self, ident: str = INTERLOCK) -> str:
        return str(self._interlock(ident)["state"])

    def _settled(self) -> bool:
        """Methane is far from every limit."""
        return all(value is not None and value < CALM for value in self._values())

    def _ready(self, ident: str) -> bool:
        return self._state(ident) == "READY_TO_RESET"

    def _normal(self) -> bool:
        return self._state() == "NORMAL" and self._output().state == OutputState.RELEASED

    def _output(self) -> OutputView:
        """The breaker's latch, straight from the guard's shared file."""
        with guard_view(self._plant.paths) as view:
            board = GuardBoard.read(view, programs_of(self._plant.paths))
            ids = [item.id for item in board.text.outputs] if board else []
            if BREAKER in ids:
                return view.output(ids.index(BREAKER))
        return _NO_OUTPUT

    def _alarms(self) -> list[dict[str, Any]]:
        return [row for row in self._plant.read("/alarms") or [] if row.get("kind") == "alarm"]

    def _uplink(self) -> dict[str, Any]:
        rows = (self._plant.read("/status") or {}).get("uplinks") or []
        found: dict[str, Any] = rows[0] if rows else {"up": False, "backlog": {"alerts": 0}}
        return found

    def _backlog(self) -> dict[str, int]:
        found: dict[str, int] = self._uplink()["backlog"]
        return found

    def _lanes(self, before: dict[str, Any]) -> list[str]:
        return _lanes_since(before["order"], self._plant.received()["order"])

    def _new_alerts(self, known: int) -> list[dict[str, Any]]:
        with contextlib.suppress(GatewayError):
            return [row["alert"] for row in self._plant.alerts_after(known)]
        return []


_DECIDED: Final = (OutputState.TRIPPED, OutputState.TRIP_FAILED)
_NO_OUTPUT: Final = OutputView(0, OutputState.HELD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def _alarm_text(alarm: dict[str, Any]) -> str:
    source = (alarm.get("source") or {}).get("id", "?")
    value, limit, unit = alarm.get("value"), alarm.get("limit"), alarm.get("unit") or ""
    shown = f"{value:.2f}" if isinstance(value, float) else "-"
    return f"{source}: {shown} {unit} at limit {limit} {unit} ({alarm.get('guidance') or ''})"


def _what(alert: dict[str, Any]) -> str:
    return str((alert.get("source") or {}).get("id", "?"))


def _count(backlog: dict[str, int]) -> str:
    samples = backlog.get("live", 0) + backlog.get("backfill", 0)
    return f"{backlog['alerts']} alerts, {samples} messages of samples"


def _lanes_since(before: list[list[Any]], after: list[list[Any]]) -> list[str]:
    """The lanes in the order in which they arrived since ``before`` (runs of one lane each)."""
    grown = bool(before) and after[len(before) - 1][2] > before[-1][2]
    return [lane for lane, _first, _last in after[len(before) - grown :]]


def _first_of_each(lanes: list[str]) -> list[str]:
    return list(dict.fromkeys(lanes))


def _program() -> str:
    name = sys.argv[0]
    return name if name.endswith("sitewarden") else "sitewarden"
