"""Journal records in words."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastpath import blob
from fastpath.codes import (
    BypassKind,
    DownReason,
    EventFlag,
    EventType,
    MessageType,
    Op,
    OutputCode,
    Quality,
    ResultCode,
    TagFlag,
    TripReason,
    Truth,
)
from gateway.alarms.alerts import EventWords
from gateway.alarms.programs import KnownPrograms
from gateway.orders.hands import Hand
from gateway.site.model import Config, Duration, Effect, Interlock, Site
from gateway.store.alert import Alert, AlertDraft
from gateway.store.audit_memory import Order
from tests.gateway.guard_records import CAUSE, DEVICE, INTERLOCK, LEGS, OUTPUT, FakeGuard, program

ROOT = Path(__file__).parents[2]
CONFIG = Config(
    site=Site(id="shaft"),
    interlock=(
        Interlock(
            id=INTERLOCK,
            cause="x",
            effects=(Effect(output=OUTPUT),),
            response=Duration(2_000_000_000),
            armed=True,
            level="red",
            guidance="Withdraw.",
        ),
    ),
)


def reading_program() -> bytes:
    """Its interlock's cause is a bare tag, ch4.t1."""
    data = program()
    parts: dict[str, Any] = {name: blob.section(data, name) for name, _, _ in blob.SECTIONS}
    parts["code"] = [
        blob.Instruction(Op.TAG, 0, 0),
        blob.Instruction(Op.BOOL, 1, 0),
    ]
    parts["interlocks"] = [dataclasses.replace(parts["interlocks"][0], cause=1)]
    return blob.build(blob.Program(1, 10_000_000, 0, names=blob.names(data), **parts))


def watchdog_program() -> bytes:
    """Its first tag is a register of its device's watchdog."""
    data = program()
    parts: dict[str, Any] = {name: blob.section(data, name) for name, _, _ in blob.SECTIONS}
    first, *others = parts["tags"]
    parts["tags"] = [dataclasses.replace(first, flags=TagFlag.WATCHDOG, device=0), *others]
    return blob.build(blob.Program(1, 10_000_000, 0, names=blob.names(data), **parts))


class Words:
    def __init__(self, directory: Path, data: bytes | None = None) -> None:
        data = program() if data is None else data
        self.programs = KnownPrograms(directory, directory / "last-good", {"ch4.t1": 0})
        self.programs.add(data)
        self.guard = FakeGuard(data)
        self.words = EventWords(CONFIG, self.programs)

    def say(self, kind: EventType, name: str = "", /, *, flags: int = 0, **fields: Any) -> Any:
        key = blob.key_of(*name.split(":", 1)) if name else 0
        return self.words.draft_of(self.guard.write(kind, flags=flags, key=key, **fields))


@pytest.fixture
def words(tmp_path: Path) -> Words:
    return Words(tmp_path)


TWO_LEGS = Truth.TRUE | Truth.FALSE << 2 | Truth.UNKNOWN << 4


def test_a_trip_says_what_tripped_and_why(words: Words) -> None:
    draft = words.say(
        EventType.TRIP, f"interlock:{INTERLOCK}", flags=EventFlag.CLOCK_SYNCED,
        generation=3, reason=TripReason.CAUSE, first_out=1, legs=TWO_LEGS,
        slot0=0, value0=1.6, slot1=0xFFFFFFFF, slot2=0xFFFFFFFF,
    )  # fmt: skip
    assert (draft.kind, draft.state, draft.source.id) == ("trip", "raised", INTERLOCK)
    assert draft.cause == (f"{LEGS[0]} (1.6 %CH4); not known: {LEGS[2]}; condition: {CAUSE}")
    assert (draft.first_out, draft.armed, draft.exercise) == (True, True, False)
    assert [(leg.text, leg.result, leg.value) for leg in draft.legs] == [
        (LEGS[0], "true", 1.6), (LEGS[1], "false", None), (LEGS[2], "unknown", None)
    ]  # fmt: skip
    assert (draft.value, draft.limit, draft.unit, draft.quality) == (1.6, 1.5, "%CH4", "GOOD")
    assert (draft.priority, draft.level, draft.guidance) == ("critical", "red", "Withdraw.")
    assert [output.id for output in draft.outputs] == [OUTPUT]
    assert draft.clock_synced is True
    assert draft.program == blob.blob_hash(words.guard.data).hex()
    assert draft.journal_seq == 1


