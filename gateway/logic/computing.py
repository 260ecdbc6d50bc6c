"""Computed tags -> the gateway's own program: the guard's evaluator over measured tags.

Quality comes with the samples, so nothing goes stale in this program by itself.
"""

from dataclasses import dataclass, field
from typing import Final

from fastpath import blob
from fastpath.codes import Owner, RecordMode, TagFlag
from fastpath.evaluator import Output
from gateway.logic import tree
from gateway.logic.compile import Keyed, check_sizes
from gateway.logic.computed import ComputedTags
from gateway.logic.emit import Emitter
from gateway.logic.kinds import Kind
from gateway.site.model import Config

_RECORD: Final = {
    "all": RecordMode.ALL,
    "change": RecordMode.CHANGE,
    "1s": RecordMode.ONE_SECOND,
}


@dataclass(frozen=True, slots=True)
class ComputedProgram:
    """What ``gateway/computed.py`` runs. ``slots`` are the measured tags' places in its image."""

    blob: bytes
    slots: dict[str, int]
    outputs: tuple[Output, ...] = ()
    far: frozenset[str] = frozenset()  # the guard may ask for these
    spans_ns: dict[str, int] = field(default_factory=dict)  # how far back each measured tag counts


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
    order = Keyed("tag", sorted(read))
    program = blob.Program(
        site_key=blob.key_of("site", config.site.id),
        tick_ns=config.site.tick,
        start_within_ns=config.site.start_within,
        tags=[
            blob.Tag(
                key=order.keys[ident],
                owner=int(Owner.GATEWAY),
                flags=int(TagFlag.UNCERTAIN_USE) if ident in lenient else 0,
            )
            for ident in order.ids
        ],
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
        record = int(_RECORD[tag.record or "change"])
        outputs.append(Output(make(each.tree), place, record, inputs))
    check_sizes(program)
    return ComputedProgram(
        blob.build(program), order.index, tuple(outputs), frozenset(far), _spans(computed)
    )


def _spans(computed: ComputedTags) -> dict[str, int]:
    spans: dict[str, int] = {}
    for each in computed.tags.values():
        for node in tree.walk(each.tree):
            if isinstance(node, tree.Window):
                spans[node.tag.id] = max(node.span_ns, spans.get(node.tag.id, 0))
    return spans
