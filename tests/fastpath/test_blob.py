"""The program blob: laid out, read back, and refused for every rule that it breaks."""

import itertools
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import blob as blobs
from fastpath import codes, program
from fastpath.blob import Program
from fastpath.codes import NONE_U16, NONE_U32, Op
from fastpath.program import BlobRefused, Conditions
from tests.helpers.blobs import (
    MS,
    SECOND,
    conditions,
    guard_program,
    patched,
    sealed,
    wide_program,
)

GOOD = blobs.build(guard_program())
WIDE = blobs.build(wide_program())


def rule_of(blob: bytes) -> int:
    """The rule that a blob breaks, 0: none."""
    try:
        program.verify(blob)
    except BlobRefused as refused:
        return refused.rule
    return 0


def entry_at(number: int) -> int:
    """Where the entry of section ``number`` (from 1) stands in the header."""
    return blobs.HEADER.size + (number - 1) * blobs.SECTION.size


def test_what_the_tests_start_from_is_good() -> None:
    assert rule_of(GOOD) == 0
    assert rule_of(WIDE) == 0
    assert rule_of(blobs.EMPTY) == 0


def test_sections_read_back() -> None:
    built = wide_program()
    for name, _, _ in blobs.SECTIONS:
        assert blobs.section(WIDE, name) == getattr(built, name)
    assert blobs.names(WIDE) == built.names
    assert len(WIDE) % blobs.ALIGNMENT == 0
    with pytest.raises(KeyError):
        blobs.section(WIDE, "nothing")


def test_a_blob_is_a_pure_function() -> None:
    assert blobs.build(guard_program()) == GOOD
    assert blobs.blob_hash(GOOD) == GOOD[blobs.HASH_AT : blobs.HASH_AT + 32]


def test_a_field_that_does_not_fit() -> None:
    built = guard_program()
    built.outputs[0] = replace(built.outputs[0], address=70000)
    with pytest.raises(ValueError, match="outputs"):
        blobs.build(built)
    with pytest.raises(ValueError, match="header"):
        blobs.build(replace(guard_program(), tick_ns=1 << 63))


def test_keys_differ_by_kind_and_id() -> None:
    keys = {blobs.key_of(*pair) for pair in itertools.product(["tag", "output"], ["a", "b"])}
    assert len(keys) == 4
    assert blobs.fingerprint_of(["a", "bc"]) != blobs.fingerprint_of(["ab", "c"])


def test_a_refusal_says_its_rule_for_people() -> None:
    refused = BlobRefused(13)
    assert refused.rule == 13
    assert str(refused) == "program refused by rule 13: an armed interlock has no effect"


# ---- rules 1 and 2: the layout ---------------------------------------------------------------


@pytest.mark.parametrize(
    "blob",
    [b"", b"SWPROG01", GOOD[:-1], GOOD[:-64], GOOD + bytes(64), GOOD[:256],
     GOOD + bytes(codes.BLOB_BYTES_MAX)],
    ids=["nothing", "magic alone", "one byte short", "short", "long", "header alone", "huge"],
)  # fmt: skip
def test_a_blob_of_the_wrong_size(blob: bytes) -> None:
    assert rule_of(blob) == 1
    if len(blob) >= blobs.HEADER_BYTES:
        assert rule_of(sealed(blob)) == 1


@pytest.mark.parametrize(
    ("at", "layout", "value"),
    [(0, "<8s", b"SWPROG02"), (8, "<I", 2), (12, "<I", len(GOOD) + 64), (72, "<B", 0),
     (72, "<B", 3), (73, "<B", 0), (74, "<B", 3), (75, "<B", 13)],
)  # fmt: skip
def test_a_header_that_is_none(at: int, layout: str, value: Any) -> None:
    assert rule_of(patched(GOOD, at, layout, value)) == 1


@pytest.mark.parametrize("at", [16, 47, 48, 300, len(GOOD) - 1])
def test_a_hash_that_does_not_fit(at: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] ^= 1
    assert rule_of(bytes(damaged)) == 1


