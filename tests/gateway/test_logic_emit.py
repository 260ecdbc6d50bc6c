"""What conditions become: windows, nodes and votes of a program."""

from fastpath import blob
from fastpath.codes import NodeKind, Op, WindowKind
from gateway.logic.emit import Emitter, lead_of, legs_of
from gateway.logic.parse import parse
from gateway.logic.tree import WINDOWS

SLOTS = {name: slot for slot, name in enumerate("abcdxyz")}
SECOND = 1_000_000_000


def emitted(text: str, *, votes_trip: bool = False) -> Emitter:
    emitter = Emitter(SLOTS)
    emitter.begin("one", 7)
    emitter.cause(parse(text), votes_trip=votes_trip)
    return emitter


def ops(emitter: Emitter) -> list[Op]:
    return [Op(ins.op) for ins in emitter.code]


def test_each_window_is_its_kind_with_slot_and_span() -> None:
    for name in WINDOWS:
        emitter = emitted(f"{name}(y, 10s) > 5")
        (window,) = emitter.windows
        assert window.kind == WindowKind[name.upper()]
        assert (window.slot, window.span_ns, window.interlock) == (SLOTS["y"], 10 * SECOND, 7)
        assert ops(emitter) == [Op.WINDOW, Op.CONST, Op.GT]
        assert emitter.code[0].a == 0


def test_the_same_window_is_kept_once_by_an_owner_and_never_by_two() -> None:
    emitter = emitted("(mean(x, 1m) >= 5 until < mean(x, 60s) - 2) or mean(x, 2m) > 1")
    assert [window.span_ns // SECOND for window in emitter.windows] == [60, 120]
    assert ops(emitter).count(Op.WINDOW) == 2
    emitter.begin("two", 8)
    emitter.cause(parse("mean(x, 1m) > 5"))
    assert [window.interlock for window in emitter.windows] == [7, 7, 8]
    assert len({window.key for window in emitter.windows}) == 3
    assert [ins.a for ins in emitter.code if ins.op == Op.WINDOW] == [0, 1, 2]


def test_keys_of_windows_depend_on_the_owner_and_their_order_alone() -> None:
    first, second = emitted("mean(x, 1m) > 5"), emitted("rate(y, 2m) > 5")
    assert first.windows[0].key == second.windows[0].key == blob.key_of("window", "one:0")


def test_hold_has_a_node_of_its_own() -> None:
    emitter = emitted("(a hold 2s) and (a hold 2s) and (a for 3s)")
    found = [(node.kind, node.duration_ns // SECOND) for node in emitter.nodes]
    assert found == [(NodeKind.HOLD, 2), (NodeKind.HOLD, 2), (NodeKind.FOR, 3)]
    assert ops(emitter).count(Op.HOLD) == 2
    assert [ins.imm for ins in emitter.code if ins.op in (Op.HOLD, Op.FOR)] == [0.0, 1.0, 2.0]


def test_a_bypassed_vote_trips_only_where_votes_lead_to_a_trip() -> None:
    assert Op.VOTE_TRIP not in ops(emitted("2oo3(a, b, c)"))
    assert Op.VOTE not in ops(emitted("2oo3(a, b, c) for 2s", votes_trip=True))
    assert Op.VOTE_TRIP not in ops(emitted("not 2oo3(a, b, c)", votes_trip=True))
    assert Op.VOTE not in ops(emitted("not not 2oo3(a, b, c)", votes_trip=True))
    both = ops(emitted("2oo2(a, b) or not 2oo2(c, d)", votes_trip=True))
    assert (both.count(Op.VOTE_TRIP), both.count(Op.VOTE)) == (2, 2)


def test_a_permissive_never_counts_a_bypassed_vote() -> None:
    emitter = emitted("a", votes_trip=True)
    emitter.truth(parse("2oo2(a, b)"))
    assert Op.VOTE_TRIP not in ops(emitter)


def test_legs_are_led_by_the_tag_that_is_compared() -> None:
    (first, second) = legs_of(parse("(mean(x, 60s) >= 5 until < 4 hold 10s) or (y > 3 hold 2s)"))
    assert (lead_of(first).tag, lead_of(first).limit) == ("x", 5.0)
    assert (lead_of(second).tag, lead_of(second).limit) == ("y", 3.0)