def test_an_unarmed_trip_moves_no_output(words: Words) -> None:
    draft = words.say(EventType.TRIP, f"interlock:{INTERLOCK}", flags=EventFlag.UNARMED, reason=1)
    assert (draft.armed, draft.outputs) == (False, ())


@pytest.mark.parametrize("reason", [reason for reason in TripReason if reason != TripReason.CAUSE])
def test_every_other_reason_has_words(words: Words, reason: TripReason) -> None:
    draft = words.say(EventType.TRIP, f"interlock:{INTERLOCK}", reason=reason, slot0=0, value0=9.0)
    assert "reason" not in draft.cause
    if reason != TripReason.BYPASS_END:  # its cause was there: the legs say why
        assert (draft.legs, draft.value) == ((), None)


def test_a_reset_ends_its_trip(words: Words) -> None:
    trip = words.say(EventType.TRIP, f"interlock:{INTERLOCK}", reason=1)
    for kind in (EventType.RESET, EventType.RETURN):
        end = words.say(kind, f"interlock:{INTERLOCK}", ledger_seq=12)
        assert (end.kind, end.state, end.subject) == ("trip_end", "cleared", trip.subject)
        assert end.unmatched == "cleared"
    assert "12" in words.say(EventType.RESET, f"interlock:{INTERLOCK}", ledger_seq=12).cause


def test_an_output_that_confirms_tells_its_times(words: Words) -> None:
    draft = words.say(
        EventType.OUT_CONFIRMED, f"output:{OUTPUT}", demand_ns=1_000, wire_ns=1_300,
        confirm_ns=2_300, cause_key=blob.key_of("interlock", INTERLOCK),
    )  # fmt: skip
    assert (draft.kind, draft.reaction_ns) == ("output", 300)
    assert [(out.id, out.state, out.confirm_ns) for out in draft.outputs] == [
        (OUTPUT, "TRIPPED", 1_000)
    ]
    assert (draft.state, draft.unmatched) == ("cleared", "event")
    assert INTERLOCK in draft.cause
    again = words.say(EventType.OUT_CONFIRMED, f"output:{OUTPUT}")
    assert (again.reaction_ns, again.outputs[0].confirm_ns) == (None, None)


def test_an_output_that_fails_is_critical_until_it_is_well(words: Words) -> None:
    failed = words.say(EventType.OUT_FAILED, f"output:{OUTPUT}", wanted=0, seen=1, tries=4)
    assert (failed.state, failed.priority) == ("raised", "critical")
    assert "4 writes" in failed.cause
    mismatch = words.say(
        EventType.OUT_MISMATCH, f"output:{OUTPUT}", wanted=0, seen=1, code=OutputCode.MISMATCH
    )
    held = words.say(EventType.OUT_HELD, f"output:{OUTPUT}", tries=3)
    late = words.say(EventType.OUT_CONFIRMED, f"output:{OUTPUT}", flags=EventFlag.LATE)
    released = words.say(EventType.OUT_RELEASED, f"output:{OUTPUT}")
    assert (mismatch.state, held.state) == ("raised", "raised")
    assert (late.state, released.state, released.unmatched) == ("cleared", "cleared", None)
    assert {draft.subject for draft in (failed, mismatch, held, late, released)} == {
        f"output:{OUTPUT}"
    }