@pytest.mark.parametrize("number", range(1, blobs.NAMES_ID + 1))
def test_a_section_table_that_lies(number: int) -> None:
    at = entry_at(number)
    ident, record, offset, count = blobs.SECTION.unpack_from(GOOD, at)
    limit = 2**32 - 1
    for lie in [
        (ident + 1, record, offset, count),
        (ident, record + 8, offset, count),
        (ident, record, offset + 64, count),
        (ident, record, offset + 1, count),
        (ident, record, limit - 63, count),
        (ident, record, offset, limit),
        (ident, record, offset, limit // (record + 1)),
    ]:
        assert rule_of(patched(GOOD, at, "<HHII", *lie)) == 2


@pytest.mark.parametrize("at", [entry_at(blobs.NAMES_ID + 1), 255, len(GOOD) - 1])
def test_padding_that_is_not_zero(at: int) -> None:
    assert GOOD[at] == 0
    assert rule_of(patched(GOOD, at, "<B", 1)) == 2


# ---- rules 3 to 14: the program --------------------------------------------------------------

Change = Callable[[Program], None]


def item(section: str, index: int, **fields: Any) -> Change:
    """Change fields of one record."""

    def change(built: Program) -> None:
        records = getattr(built, section)
        records[index] = replace(records[index], **fields)

    return change


def add(section: str, *records: Any) -> Change:
    return lambda built: getattr(built, section).extend(records)


def order(section: str, *indices: int) -> Change:
    def change(built: Program) -> None:
        records = getattr(built, section)
        records[:] = [records[i] for i in indices]

    return change


def header(name: str, value: int) -> Change:
    return lambda built: setattr(built, name, value)


def code(*instructions: tuple[Any, ...]) -> Change:
    """Append instructions (op, a, b, imm)."""

    def change(built: Program) -> None:
        for op, *operands in instructions:
            built.code.append(blobs.Instruction(op, len(built.code), *operands))

    return change


def without_effects(built: Program) -> None:
    built.effects.clear()
    built.interlocks[0] = replace(built.interlocks[0], effects_count=0)


def one_node_for_two(built: Program) -> None:
    built.nodes.append(blobs.Node(2, NONE_U32))
    built.code.append(blobs.Instruction(Op.FOR, ITSELF, TRUTH, 0, 1.0))


def second_interlock(**fields: int) -> Change:
    def change(built: Program) -> None:
        first = built.interlocks[0]
        ranges = {"legs_first": 2, "legs_count": 0, "effects_first": 2, "effects_count": 0}
        built.interlocks.append(replace(first, key=8, flags=0, **{**ranges, **fields}))

    return change


def one_tag_twice(built: Program) -> None:
    built.requests[1] = replace(built.requests[1], decode_count=2)
    built.decode.append(replace(built.decode[1], at=3))


def of_another_device(built: Program) -> None:
    built.devices.append(replace(DEVICE, key=2, port=503))
    built.tags[0] = replace(built.tags[0], device=1)


INF, NAN = float("inf"), float("nan")
NUMBER, TRUTH, FOR, MOON, ITSELF = (
    0,
    2,
    10,
    13,
    14,
)  # registers of guard_program(), and one behind it
COIL = guard_program().outputs[0]
DEVICE = guard_program().devices[0]

BROKEN: list[tuple[int, str, Change]] = [
    (3, "an unknown operation", code((0,))),
    (3, "one of no kind", code((29,))),
    (3, "a window as a truth", code((Op.NOT, ITSELF), (Op.WINDOW, 0))),
    (3, "a number held", code((Op.HOLD, NUMBER, 0, 0.0))),
    (3, "a number voting trip", code((Op.VOTE_TRIP, NONE_U16, NUMBER))),
    (3, "a vote for trip after a truth", code((Op.VOTE_TRIP, TRUTH, TRUTH))),
    (3, "another destination", item("code", 3, dst=4)),
    (3, "itself as operand", code((Op.NOT, ITSELF))),
    (3, "a forward operand", code((Op.ADD, 0, 60000))),
    (3, "a number for a truth", code((Op.AND, TRUTH, NUMBER))),
    (3, "a truth for a number", code((Op.ADD, NUMBER, TRUTH))),
    (3, "a truth compared", code((Op.LT, TRUTH, NUMBER))),
    (3, "a number voting", code((Op.VOTE, NONE_U16, NUMBER))),
    (3, "a vote after a truth", code((Op.VOTE, TRUTH, TRUTH))),
    (3, "M of a truth", code((Op.MOON, TRUTH, 1, 1.0))),
    (3, "quality of a truth", code((Op.IS_BAD, TRUTH))),
    (4, "an infinite constant", code((Op.CONST, 0, 0, INF))),
    (4, "no number anywhere", code((Op.TAG, 0, 0, NAN))),
    (4, "an infinite range", item("tags", 0, high=INF)),
    (4, "a range upside down", item("tags", 0, low=5.0)),
    (4, "negative staleness", item("tags", 0, stale_after_ns=-1)),
    (4, "a staleness of centuries", item("tags", 0, stale_after_ns=2**62)),
    (4, "negative settle of a tag", item("tags", 1, settle_ns=-1)),
    (4, "a negative for", item("nodes", 1, duration_ns=-1)),
    (4, "a negative delay", item("interlocks", 0, delay_ns=-1)),
    (4, "a negative bad_for", item("interlocks", 0, bad_for_ns=-1)),
    (4, "hold without its maximum", item("interlocks", 0, on_bad=2)),
    (4, "a negative effect delay", item("effects", 0, delay_ns=-1)),
    (4, "a limit that is none", item("legs", 0, limit=NAN)),
    (4, "scale zero", item("decode", 0, scale=0.0)),
    (4, "an infinite scale", item("decode", 0, scale=INF)),
    (4, "an offset that is none", item("decode", 1, offset=NAN)),
    (4, "a negative start", header("start_within_ns", -1)),
    (4, "a negative watchdog", item("devices", 0, watchdog_ns=-1)),
    (4, "a negative silence", item("outputs", 0, silence_ns=-1)),
    (5, "tags out of order", item("tags", 1, key=9)),
    (5, "one key twice", item("outputs", 1, key=3)),
    (5, "a tag twice", item("tags", 1, key=10)),
    (5, "an interlock twice", add("interlocks", guard_program().interlocks[0])),
    (5, "a group twice", add("groups", blobs.Group(5, 1))),
    (5, "a device twice", add("devices", DEVICE)),
    (6, "a tag that is not there", code((Op.TAG, 3))),
    (6, "an owner that is none", item("tags", 2, owner=0)),
    (6, "a guard's tag without device", item("tags", 0, device=NONE_U16)),
    (6, "a tag of device 1", item("tags", 2, device=1)),
    (6, "a system tag that means nothing", item("tags", 2, system=0)),
    (6, "a connection without device", item("tags", 2, device=NONE_U16)),
    (6, "a record mode that is none", item("tags", 0, record=4)),
    (6, "an unknown flag of a tag", item("tags", 0, flags=32)),
    (6, "a node that is not there", code((Op.FOR, TRUTH, 0, 2.0))),
    (6, "half a node", code((Op.FOR, TRUTH, 0, 0.5))),
    (6, "a node and a half", item("code", FOR, imm=1.5)),
    (6, "a negative node", code((Op.FOR, TRUTH, 0, -1.0))),
    (6, "a node twice", code((Op.FOR, TRUTH, 0, 1.0))),
    (6, "a node twice beside one that nothing uses", one_node_for_two),
    (6, "a node of another kind", item("nodes", 0, kind=2)),
    (6, "a node that nothing uses", add("nodes", blobs.Node(1, NONE_U32))),
    (6, "a node of interlock 1", item("nodes", 0, interlock=1)),
    (6, "a cause that is a number", item("interlocks", 0, cause=NUMBER)),
    (6, "a cause that is not there", item("interlocks", 0, cause=99)),
    (6, "no cause", item("interlocks", 0, cause=NONE_U32)),
    (6, "a permissive that is a number", item("interlocks", 0, permissive=NUMBER)),
    (6, "a group that is not there", item("interlocks", 0, group=1)),
    (6, "on_bad that is none", item("interlocks", 0, on_bad=0)),
    (6, "an unknown flag of an interlock", item("interlocks", 0, flags=16 | 2)),
    (6, "legs of another", item("legs", 1, interlock=1)),
    (6, "legs left over", item("interlocks", 0, legs_count=1)),
    (6, "more legs than there are", item("interlocks", 0, legs_count=3)),
    (6, "legs far away", item("interlocks", 0, legs_first=NONE_U32)),
    (6, "a leg that is a number", item("legs", 0, register=NUMBER)),
    (6, "a leg of tag 3", item("legs", 0, slot=3)),
    (6, "effects that wrap around", item("interlocks", 0, effects_count=NONE_U32)),
    (6, "effects of a second that wrap around", second_interlock(effects_count=2**32 - 2)),
    (6, "an effect on output 2", item("effects", 1, output=2)),
    (6, "an effect of another", item("effects", 1, interlock=1)),
    (6, "an output by the gateway to a device", item("outputs", 0, path=2)),
    (6, "an output by nothing", item("outputs", 0, path=0)),
    (6, "an output by what comes later", item("outputs", 0, path=3)),
    (6, "an output of no device", item("outputs", 0, device=NONE_U32)),
    (6, "an output of device 1", item("outputs", 0, device=1)),
    (6, "an output of no kind", item("outputs", 0, kind=3)),
    (6, "a coil of 2", item("outputs", 0, trip=2)),
    (6, "a read-back of tag 3", item("outputs", 0, readback=3)),
    (6, "an unknown flag of an output", item("outputs", 0, flags=4 | 1)),
    (6, "a serial line", item("devices", 0, kind=2)),
    (6, "no port", item("devices", 0, port=0)),
    (6, "a tty", item("devices", 0, tty=0)),
    (6, "an unknown flag of a device", item("devices", 0, flags=8 | 1)),
    (6, "a lease without its flag", item("devices", 0, lease_address=1)),
    (6, "a time of no lease", item("devices", 0, lease_ns=SECOND)),
    (6, "a baud rate over TCP", item("devices", 0, baud=9600)),
    (6, "a direction over TCP", item("devices", 0, flags=4 | 1)),
    (6, "a hold that is an until", code((Op.HOLD, TRUTH, 0, 0.0))),
    (6, "a request of device 1", item("requests", 0, device=1)),
    (6, "points of another request", item("decode", 1, request=0)),
    (6, "a request without its points", item("requests", 1, decode_count=0)),
    (6, "points far away", item("requests", 1, decode_first=NONE_U32)),
    (6, "more points than there are", item("requests", 1, decode_count=NONE_U32)),
    (6, "a point of tag 3", item("decode", 1, slot=3)),
    (6, "an order that is none", item("decode", 0, order=0)),
    (6, "bit 16", item("decode", 0, bit=16)),
    (7, "one tag twice", item("decode", 1, slot=0)),
    (7, "one tag twice and no other missing", one_tag_twice),
    (7, "a tag decoded from another device", of_another_device),
    (7, "a system tag decoded", item("decode", 1, slot=2)),
    (7, "a gateway's tag decoded", item("tags", 1, owner=2)),
    (7, "a guard's tag that nobody reads", item("tags", 2, owner=1)),
    (8, "none of one", item("code", MOON, b=0)),
    (8, "two of one", item("code", MOON, b=2)),
    (8, "one of another number", item("code", MOON, imm=2.0)),
    (9, "a fallback on itself", add("fallbacks", blobs.Fallback(0, 0))),
    (9, "a circle", add("fallbacks", blobs.Fallback(0, 1), blobs.Fallback(1, 0))),
    (9, "a fallback that is not there", add("fallbacks", blobs.Fallback(0, 2))),
    (10, "two outputs on one coil", item("outputs", 1, address=16)),
    (11, "function 5", item("requests", 0, function=5)),
    (11, "function 0", item("requests", 0, function=0)),
    (11, "nothing to read", item("requests", 0, count=0)),
    (11, "126 registers", item("requests", 0, count=126)),
    (11, "2,001 bits", item("requests", 1, count=2001)),
    (11, "addresses past the end", item("requests", 0, address=65533)),
    (11, "a point past its request", item("decode", 0, at=3)),
    (11, "a bit past its request", item("decode", 1, at=8)),
    (11, "a bit of registers", item("decode", 0, type=1)),
    (11, "a number of coils", item("decode", 1, type=4)),
    (11, "a type that is none", item("decode", 0, type=11)),
    (12, "normal that trips", item("outputs", 0, normal=0)),
    (13, "armed without effect", without_effects),
    (14, "a timeout of 9 ms", item("devices", 0, timeout_ns=9 * MS)),
    (14, "a timeout of 11 s", item("devices", 0, connect_timeout_ns=11 * SECOND)),
    (14, "a poll of 4 ms", item("requests", 0, period_ns=4 * MS)),
    (14, "a heartbeat of 0 ms", item("devices", 0, every_ns=0)),
    (14, "no tick", header("tick_ns", 0)),
    (14, "a tick of minutes", header("tick_ns", 60 * SECOND)),
    (14, "no time to confirm", item("outputs", 0, confirm_ns=0)),
    (14, "re-asserting without a pause", item("outputs", 0, reassert_ns=0)),
]


def test_the_registers_that_the_broken_programs_mean() -> None:
    ops = [instruction.op for instruction in guard_program().code]
    assert [ops[i] for i in (NUMBER, TRUTH, FOR, MOON)] == [Op.TAG, Op.GE, Op.FOR, Op.MOON]
    assert len(ops) == ITSELF


@pytest.mark.parametrize(
    ("rule", "change"),
    [(rule, change) for rule, _, change in BROKEN],
    ids=[name for _, name, _ in BROKEN],
)
def test_a_program_that_breaks_a_rule(rule: int, change: Change) -> None:
    built = guard_program()
    change(built)
    assert rule_of(blobs.build(built)) == rule


def test_two_interlocks_share_nothing_by_accident() -> None:
    built = guard_program()
    second_interlock()(built)
    assert rule_of(blobs.build(built)) == 0


def heartbeat(address: int) -> Program:
    built = guard_program()
    built.outputs[0] = replace(COIL, kind=2, address=91, trip=5, normal=6)
    built.devices[0] = replace(DEVICE, heartbeat_address=address)
    return built


@pytest.mark.parametrize(("address", "rule"), [(89, 0), (90, 10), (91, 10), (92, 0), (65535, 10)])
def test_a_heartbeat_owns_two_registers(address: int, rule: int) -> None:
    assert rule_of(blobs.build(heartbeat(address))) == rule


def test_a_coil_may_have_the_number_of_a_register() -> None:
    built = heartbeat(100)
    built.outputs[1] = replace(built.outputs[1], address=91)
    assert rule_of(blobs.build(built)) == 0


@pytest.mark.parametrize(
    ("fields", "rule"),
    [({}, 10), ({"heartbeat_address": 91}, 10), ({"heartbeat_address": 92}, 0),
     ({"heartbeat_address": 89}, 10), ({"heartbeat_address": 88}, 0), ({"unit": 2}, 0),
     ({"port": 503}, 0), ({"address": bytes(15) + b"\1"}, 0), ({"flags": 0}, 0)],
)  # fmt: skip
def test_one_server_listed_twice(fields: dict[str, Any], rule: int) -> None:
    built = guard_program()
    built.devices.append(replace(DEVICE, key=2, **fields))
    assert rule_of(blobs.build(built)) == rule


@pytest.mark.parametrize(("depth", "rule"), [(4, 0), (5, 9)])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_chain_of_fallbacks(depth: int, rule: int, backwards: bool) -> None:
    built = guard_program()
    built.outputs += [replace(COIL, key=10 + i, address=100 + i) for i in range(depth)]
    chain = [blobs.Fallback(i, i + 1) for i in range(1, depth + 1)]
    built.fallbacks = chain[::-1] if backwards else chain
    assert rule_of(blobs.build(built)) == rule


@pytest.mark.parametrize(("votes", "rule"), [(32, 0), (33, 8)])
def test_at_most_32_votes(votes: int, rule: int) -> None:
    code = conditions(0)
    code.moon(1, [code.op(Op.TRUE)] * votes)
    assert rule_of(blobs.build(code.program)) == rule


@pytest.mark.parametrize(("legs", "rule"), [(32, 0), (33, 6)])
def test_at_most_32_legs(legs: int, rule: int) -> None:
    built = guard_program()
    built.legs = [blobs.Leg(0, TRUTH)] * legs
    built.interlocks[0] = replace(built.interlocks[0], legs_count=legs)
    assert rule_of(blobs.build(built)) == rule


@pytest.mark.parametrize(
    ("section", "most", "records"),
    [
        ("tags", codes.TAGS_MAX, lambda n: [blobs.Tag(i, owner=2) for i in range(n)]),
        ("groups", codes.GROUPS_MAX, lambda n: [blobs.Group(i, 1) for i in range(n)]),
        ("devices", codes.DEVICES_MAX,
         lambda n: [replace(DEVICE, key=i, port=i + 1) for i in range(n)]),
        ("outputs", codes.OUTPUTS_MAX,
         lambda n: [replace(COIL, key=i, address=i, readback=NONE_U32) for i in range(n)]),
    ],
)  # fmt: skip
def test_as_many_as_there_may_be(
    section: str, most: int, records: Callable[[int], Iterable[Any]]
) -> None:
    built = conditions(0).program
    built.devices = [DEVICE]
    setattr(built, section, list(records(most)))
    assert rule_of(blobs.build(built)) == 0
    setattr(built, section, list(records(most + 1)))
    assert rule_of(blobs.build(built)) == 2


def test_as_many_instructions_as_there_may_be() -> None:
    built = conditions(0).program
    built.code = [blobs.Instruction(Op.TRUE, i) for i in range(codes.CODE_MAX)]
    blob = blobs.build(built)
    assert rule_of(blob) == 0
    Conditions(blob).evaluate(1)
    built.code.append(blobs.Instruction(Op.TRUE, 0))
    assert rule_of(blobs.build(built)) == 2


# ---- windows, serial lines, leases, outputs through the gateway ------------------------------

SERIAL = wide_program().devices[1]


def lease_on_an_output(built: Program) -> None:
    built.outputs[1] = replace(built.outputs[1], kind=2, address=202)


WIDE_BROKEN: list[tuple[int, str, Change]] = [
    (3, "a window that is not in place", item("code", 14, dst=15)),
    (4, "a window of no time", item("windows", 0, span_ns=0)),
    (4, "a window of less than its buckets", item("windows", 0, span_ns=63)),
    (4, "a window of negative time", item("windows", 0, span_ns=-SECOND)),
    (4, "a window of an interlock beyond ten minutes", item("windows", 0, span_ns=601 * SECOND)),
    (4, "a negative hold", item("nodes", 2, duration_ns=-1)),
    (4, "a negative lease", item("devices", 0, lease_ns=-1)),
    (4, "a negative heartbeat", item("devices", 1, every_ns=-1)),
    (6, "a window of no kind", item("windows", 0, kind=0)),
    (6, "a window of a later kind", item("windows", 0, kind=7)),
    (6, "a window of tag 5", item("windows", 0, slot=5)),
    (6, "a window of interlock 1", item("windows", 0, interlock=1)),
    (6, "a window that nothing uses", add("windows", blobs.Window(1, 0, SECOND, 0))),
    (6, "a window that is not there", code((Op.WINDOW, 1))),
    (6, "a window twice", code((Op.WINDOW, 0))),
    (6, "a hold of a node that is a for", item("nodes", 2, kind=2)),
    (6, "a node of two holds", code((Op.HOLD, TRUTH, 0, 2.0))),
    (6, "a watchdog's register of any value", item("tags", 4, flags=16)),
    (6, "a watchdog's register that the gateway feeds", item("tags", 4, owner=2)),
    (6, "a serial line with a port", item("devices", 1, port=502)),
    (6, "a serial line with an address", item("devices", 1, address=bytes(15) + b"\1")),
    (6, "a serial line without its tty", item("devices", 1, tty=NONE_U32)),
    (6, "a tty that the names do not have", item("devices", 1, tty=1)),
    (6, "a tty beyond all devices", item("devices", 1, tty=2)),
    (6, "a baud rate that is none", item("devices", 1, baud=9601)),
    (6, "no baud rate", item("devices", 1, baud=0)),
    (6, "seven bits", item("devices", 1, data_bits=7)),
    (6, "a parity that is none", item("devices", 1, parity=3)),
    (6, "no stop bit", item("devices", 1, stop_bits=0)),
    (6, "three stop bits", item("devices", 1, stop_bits=3)),
    (6, "a broadcast as unit", item("devices", 1, unit=0)),
    (6, "a unit beyond a bus", item("devices", 1, unit=248)),
    (6, "an output that is a broadcast", item("outputs", 2, unit=0)),
    (11, "a request to all", item("requests", 2, unit=0)),
    (11, "a request to unit 248", item("requests", 2, unit=248)),
    (9, "a fallback that leads back", add("fallbacks", blobs.Fallback(3, 0))),
    (10, "a lease past the end", item("devices", 0, lease_address=65534)),
    (10, "a lease on its heartbeat", item("devices", 0, lease_address=88)),
    (10, "a lease on an output", lease_on_an_output),
    (6, "a lease over a serial line", item("devices", 1, flags=7, lease_ns=SECOND)),
    (6, "a lease that nothing refreshes", item("devices", 0, flags=2)),
    (14, "a lease as short as its heartbeat", item("devices", 0, lease_ns=999 * MS)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "change"),
    [(rule, change) for rule, _, change in WIDE_BROKEN],
    ids=[name for _, name, _ in WIDE_BROKEN],
)
def test_a_wider_program_that_breaks_a_rule(rule: int, change: Change) -> None:
    built = wide_program()
    change(built)
    assert rule_of(blobs.build(built)) == rule


@pytest.mark.parametrize(
    "change",
    [
        item("windows", 0, span_ns=600 * SECOND),
        item("windows", 0, span_ns=86_400 * SECOND, interlock=NONE_U32),
        item("devices", 1, stop_bits=2, parity=0, baud=115200),
        item("devices", 0, flags=1, lease_address=0, lease_ns=0),
        item("devices", 0, lease_address=92),
        item("devices", 0, lease_address=87),
        item("outputs", 3, kind=2, trip=0, normal=9),
        item("tags", 4, low=0.0),
    ],
    ids=["ten minutes", "a day of no interlock", "another line", "no lease", "a lease behind",
         "a lease before", "a register by the gateway", "a range of values"],
)  # fmt: skip
def test_a_wider_program_that_is_good(change: Change) -> None:
    built = wide_program()
    change(built)
    assert rule_of(blobs.build(built)) == 0


@pytest.mark.parametrize(
    ("fields", "rule"),
    [({"unit": 4}, 0), ({}, 10), ({"unit": 4, "baud": 19200}, 6), ({"unit": 4, "parity": 0}, 6),
     ({"unit": 4, "stop_bits": 2}, 6), ({"unit": 4, "flags": 1}, 6),
     ({"tty": 1, "baud": 19200}, 0), ({"flags": 4}, 0)],
    ids=["another unit", "the same", "baud", "parity", "stop bits", "no RS-485", "another bus",
         "the same without registers of its own"],
)  # fmt: skip
def test_two_devices_on_one_bus(fields: dict[str, Any], rule: int) -> None:
    built = wide_program()
    built.names["ttys"].append("/dev/ttyS1")
    built.devices.append(replace(SERIAL, key=3, **fields))
    assert rule_of(blobs.build(built)) == rule


@pytest.mark.parametrize(
    ("names", "rule"),
    [({}, 6), ({"ttys": []}, 6), ({"ttys": [""]}, 6), ({"ttys": ["ttyS0"]}, 6),
     ({"ttys": ["/dev/tty\0S0"]}, 6), ({"ttys": ["/" + 255 * "x"]}, 6), ({"ttys": [7]}, 6),
     ({"ttys": "/"}, 6), ({"ttys": ["/dev/a", "/dev/a"]}, 6), ({"ttys": ["/dev/a", "/dev/b"]}, 0)],
)  # fmt: skip
def test_the_names_of_serial_lines(names: Any, rule: int) -> None:
    built = wide_program()
    built.names = names
    assert rule_of(blobs.build(built)) == rule


def test_names_that_are_none_are_read_only_where_a_serial_line_needs_them() -> None:
    for whole, rule in ((GOOD, 0), (WIDE, 6)):
        *_, offset, count = blobs.SECTION.unpack_from(whole, entry_at(blobs.NAMES_ID))
        assert rule_of(patched(whole, offset, f"{count}s", count * b"[")) == rule


@pytest.mark.parametrize("vote", [Op.VOTE, Op.VOTE_TRIP])
def test_votes_for_a_trip_count_like_others(vote: Op) -> None:
    for votes, rule in ((32, 0), (33, 8)):
        code = conditions(0)
        code.moon(1, [code.op(Op.TRUE)] * votes, vote=vote)
        assert rule_of(blobs.build(code.program)) == rule


def test_records_keep_their_padding_zero() -> None:
    """A later version's field would stand there: a guard that does not know it refuses."""
    padding = {"tags": 56, "nodes": 24, "windows": 20, "interlocks": 104, "legs": 12,
               "outputs": 50, "groups": 12, "devices": 101, "requests": 12}  # fmt: skip
    for number, (name, _, _) in enumerate(blobs.SECTIONS, start=1):
        *_, record, offset, count = blobs.SECTION.unpack_from(WIDE, entry_at(number))
        if name in padding:
            for at in (offset + padding[name], offset + (count - 1) * record + padding[name]):
                assert rule_of(patched(WIDE, at, "<B", 1)) == 2, name


def test_as_many_windows_as_there_may_be() -> None:
    code = conditions(1)
    for _ in range(codes.WINDOWS_MAX):
        code.window(codes.WindowKind.MEAN, 0, SECOND)
    assert rule_of(blobs.build(code.program)) == 0
    code.window(codes.WindowKind.MEAN, 0, SECOND)
    assert rule_of(blobs.build(code.program)) == 2


# ---- damage ----------------------------------------------------------------------------------


def run(blob: bytes) -> None:
    """What passes the rules must also run, whatever it computes."""
    runs = Conditions(blob)
    for scan in range(3):
        for slot in range(len(blobs.section(blob, "tags"))):
            runs.write(slot, float(slot + scan), 2, 0, scan)
        runs.evaluate(scan * SECOND)


def test_every_flipped_bit_is_refused_by_the_hash() -> None:
    damaged = bytearray(GOOD)
    for at, bit in itertools.product(range(len(GOOD)), range(8)):
        damaged[at] ^= 1 << bit
        assert rule_of(bytes(damaged)) == 1
        damaged[at] ^= 1 << bit


@pytest.mark.parametrize("whole", [GOOD, WIDE], ids=["small", "wide"])
def test_every_flipped_bit_under_a_good_hash_is_refused_or_runs(whole: bytes) -> None:
    """Damage that hides behind its hash never leads outside the tables."""
    verdicts = set()
    for at, bit in itertools.product(range(len(whole)), range(8)):
        if blobs.HASH_AT <= at < blobs.HASH_AT + 32:
            continue
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        blob = sealed(damaged)
        rule = rule_of(blob)
        verdicts.add(rule)
        if rule == 0:
            run(blob)
    assert verdicts >= {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 14}


def test_random_damage_under_a_good_hash_is_refused_or_runs() -> None:
    chance = random.Random(20)
    interesting = [0, 1, 2, 0x7F, 0x80, 0xFF]
    for _ in range(20_000):
        damaged = bytearray(chance.choice([GOOD, WIDE]))
        for _ in range(chance.randint(1, 12)):
            at = chance.randrange(48, len(damaged))
            damaged[at] = chance.choice([*interesting, chance.randrange(256)])
        blob = sealed(damaged)
        if rule_of(blob) == 0:
            run(blob)


@settings(max_examples=300)
@given(st.binary(max_size=2000))
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    assert rule_of(data) == 1
    framed = bytearray(b"SWPROG01" + struct.pack("<II", 1, 0) + bytes(240) + data)
    framed += bytes(-len(framed) % 64)
    struct.pack_into("<I", framed, 12, len(framed))
    assert rule_of(sealed(framed)) in {1, 2}
