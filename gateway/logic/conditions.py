"""The conditions of a site: each read once, every flaw a complaint with its line and column.

Their trees have their literals in the units of their tags, and computed tags written out in them,
but for those that the gateway feeds.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Final

from msgspec import structs

from gateway.logic import infer
from gateway.logic.build import Flaw
from gateway.logic.computed import Computed, ComputedTags, computed_tags
from gateway.logic.kinds import Conversion, Kind, Scope, Symbol
from gateway.logic.parse import parse, read
from gateway.logic.tree import Expr, Window, tags_of, walk
from gateway.site.complaints import Complaints
from gateway.site.convert import Entry
from gateway.site.draft import Draft
from gateway.site.model import Config, Device, Interlock, Tag, by_id, is_text
from gateway.site.places import Places, is_boolean
from gateway.site.references import SYSTEM_PREFIX
from gateway.site.signal_rules import reach_of

GATEWAY_ALIVE: Final = f"{SYSTEM_PREFIX}gateway.alive"


def connected_tag(device: str) -> str:
    """The id of a device's system tag."""
    return f"{SYSTEM_PREFIX}{device}.connected"


@dataclass(slots=True)
class Conditions:
    """Trees by interlock id; only of conditions that could be read whole."""

    causes: dict[str, Expr] = field(default_factory=dict)
    permissives: dict[str, Expr] = field(default_factory=dict)
    converted: dict[str, list[Conversion]] = field(default_factory=dict)
    computed: ComputedTags = field(default_factory=ComputedTags)


def check_conditions(draft: Draft, places: Places) -> Conditions:
    """Read and check the values of computed tags, and the causes and permissives of interlocks."""
    measured = scope_of(draft, places)
    found = Conditions(computed=_check_computed(draft, measured))
    scope = found.computed.scope(measured)
    for entry in draft.interlock:
        for key, trees in (("cause", found.causes), ("permissive", found.permissives)):
            text = getattr(entry.item, key)
            if not isinstance(text, str) or not entry.ok(key):
                continue
            checked = _read(entry, key, text, scope, draft.complaints)
            if checked is not None:
                trees[entry.id] = found.computed.inlined(checked.tree)
                found.converted.setdefault(entry.id, []).extend(checked.conversions)
                _require_ranges(draft, entry, trees[entry.id], places)
    return found


def conditions_of(config: Config) -> Conditions:
    """The conditions of a site that was found good."""
    measured = _scope_of_config(config)
    found = Conditions(computed=computed_of(config, measured))
    scope = found.computed.scope(measured)
    for interlock in config.interlock:
        cause = infer.resolve(parse(interlock.cause), scope)
        found.causes[interlock.id] = found.computed.inlined(cause.tree)
        conversions = [*cause.conversions]
        if interlock.permissive is not None:
            permissive = infer.resolve(parse(interlock.permissive), scope)
            found.permissives[interlock.id] = found.computed.inlined(permissive.tree)
            conversions += permissive.conversions
        found.converted[interlock.id] = conversions
    return found


def computed_of(config: Config, measured: Scope | None = None) -> ComputedTags:
    """The computed tags of a site that was found good."""
    values = {tag.id: tag.value for tag in config.tag if tag.value is not None}
    units = {tag.id: tag.unit for tag in config.tag}
    scope = measured or _scope_of_config(config)
    return computed_tags(values, units, _without_system(scope), lambda _ident, _flaw: None)


def with_units(config: Config, computed: ComputedTags) -> Config:
    """The site with the units of its computed tags, where the site file leaves them out."""
    tags = tuple(
        structs.replace(tag, unit=computed.tags[tag.id].unit) if tag.id in computed.tags else tag
        for tag in config.tag
    )
    return structs.replace(config, tag=tags)


def _check_computed(draft: Draft, scope: Scope) -> ComputedTags:
    entries = {
        entry.id: entry
        for entry in reversed(draft.tag)
        if entry.id and entry.item.value is not None and entry.ok("value")
    }

    def tell(ident: str, flaw: Flaw) -> None:
        entry = entries[ident]
        entry.bad.add("value")
        _complain(entry, "value", entry.item.value or "", flaw, draft.complaints)

    values = {ident: entry.item.value or "" for ident, entry in reversed(entries.items())}
    units = {ident: entry.item.unit if entry.ok("unit") else "" for ident, entry in entries.items()}
    found = computed_tags(values, units, _without_system(scope), tell)
    for ident, computed in found.tags.items():
        entry = entries[ident]
        if computed.kind is Kind.BOOLEAN and entry.item.limits is not None:
            text = "found limits of a boolean tag, expected them of a number"
            draft.complaints.add(entry.origin, ("limits",), text)
        _require_all_samples(draft, entry, computed)
    return found