class Somebody:
    """Ann began every bypass and gave every reset; Bob trips by hand."""

    def order(self, ident: bytes) -> Order | None:
        return Order(7, 1, "uid:ann", "bypass_start", INTERLOCK, "new sensor", ident.hex())

    def order_at(self, seq: int) -> Order | None:
        return Order(seq, 1, "uid:ann", "reset", INTERLOCK, "gas is away", "")

    def hand(self, _key: int, _mono_ns: int) -> Hand | None:
        return Hand("uid:bob", "smell of gas", 1)


@pytest.fixture
def told(tmp_path: Path) -> Words:
    words = Words(tmp_path)
    words.words = EventWords(CONFIG, words.programs, Somebody())
    return words


HOUR_NS = 3_600_000_000_000


def test_a_bypass_says_who_why_and_what_is_at_stake(told: Words) -> None:
    name = f"interlock:{INTERLOCK}"
    begun = told.say(
        EventType.BYPASS, name, flags=EventFlag.WITHHELD, kind=BypassKind.INTERLOCK,
        left_ns=2 * HOUR_NS, ledger_seq=7,
    )  # fmt: skip
    assert (begun.kind, begun.state, begun.priority) == ("bypass", "raised", "high")
    assert begun.cause == (
        "bypassed until 1970-01-01 02:00:00 UTC (2 h) by uid:ann: new sensor; "
        f"{OUTPUT} will not be tripped by it"
    )
    assert begun.guidance
    ending = told.say(EventType.BYPASS_ENDING, name, kind=1, left_ns=24 * 60 * 10**9)
    assert (ending.state, ending.subject) == ("event", begun.subject)
    assert "ends in 24 min" in ending.cause
    end = told.say(EventType.BYPASS_END, name, kind=1, cause=1)
    assert (end.state, end.subject, end.cause) == (
        "cleared", begun.subject, "the bypass is over: its time is over",
    )  # fmt: skip
    tripped = told.say(EventType.BYPASS, name, kind=1, left_ns=HOUR_NS)
    assert f"it is tripped: {OUTPUT} stay tripped until a reset" in tripped.cause


def test_a_bypass_of_a_tag_names_who_reads_it(tmp_path: Path) -> None:
    data = reading_program()
    words = Words(tmp_path, data)
    draft = words.say(EventType.BYPASS, "tag:ch4.t1", kind=BypassKind.TAG, left_ns=HOUR_NS)
    assert (draft.source.kind, draft.source.id) == ("tag", "ch4.t1")
    assert f"every comparison on it abstains in {INTERLOCK}" in draft.cause


def test_what_is_withheld_or_unarmed_would_have_tripped(told: Words) -> None:
    name = f"interlock:{INTERLOCK}"
    withheld = told.say(EventType.TRIP, name, flags=EventFlag.WITHHELD, reason=1, legs=TWO_LEGS)
    assert withheld.cause.startswith("WOULD HAVE TRIPPED, but is bypassed: ")
    assert (withheld.outputs, withheld.armed, withheld.priority) == ((), True, "high")
    unarmed = told.say(EventType.TRIP, name, flags=EventFlag.UNARMED, reason=1)
    assert unarmed.cause.startswith("WOULD HAVE TRIPPED, but is not armed: ")
    gone = told.say(EventType.RETURN, name, flags=EventFlag.WITHHELD)
    assert (gone.state, gone.subject) == ("cleared", withheld.subject)
    assert "stays bypassed" in gone.cause
    again = told.say(EventType.TRIP, name, flags=EventFlag.RETRIP | EventFlag.SAME_SCAN, reason=1)
    assert again.cause.startswith("tripped again: ")
    assert again.cause.endswith("; in the same scan as the first out")


def test_a_leg_that_abstains_is_named(told: Words) -> None:
    legs = Truth.TRUE | Truth.ABSTAIN << 2 | Truth.FALSE << 4
    draft = told.say(EventType.TRIP, f"interlock:{INTERLOCK}", reason=1, legs=legs)
    assert f"; bypassed: {LEGS[1]};" in draft.cause
    assert [leg.result for leg in draft.legs] == ["true", "abstains", "false"]


