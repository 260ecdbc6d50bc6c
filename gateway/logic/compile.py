"""A checked site -> the guard's program: a pure function of the site files."""

from typing import Final

from fastpath import blob, codes
from gateway.logic import device_records, fingerprint, interlock_records, reads, tag_records
from gateway.logic.canonical import canonical
from gateway.logic.layout import Layout, TooLargeError
from gateway.logic.tree import tags_of
from gateway.site.model import Config

_ON: Final = {"trip": blob.ON_TRIP, "stop_heartbeat": blob.ON_TRIP, "nothing": blob.ON_NOTHING}


def compile_site(config: Config) -> bytes:
    """The guard's program for a site that ``check`` found good. Raises TooLargeError."""
    return blob.build(_program(Layout(config)))


def check_sizes(program: blob.Program) -> None:
    """Raise TooLargeError where a section is larger than the guard's."""
    for name, _, _ in blob.SECTIONS:
        count, bound = len(getattr(program, name)), getattr(codes, f"{name.upper()}_MAX")
        if count > bound:
            msg = f"found {count} {name} in the program, expected at most {bound}"
            raise TooLargeError(msg)


def _program(layout: Layout) -> blob.Program:
    site = layout.config.site
    program = blob.Program(
        site_key=blob.key_of("site", site.id),
        tick_ns=site.tick,
        start_within_ns=site.start_within,
        on_overrun=_ON[site.on_overrun],
        on_stop=_ON[site.on_stop],
        on_output_failure=_ON[site.on_output_failure],
        tags=tag_records.tags(layout),
        outputs=device_records.outputs(layout),
        fallbacks=device_records.fallbacks(layout),
        groups=interlock_records.groups(layout),
        devices=device_records.devices(layout),
    )
    interlock_records.add_interlocks(layout, program)
    reads.add_requests(layout, program)
    program.names |= {
        "tags": layout.tag_order.ids,
        "units": [_unit(layout, ident) for ident in layout.tag_order.ids],
        "definitions": [_definition(layout, ident) for ident in layout.tag_order.ids],
        "interlocks": layout.interlock_order.ids,
        "outputs": layout.output_order.ids,
        "groups": layout.group_order.ids,
        "devices": layout.device_order.ids,
        "ttys": layout.ttys,
        "site": [site.id, site.gateway or site.id],
    }
    check_sizes(program)
    return program


def _definition(layout: Layout, ident: str) -> str:
    """How a tag of the interlocks is made, for whoever compares two programs."""
    if ident not in layout.read:
        return ""
    computed = layout.computed.tags.get(ident)
    if computed is None:
        return fingerprint.definition(ident, layout.tags, layout.devices)
    inputs = (
        fingerprint.of_tag(name, layout.tags, layout.devices).replace("; ", ", ")
        for name in tags_of(computed.tree)
    )
    return f"value: {canonical(computed.tree)}; of: {' and '.join(inputs)}"


def _unit(layout: Layout, ident: str) -> str:
    return layout.tags[ident].unit if ident in layout.tags else ""
