"""Conditions in plain Python: what a tree means, scan by scan, told by the tree alone.

Part of the reference (``reference``): written for reading, never run on site. A number is a float,
BAD or ABSTAINS. A truth is two bits, with every unknown taken for false and for true, or ABSTAINS.
Trees are those of ``gateway.logic.tree``, known here by the names of their classes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from fastpath.codes import Quality, Reason, Truth
from fastpath.reference_windows import Scale, Window

Node = Any  # gateway.logic.tree.Expr


class Mark(Enum):
    """What stands for a number or a truth that is none."""

    BAD = "bad"
    ABSTAINS = "abstains"


BAD: Final = Mark.BAD
ABSTAINS: Final = Mark.ABSTAINS
Number = float | Mark
Runs = tuple[bool, bool]
Result = Runs | Mark
UNKNOWN: Final = (False, True)

COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
ARITHMETIC: Final[Mapping[str, Callable[[float, float], float]]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else math.nan,
}


def code_of(result: Result) -> Truth:
    """codes.Truth of a result."""
    if isinstance(result, Mark):
        return Truth.ABSTAIN
    if result[0] != result[1]:
        return Truth.UNKNOWN
    return Truth.TRUE if result[0] else Truth.FALSE


def kind_of(node: Node) -> str:
    """Compare, And, TagRef ..."""
    return type(node).__name__


def below(node: Node) -> tuple[Node, ...]:
    """The nodes right below, left to right."""
    return tuple(node.operands)


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, from the root down, left to right."""
    yield node
    for each in below(node):
        yield from walk(each)


def tags_of(node: Node) -> set[str]:
    """The tags that a tree reads."""
    return {each.id for each in walk(node) if kind_of(each) == "TagRef"}


def towards_trip(node: Node, *, up: bool = True) -> Iterator[Node]:
    """The votes that push the whole the way they are cast: below no ``not``, or an even number."""
    if kind_of(node) == "Vote" and up:
        yield node
    for each in below(node):
        yield from towards_trip(each, up=up != (kind_of(node) == "Not"))


def shape_of(node: Node) -> tuple[Any, ...]:
    """What makes two trees the same condition: everything but their places in a text."""
    own = [getattr(node, name, None) for name in ("value", "id", "op", "name", "bad")]
    spans = [getattr(node, name, None) for name in ("needed", "duration_ns", "span_ns")]
    return (kind_of(node), *own, *spans, *map(shape_of, below(node)))


@dataclass(slots=True)
class Reading:
    """What is known of a tag: its newest sample, and whether a bypass makes it abstain."""

    value: float = 0.0
    quality: int = Quality.BAD
    reason: int = Reason.NEVER_READ
    mono_ns: int = 0
    stale_after_ns: int = 0  # 0: never goes stale
    uncertain_use: bool = False
    ends: tuple[float, float] | None = None  # its range
    bypassed: bool = False

    @property
    def scale(self) -> Scale:
        """What its windows need to know."""
        return Scale(self.stale_after_ns, self.ends)

    @property
    def never_read(self) -> bool:
        """Nothing came yet, good or bad."""
        return self.quality == Quality.BAD and self.reason == Reason.NEVER_READ

    def good(self) -> bool:
        """GOOD, or UNCERTAIN where that may be used; a number."""
        good = self.quality == Quality.GOOD
        if self.quality == Quality.UNCERTAIN and self.uncertain_use:
            good = True
        return good and math.isfinite(self.value)

    def usable(self, now_ns: int) -> bool:
        """Good and fresh."""
        fresh = not self.stale_after_ns or now_ns - self.mono_ns <= self.stale_after_ns
        return fresh and self.good()


@dataclass(frozen=True, slots=True)
class Start:
    """How long ago the guard or its program began, and what it gives its inputs to be read."""

    age_ns: int
    within_ns: int

    def excuses(self, span_ns: int = 0) -> bool:
        """What was not read yet; a window of that span, what is not covered."""
        return self.age_ns < max(self.within_ns, span_ns)


@dataclass(slots=True)
class Memory:
    """What one ``until``, ``for`` or ``hold`` remembers; a new one has an innocent past.

    One value per run: with unknown taken for false, and for true.
    """

    state: list[bool] = field(default_factory=lambda: [False, False])  # until
    since: list[int | None] = field(default_factory=lambda: [None, None])  # for, hold
    lost: bool = False  # a hold that may have been on right before

    def lose(self) -> None:
        """The past may have been anything: unknown until the input decides."""
        self.state = [False, True]
        self.since = [None, -(2**62)]
        self.lost = True