def test_a_drill_is_an_exercise_in_every_alert_of_it(told: Words) -> None:
    name, key = f"interlock:{INTERLOCK}", blob.key_of("interlock", INTERLOCK)
    trip = told.say(EventType.TRIP, name, reason=TripReason.EXERCISE)
    assert trip.exercise
    assert (trip.priority, trip.level) == ("medium", None)
    assert trip.cause.endswith("as an exercise by uid:bob: smell of gas")
    assert told.say(EventType.OUT_CONFIRMED, f"output:{OUTPUT}", cause_key=key).exercise
    end = told.say(EventType.RESET, name, ledger_seq=12)
    assert end.exercise
    assert end.cause == "reset by uid:ann: gas is away (audit entry 12)"
    real = told.say(EventType.TRIP, name, reason=TripReason.MANUAL)
    assert not real.exercise
    assert not told.say(EventType.OUT_CONFIRMED, f"output:{OUTPUT}", cause_key=key).exercise


def test_a_read_back_that_contradicts_is_told_both_ways_and_its_end(words: Words) -> None:
    name = f"output:{OUTPUT}"
    undone = words.say(EventType.OUT_MISMATCH, name, wanted=0, seen=1, code=OutputCode.MISMATCH)
    assert "its read-back says on (not tripped), commanded is off (tripped)" in undone.cause
    assert undone.priority == "critical"
    other = words.say(EventType.OUT_MISMATCH, name, wanted=1, seen=0, code=OutputCode.UNCOMMANDED)
    assert "says off (tripped) although nothing commands it (it is at on (normal))" in other.cause
    assert other.subject != undone.subject
    assert (other.priority, other.outputs[0].state) == ("low", "RELEASED")
    on = words.say(EventType.OUT_MISMATCH, name, wanted=0, seen=1, code=OutputCode.UNCOMMANDED)
    assert on.cause.startswith("IT PERMITS ALTHOUGH IT IS HELD: its read-back says on (not ")
    assert (on.priority, on.outputs[0].state) == ("critical", "HELD")
    assert on.subject == other.subject
    over = words.say(EventType.OUT_MISMATCH, name, wanted=1, seen=1, code=OutputCode.NOTHING)
    assert (over.state, over.subject) == ("cleared", other.subject)
    away = words.say(EventType.OUT_UNVERIFIED, name, seen=0xFFFF)
    assert (away.state, away.priority, away.subject) == ("raised", "high", undone.subject)
    assert words.say(EventType.OUT_CONFIRMED, name).subject == away.subject


def test_sirens_fallbacks_and_held_outputs(words: Words) -> None:
    name = f"output:{OUTPUT}"
    assert words.say(EventType.OUT_TRIP, name) is None
    assert words.say(EventType.OUT_RELEASE, name) is None
    silent = words.say(EventType.OUT_RELEASE, name, code=OutputCode.SILENCED)
    assert silent.cause.startswith("silenced")
    loud = words.say(EventType.OUT_TRIP, name, code=OutputCode.SOUNDS_AGAIN)
    assert (loud.state, loud.priority) == ("event", "high")
    instead = words.say(
        EventType.OUT_TRIP, name, code=OutputCode.FALLBACK,
        cause_key=blob.key_of("output", OUTPUT),
    )  # fmt: skip
    assert instead.priority == "critical"
    assert f"as the fallback of {OUTPUT}" in instead.cause
    held = words.say(EventType.OUT_HELD, name, code=OutputCode.WATCHDOG)
    assert held.cause.startswith("a register of its device's watchdog")
    assert "no fallback" in words.say(EventType.OUT_FAILED, name, tries=2).cause