def _require_all_samples(draft: Draft, entry: Entry[Tag], computed: Computed) -> None:
    """A sum of samples needs every one, also those that equal the one before."""
    tags, devices = draft.by_id("tag"), draft.by_id("device")
    for node in walk(computed.written):
        if not isinstance(node, Window) or node.name != "total":
            continue
        tag = tags[node.tag.id]
        device = devices.get(tag.item.device or "")
        if not tag.ok("record") or device is None or not device.ok("record"):
            continue
        record = tag.item.record or device.item.record
        if record != "all":
            text = (
                f'found "{record}", expected "all": {entry.origin.where} is the total of its '
                f"samples, of which equal ones in a row would be left out"
            )
            draft.complaints.add(tag.origin, ("record",), text)


def _without_system(scope: Scope) -> Scope:
    """What computed tags may name: the gateway computes them, and system tags are the guard's."""
    symbols = {
        ident: symbol
        for ident, symbol in scope.symbols.items()
        if not ident.startswith(SYSTEM_PREFIX)
    }
    refused = {
        ident: "expected a measured tag: system tags stand in conditions of interlocks alone"
        for ident in (*scope.refused, *scope.symbols)
        if ident.startswith(SYSTEM_PREFIX)
    }
    return replace(scope, symbols=symbols, refused=refused)


def _scope_of_config(config: Config) -> Scope:
    devices: dict[str, Device] = by_id(config.device)
    symbols = {GATEWAY_ALIVE: Symbol(Kind.BOOLEAN, "")}
    symbols |= {connected_tag(ident): Symbol(Kind.BOOLEAN, "") for ident in devices}
    for tag in config.tag:
        device = devices.get(tag.device or "")
        if device is None or tag.point is None:
            continue
        if is_boolean(device, tag.point):
            symbols[tag.id] = Symbol(Kind.BOOLEAN, "")
        else:
            symbols[tag.id] = Symbol(Kind.NUMBER, tag.unit, reach_of(tag), tag.molar_mass)
    return Scope(symbols)


def scope_of(draft: Draft, places: Places) -> Scope:
    """What a site's conditions may name."""
    symbols = {
        entry.id: _symbol(entry, places)
        for entry in reversed(draft.tag)
        if entry.id and entry.item.value is None and not is_text(entry.item.point)
    }
    refused = {
        entry.id: "expected a number or a boolean: it is a text, which no condition can hold"
        for entry in draft.tag
        if entry.id and is_text(entry.item.point)
    }
    symbols[GATEWAY_ALIVE] = Symbol(Kind.BOOLEAN, "")
    polled = {entry.item.device for entry in draft.tag}
    for device in draft.device:
        ident = connected_tag(device.id)
        if not device.ok("fast"):
            symbols[ident] = Symbol(Kind.ANY)
        elif device.id in polled or (device.item.fast and device.item.heartbeat is not None):
            symbols[ident] = Symbol(Kind.BOOLEAN, "")
        elif device.item.fast:
            refused[ident] = "expected a device with a tag or a heartbeat: nothing else is heard"
        else:
            refused[ident] = "expected a device with a tag: the gateway hears nothing else of it"
    lost = frozenset(draft.lost.get("tag", ()))
    return Scope(symbols, lost, refused, open="tag" in draft.incomplete)


def _symbol(entry: Entry[Tag], places: Places) -> Symbol:
    boolean = places.is_boolean(entry)
    if boolean is None:
        return Symbol(Kind.ANY)
    if boolean:
        return Symbol(Kind.BOOLEAN, "")
    tag = entry.item
    return Symbol(
        Kind.NUMBER,
        tag.unit if entry.ok("unit") else None,
        reach_of(tag) if entry.ok("range") else None,
        tag.molar_mass if entry.ok("molar_mass") else None,
    )


def _read(
    entry: Entry[Interlock], key: str, text: str, scope: Scope, complaints: Complaints
) -> infer.Checked | None:
    reading = read(text)
    flaws: list[Flaw] = list(reading.flaws)
    checked = infer.resolve(reading.tree, scope) if reading.tree is not None else None
    if checked is not None:
        flaws += checked.flaws
    for flaw in flaws:
        _complain(entry, key, text, flaw, complaints)
    if flaws:
        entry.bad.add(key)
        return None
    return checked


def _complain(entry: Entry[Any], key: str, text: str, flaw: Flaw, complaints: Complaints) -> None:
    """Say where: the file's line and column, so that an editor finds it."""
    origin = entry.origin
    line, column = origin.line((key,)), flaw.at + 1
    if origin.index is not None:
        line, column = origin.index.place((*origin.path, key), text, flaw.at)
    complaints.at_line(origin.file, line, origin.name((key,)), f"column {column}: {flaw.text}")


def _require_ranges(draft: Draft, entry: Entry[Interlock], tree: Expr, places: Places) -> None:
    """An analog input of an interlock needs its range: outside it the instrument is broken."""
    tags = draft.by_id("tag")
    for ident in tags_of(tree):
        tag = tags.get(ident)
        if tag is None or tag.damaged or not tag.ok("range") or tag.item.range is not None:
            continue
        if places.is_boolean(tag) is False:
            text = f"found nothing, expected [low, high]: interlock {entry.id} reads this tag"
            tag.bad.add("range")
            draft.complaints.add(tag.origin, ("range",), text)
