"""Computed tags -> the gateway's own program: the guard's evaluator over measured tags.

Quality comes with the samples, so nothing goes stale in this program by itself.
"""

from dataclasses import dataclass, field
from typing import Final

from fastpath import blob
from fastpath.codes import Owner, TagFlag
from fastpath.evaluator import Output
from gateway.logic import tree
from gateway.logic.compile import check_sizes
from gateway.logic.computed import ComputedTags
from gateway.logic.emit import Emitter
from gateway.logic.kinds import Kind
from gateway.logic.layout import Keyed
from gateway.site.model import Config, Tag, by_id
from gateway.site.recording import told_mode


@dataclass(frozen=True, slots=True)
class ComputedProgram:
    """What `gateway.plant.computed` runs; ``slots``: the measured tags' places in its image."""

    blob: bytes
    slots: dict[str, int]
    outputs: tuple[Output, ...] = ()
    far: frozenset[str] = frozenset()  # the guard may ask for these
    windows: dict[str, list[int]] = field(default_factory=dict)  # numbers by measured tag
    spans_ns: dict[str, int] = field(default_factory=dict)  # how far back its longest looks


NO_COMPUTED_TAGS: Final = ComputedProgram(blob.EMPTY, {})


def compile_computed(config: Config, computed: ComputedTags) -> ComputedProgram:
    """The program of a site's computed tags. Raises TooLargeError."""
    if not computed.tags:
        return NO_COMPUTED_TAGS
    read = {name for each in computed.tags.values() for name in tree.tags_of(each.tree)}
    far = {ident for ident, each in computed.tags.items() if each.far}
    # What the guard is told may only be made of what an interlock would take for good.
    strict = {name for ident in far for name in tree.tags_of(computed.tags[ident].tree)}
    lenient = {tag.id for tag in config.tag if tag.uncertain == "use" or tag.id not in strict}
    tags: dict[str, Tag] = by_id(config.tag)
    order = Keyed("tag", sorted(read))
    program = blob.Program(
        site_key=blob.key_of("site", config.site.id),
        tick_ns=config.site.tick,
        start_within_ns=config.site.start_within,
        tags=[_tag(tags[ident], order.keys[ident], ident in lenient) for ident in order.ids],
        names={"tags": order.ids},
    )
    emitter = Emitter(order.index, program.code, program.nodes, program.windows)
    outputs = []
    for place, tag in enumerate(config.tag):
        each = computed.tags.get(tag.id)
        if each is None:
            continue
        emitter.begin(tag.id)
        make = emitter.number if each.kind is Kind.NUMBER else emitter.truth
        inputs = [order.index[name] for name in tree.tags_of(each.tree)]
        record = int(told_mode(tag, None))
        outputs.append(Output(make(each.tree), place, record, inputs))
    check_sizes(program)
    windows: dict[str, list[int]] = {}
    spans: dict[str, int] = {}
    for number, window in enumerate(program.windows):
        ident = order.ids[window.slot]
        windows.setdefault(ident, []).append(number)
        spans[ident] = max(window.span_ns, spans.get(ident, 0))
    return ComputedProgram(
        blob.build(program), order.index, tuple(outputs), frozenset(far), windows, spans
    )


def _tag(tag: Tag, key: int, uncertain: bool) -> blob.Tag:
    """A measured tag as this program needs it; ``range`` is where a counter wraps."""
    flags = TagFlag.UNCERTAIN_USE if uncertain else TagFlag(0)
    if tag.range is not None:
        flags |= TagFlag.HAS_RANGE
    low, high = tag.range or (0.0, 0.0)
    return blob.Tag(key=key, low=low, high=high, owner=int(Owner.GATEWAY), flags=int(flags))