def test_a_withheld_heartbeat_is_critical_until_it_goes_on(words: Words) -> None:
    key = blob.key_of("output", OUTPUT)
    stop = words.say(EventType.HEARTBEAT_STOP, f"device:{DEVICE}", output_key=key)
    assert (stop.state, stop.priority, stop.source.id) == ("raised", "critical", DEVICE)
    assert OUTPUT in stop.cause
    start = words.say(EventType.HEARTBEAT_START, f"device:{DEVICE}", output_key=key)
    assert (start.state, start.subject) == ("cleared", stop.subject)


def test_a_lost_lease_is_not_a_lost_link(words: Words) -> None:
    name = f"device:{DEVICE}"
    lease = words.say(EventType.DEVICE_DOWN, name, reason=DownReason.LEASE)
    link = words.say(EventType.DEVICE_DOWN, name, reason=DownReason.TIMEOUT)
    assert (lease.priority, link.priority) == ("critical", "high")
    assert lease.subject != link.subject
    assert words.say(EventType.DEVICE_UP, name, reason=DownReason.LEASE).subject == lease.subject
    assert words.say(EventType.DEVICE_UP, name).subject == link.subject
    tty = words.say(EventType.DEVICE_DOWN, name, reason=DownReason.TTY)
    assert tty.guidance


def test_a_watchdog_register_that_differs_is_told(tmp_path: Path) -> None:
    words = Words(tmp_path, watchdog_program())
    wrong = words.say(EventType.TAG_QUALITY, "", slot=0, quality=Quality.BAD, reason=3, value=7.0)
    assert (wrong.state, wrong.source.id) == ("raised", DEVICE)
    assert "reads 7 (out of range)" in wrong.cause
    right = words.say(EventType.TAG_QUALITY, "", slot=0, quality=Quality.GOOD)
    assert (right.state, right.subject) == ("cleared", wrong.subject)
    assert words.say(EventType.TAG_QUALITY, "", slot=1, quality=Quality.BAD) is None


def test_a_swap_says_what_it_changed(tmp_path: Path) -> None:
    old, new = program(), program(armed=False)
    words = Words(tmp_path, new)
    words.programs.add(old)
    draft = words.say(EventType.PROGRAM, old=blob.blob_hash(old)[:16], new=blob.blob_hash(new)[:16])
    assert f"interlock {INTERLOCK} is NOT ARMED any more" in draft.cause


def test_devices_go_down_and_up(words: Words) -> None:
    down = words.say(EventType.DEVICE_DOWN, f"device:{DEVICE}", reason=3, errno=111)
    up = words.say(EventType.DEVICE_UP, f"device:{DEVICE}", down_ns=3_000_000_000)
    assert (down.state, up.state) == ("raised", "cleared")
    assert down.subject == up.subject
    assert "refused" in down.cause
    assert up.cause == "answers again after 3.000 s"


def test_the_guard_and_its_program(words: Words) -> None:
    start = words.say(EventType.GUARD_START, starts=3, clean=0, restored=1, gap_ns=1_204_000_000)
    assert (start.kind, start.priority) == ("guard", "high")
    assert "1.204 s" in start.cause
    assert words.say(EventType.GUARD_START, starts=1).priority == "low"
    for kind in (EventType.OVERRUN, EventType.PAUSE, EventType.FAULT, EventType.LOST):
        draft = words.say(kind, took_ns=1) if kind != EventType.LOST else words.say(kind, first=1)
        assert draft.kind == "guard"
    fields = {"took_ns": 1_200_000_000, "budget_ns": 1_000_000_000}
    long = words.say(EventType.OVERRUN, **fields)
    assert "a scan took 1.200 s, its budget is 1.000 s" in long.cause
    late = words.say(EventType.OVERRUN, flags=EventFlag.LATE, **fields)
    assert late.cause.startswith("the guard looked at nothing for 1.200 s beyond its tick, more")
    assert "real time" in late.guidance
    swap = words.say(EventType.PROGRAM, old=bytes(16), new=b"\xab" * 16, kept=2, changed=1)
    assert (swap.kind, swap.source.id) == ("program", "ab" * 8)