@dataclass(slots=True)
class Condition:
    """One cause or permissive with its memory; ``truths`` has the newest result of each node."""

    tree: Node
    bypass_votes_trip: bool = False  # a vote that abstains counts as true, else it is left out
    memory: dict[int, Memory] = field(default_factory=dict)  # by the node's place in ``walk``
    windows: dict[int, Window] = field(default_factory=dict)  # likewise
    truths: dict[int, Result] = field(default_factory=dict)  # by id of the node
    result: Result = UNKNOWN
    starting: bool = False
    _places: dict[int, int] = field(default_factory=dict)
    _window_tags: dict[int, str] = field(default_factory=dict)
    _trips: set[int] = field(default_factory=set)  # votes in which what abstains counts as true

    def __post_init__(self) -> None:
        if self.bypass_votes_trip:
            self._trips = {id(each) for each in towards_trip(self.tree)}
        for place, node in enumerate(walk(self.tree)):
            self._places[id(node)] = place
            if kind_of(node) in ("Until", "For", "Hold"):
                self.memory[place] = Memory()
            elif kind_of(node) == "Window":
                self.windows[place] = Window(node.name, node.span_ns)
                self._window_tags[place] = node.tag.id

    def take(self, tag: str, at_ns: int, value: float | None) -> None:
        """A sample of a tag, None where it is bad: for the windows over it."""
        for place, window in self.windows.items():
            if self._window_tags[place] == tag:
                window.take(at_ns, value)

    def restart(self) -> None:
        """A new process: windows hold nothing over the gap."""
        for window in self.windows.values():
            window.restart()

    def lose(self) -> None:
        """What it remembered is lost or damaged."""
        for memory in self.memory.values():
            memory.lose()

    def empty(self) -> None:
        """Its windows begin anew."""
        for window in self.windows.values():
            window.samples.clear()

    def evaluate(self, tags: Mapping[str, Reading], now_ns: int, start: Start) -> None:
        """One scan."""
        longest_ns = max((each.span_ns for each in self.windows.values()), default=0)
        scan = _Scan(self, tags, now_ns, start, may_wait=start.excuses(longest_ns))
        self.result = scan.truth(self.tree)
        self.starting = scan.starting(self.tree)

    def leg(self, node: Node) -> Truth:
        """Truth of a part at the newest scan; unknown before the first."""
        return code_of(self.truths.get(id(node), UNKNOWN))

    def memory_of(self, node: Node) -> Memory:
        """The memory of a node of this tree."""
        return self.memory[self._places[id(node)]]

    def votes_trip(self, vote: Node) -> bool:
        """What abstains counts as true in this one."""
        return id(vote) in self._trips

    def window_of(self, node: Node) -> Window:
        """A window of this tree."""
        return self.windows[self._places[id(node)]]