def test_a_refused_command_names_who_and_why(words: Words) -> None:
    draft = words.say(
        EventType.COMMAND, f"interlock:{INTERLOCK}", type=MessageType.RESET,
        code=ResultCode.CAUSE_PRESENT, who=b"uid 1000",
    )  # fmt: skip
    assert draft.kind == "command"
    assert draft.cause == (
        f"reset of {INTERLOCK} by uid 1000 was refused: its cause is still present: '{LEGS[0]}'"
    )
    again = words.say(
        EventType.COMMAND, f"interlock:{INTERLOCK}", type=MessageType.TRIP,
        code=ResultCode.ALREADY, who=b"uid 1000",
    )  # fmt: skip
    assert again.cause == f"trip of {INTERLOCK} by uid 1000 changed nothing: it was so already"


def test_a_gateway_that_was_away_is_told(words: Words) -> None:
    assert words.say(EventType.GATEWAY_UP, down_ns=0) is None
    assert "2.500 s" in words.say(EventType.GATEWAY_UP, down_ns=2_500_000_000).cause


@pytest.mark.parametrize(
    "kind", [EventType.READY, EventType.PENDING, EventType.OUT_TRIP, EventType.TAG_QUALITY]
)
def test_some_records_are_no_alert(words: Words, kind: EventType) -> None:
    assert words.say(kind) is None


def test_every_record_type_can_be_read(words: Words) -> None:
    """Whatever the payload: zeros, ones, NaN in the values."""
    for kind in EventType:
        for name in ("", f"interlock:{INTERLOCK}", f"output:{OUTPUT}", f"device:{DEVICE}"):
            draft = words.say(kind, name)
            assert draft is None or isinstance(draft, AlertDraft)
    odd = words.guard.write(EventType.TRIP, key=blob.key_of("interlock", INTERLOCK))
    for filling in (b"\xff" * 64, b"\x7f" * 64):
        for kind in EventType:
            draft = words.words.draft_of(odd._replace(type=kind, payload=filling))
            if isinstance(draft, AlertDraft) and draft.value is not None:
                assert math.isfinite(draft.value)
    assert words.words.draft_of(odd._replace(type=999)) is None


def test_a_record_of_an_old_program_keeps_its_names(tmp_path: Path) -> None:
    old, new = program(), program(("other.tag",), armed=False)
    (tmp_path / blob.blob_hash(old).hex()).write_bytes(old)
    words = Words(tmp_path, new)
    words.guard.data = old  # the record says which program ran
    draft = words.say(
        EventType.TRIP, f"interlock:{INTERLOCK}", reason=1, legs=TWO_LEGS, slot0=0, value0=1.6
    )
    assert draft.legs[0].value == 1.6
    assert draft.program == blob.blob_hash(old).hex()
    table = words.programs.table(int.from_bytes(blob.blob_hash(old)[:8], "little"))
    assert table is not None
    assert list(table) == [0, 0xFFFFFFFF, 0xFFFFFFFF]


def test_an_unknown_key_is_shown_as_it_is(words: Words) -> None:
    draft = words.say(EventType.TRIP, "interlock:gone", reason=1)
    assert draft.source.id.startswith("interlock-")


def test_a_damaged_blob_on_disk_is_not_believed(tmp_path: Path) -> None:
    data = bytearray(program())
    name = blob.blob_hash(bytes(data)).hex()
    data[-100] ^= 1
    (tmp_path / name).write_bytes(data)
    programs = KnownPrograms(tmp_path, tmp_path / "none", {})
    assert programs.text(int.from_bytes(bytes.fromhex(name)[:8], "little")) is None


def test_the_schema_is_that_of_the_alert() -> None:
    committed = msgspec.json.decode((ROOT / "config/schemas/alert.json").read_bytes())
    made = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Alert)))
    assert {key: committed[key] for key in ("$ref", "$defs")} == made
    assert committed["$schema"].startswith("https://json-schema.org/")