@dataclass(slots=True)
class _Scan:
    """One evaluation of one condition."""

    condition: Condition
    tags: Mapping[str, Reading]
    now_ns: int
    start: Start
    may_wait: bool

    def starting(self, node: Node) -> bool:
        """An input below was not read yet, and is excused for that; what abstains does not wait."""
        if not self.may_wait:
            return False
        if kind_of(node) == "TagRef":
            reading = self.tags[node.id]
            return not reading.bypassed and reading.never_read and self.start.excuses()
        if kind_of(node) == "Window":
            return self._uncovered(node) and self.start.excuses(node.span_ns)
        if self._abstains(node):
            return False
        return any(map(self.starting, below(node)))

    def _uncovered(self, node: Node) -> bool:
        """What is covered is known, though it may be no number."""
        reading = self.tags[node.tag.id]
        window = self.condition.window_of(node)
        return not reading.bypassed and window.number(reading.scale, self.now_ns) is None

    def _abstains(self, node: Node) -> bool:
        if id(node) in self.condition.truths:
            return isinstance(self.condition.truths[id(node)], Mark)
        return self.number(node) is ABSTAINS

    # ---- numbers

    def number(self, node: Node) -> Number:
        if kind_of(node) == "Number":
            return float(node.value)
        if kind_of(node) == "TagRef":
            reading = self.tags[node.id]
            if reading.bypassed:
                return ABSTAINS
            return reading.value if reading.usable(self.now_ns) else BAD
        if kind_of(node) == "Window":
            return self._window(node)
        operands = [self.number(each) for each in below(node)]
        if ABSTAINS in operands:
            return ABSTAINS
        known = [each for each in operands if isinstance(each, float)]
        if len(known) < len(operands):
            return BAD
        value = _calculated(node, known)
        return value if math.isfinite(value) else BAD

    def _window(self, node: Node) -> Number:
        reading = self.tags[node.tag.id]
        if reading.bypassed:
            return ABSTAINS
        value = self.condition.window_of(node).number(reading.scale, self.now_ns)
        return BAD if value is None or not math.isfinite(value) else value

    # ---- truths

    def truth(self, node: Node) -> Result:
        result = self._truth(node)
        self.condition.truths[id(node)] = result
        return result

    def _truth(self, node: Node) -> Result:
        match kind_of(node):
            case "Compare":
                return self._compared(node.op, node.left, node.right)
            case "Quality":
                return self._quality(node)
            case "Until":
                return self._until(node)
            case "Not" | "For" | "Hold":
                inner = self.truth(below(node)[0])
                return ABSTAINS if isinstance(inner, Mark) else self._single(node, inner)
            case "And" | "Or":
                votes = [each for each in map(self.truth, below(node)) if not _abstains(each)]
                return _joined(kind_of(node), votes) if votes else ABSTAINS
            case "Vote":
                return self._vote(node)
        return self._switch(node)

    def _switch(self, node: Node) -> Result:
        """A boolean tag, as it is."""
        value = self.number(node)
        if isinstance(value, Mark):
            return ABSTAINS if value is ABSTAINS else UNKNOWN
        return (value != 0, value != 0)

    def _compared(self, op: str, left: Node, right: Node) -> Result:
        a, b = self.number(left), self.number(right)
        if ABSTAINS in (a, b):
            return ABSTAINS
        if isinstance(a, Mark) or isinstance(b, Mark):
            return UNKNOWN
        result = COMPARE[op](a, b)
        return (result, result)

    def _quality(self, node: Node) -> Result:
        value = self.number(node.operand)
        if value is ABSTAINS:
            return ABSTAINS
        if self.starting(node.operand):
            return UNKNOWN
        known = (value is BAD) == node.bad
        return (known, known)

    def _vote(self, node: Node) -> Result:
        found = [self.truth(each) for each in node.votes]
        if self.condition.votes_trip(node):
            found = [(True, True) if isinstance(each, Mark) else each for each in found]
        votes = [each for each in found if not isinstance(each, Mark)]
        if not votes:
            return ABSTAINS
        needed = min(node.needed, len(votes))
        surely = sum(low for low, _high in votes)
        maybe = sum(high for _low, high in votes)
        return (surely >= needed, maybe >= needed)

    def _single(self, node: Node, inner: Runs) -> Result:
        if kind_of(node) == "Not":
            return (not inner[1], not inner[0])
        memory = self.condition.memory_of(node)
        if inner == UNKNOWN and self.starting(below(node)[0]):
            # What was never read leaves the memory as it is; what was on lasts all the same.
            held = kind_of(node) == "Hold" and self._still(memory, 0, node.duration_ns)
            return (held, True)
        if memory.lost and kind_of(node) == "Hold":
            memory.since[1] = self.now_ns
        memory.lost = False
        run = self._lasted if kind_of(node) == "For" else self._held
        low, high = (run(memory, which, inner[which], node.duration_ns) for which in (0, 1))
        return (low, high or low)

    def _lasted(self, memory: Memory, run: int, on: bool, duration_ns: int) -> bool:
        """For: on without a break for the whole duration."""
        since = memory.since[run]
        if not on:
            since = None
        elif since is None or since > self.now_ns:
            since = self.now_ns
        memory.since[run] = since
        return since is not None and self.now_ns - since >= duration_ns

    def _held(self, memory: Memory, run: int, on: bool, duration_ns: int) -> bool:
        """Hold: on, or on at most a duration ago. ``since``: when it was last on."""
        if on:
            memory.since[run] = self.now_ns
        return on or self._still(memory, run, duration_ns)

    def _still(self, memory: Memory, run: int, duration_ns: int) -> bool:
        since = memory.since[run]
        return since is not None and self.now_ns - since < duration_ns

    def _until(self, node: Node) -> Result:
        """Hysteresis: set wins, clear ends, between them it is what it was."""
        begin = self.truth(node.condition)
        clear = self._compared(node.op, node.condition.left, node.limit)
        if isinstance(begin, Mark) or isinstance(clear, Mark):
            return ABSTAINS
        memory = self.condition.memory_of(node)
        low = begin[0] or (memory.state[0] and not clear[1])
        high = begin[1] or (memory.state[1] and not clear[0])
        waits = self.starting(node.condition) or self.starting(node.limit)
        if low == high or not waits:
            memory.state = [low, high]
        return (low, high)


def _abstains(result: Result) -> bool:
    return isinstance(result, Mark)


def _joined(kind: str, votes: list[Any]) -> Runs:
    """And, Or: each run for itself."""
    join = all if kind == "And" else any
    return (join(low for low, _high in votes), join(high for _low, high in votes))


def _calculated(node: Node, known: list[float]) -> float:
    match kind_of(node):
        case "Negate":
            return -known[0]
        case "Arithmetic":
            return ARITHMETIC[node.op](known[0], known[1])
    return {"abs": lambda: abs(known[0]), "min": lambda: min(known), "max": lambda: max(known)}[
        node.name
    ]()
