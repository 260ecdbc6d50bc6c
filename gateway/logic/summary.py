"""What a good site file will do, in numbers and conditions: what ``check`` says after OK."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.logic import tree
from gateway.logic.canonical import canonical
from gateway.logic.computed import Computed
from gateway.logic.conditions import Conditions
from gateway.logic.inputs import CommonLine, Input, common_lines, inputs_of
from gateway.logic.kinds import Conversion
from gateway.logic.timing import Path
from gateway.logic.tree import Expr
from gateway.site.durations import format_duration
from gateway.site.model import Config, Device, Output, Uplink, by_id
from gateway.site.uplink_rules import ACKNOWLEDGES


@dataclass(frozen=True, slots=True)
class InterlockSummary:
    """One interlock: its conditions fully parenthesised, and its worst cases per output."""

    id: str
    armed: bool
    cause: str
    permissive: str | None
    converted: tuple[str, ...]  # "5 kPa = 0.005 MPa"
    response_ns: int
    paths: tuple[Path, ...]
    start_within_ns: int = 0  # how long at most it waits for its inputs after a start
    start_window: str = ""  # the window that makes it longer than the site's
    inputs: tuple[Input, ...] = ()
    shared: tuple[CommonLine, ...] = ()  # what carries several of its devices


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a site, and every interlock."""

    site: str
    devices: int
    fast_devices: int
    tags: int
    alarms: int
    interlocks: int
    armed: int
    outputs: int
    uplinks: int
    program: str  # hash of the guard's program, hex
    computed: tuple[str, ...]
    conditions: tuple[InterlockSummary, ...]
    acknowledged: tuple[str, ...] = ()  # of each uplink what an acknowledgement means

    def text(self) -> str:
        """Lines for people."""
        lines = [
            f"site        {self.site}",
            f"devices     {self.devices}, {self.fast_devices} polled by the guard",
            f"tags        {self.tags}, {self.alarms} alarm limits",
            f"interlocks  {self.interlocks}, {self.armed} armed",
            f"outputs     {self.outputs}",
            f"uplinks     {self.uplinks}",
            *(f"uplink      {text}" for text in self.acknowledged),
            f"program     {self.program[:16]}",
        ]
        lines.extend(f"computed    {text}" for text in self.computed)
        for item in self.conditions:
            lines += ["", *_interlock_lines(item)]
        return "\n".join(lines)


def summary_of(
    config: Config,
    conditions: Conditions,
    paths: list[Path],
    *,
    alarms: int,
    program: bytes,
) -> Summary:
    """The summary of a site without errors."""
    causes, permissives = conditions.causes, conditions.permissives
    by_interlock: dict[str, list[Path]] = {}
    for path in paths:
        by_interlock.setdefault(path.interlock, []).append(path)
    windows = {
        item.id: _longest_window(
            int(config.site.start_within), causes[item.id], permissives.get(item.id)
        )
        for item in config.interlock
    }
    inputs = {
        item.id: tuple(
            inputs_of(
                config,
                [each[item.id] for each in (causes, permissives) if item.id in each],
                conditions.computed,
            )
        )
        for item in config.interlock
    }
    outputs: dict[str, Output] = by_id(config.output)
    devices: dict[str, Device] = by_id(config.device)
    return Summary(
        site=config.site.id,
        devices=len(config.device),
        fast_devices=sum(device.fast for device in config.device),
        tags=len(config.tag),
        alarms=alarms,
        interlocks=len(config.interlock),
        armed=sum(interlock.armed for interlock in config.interlock),
        outputs=len(config.output),
        uplinks=len(config.uplink),
        acknowledged=tuple(_uplink_text(uplink) for uplink in config.uplink),
        program=program.hex(),
        computed=tuple(
            _computed_text(tag.id, conditions.computed.tags[tag.id])
            for tag in config.tag
            if tag.id in conditions.computed.tags
        ),
        conditions=tuple(
            InterlockSummary(
                id=item.id,
                armed=item.armed,
                cause=canonical(causes[item.id]),
                permissive=canonical(permissives[item.id]) if item.id in permissives else None,
                converted=_texts(conditions.converted.get(item.id, ())),
                response_ns=int(item.response),
                paths=tuple(by_interlock.get(item.id, ())),
                start_within_ns=max(int(config.site.start_within), windows[item.id][0]),
                start_window=windows[item.id][1],
                inputs=inputs[item.id],
                shared=tuple(common_lines(item, inputs[item.id], outputs, devices)),
            )
            for item in config.interlock
        ),
    )


def _uplink_text(uplink: Uplink) -> str:
    means = ACKNOWLEDGES[uplink.kind]
    return f"{uplink.id}: {uplink.kind}, {' '.join(uplink.lanes)}, acknowledged means {means}"


def _texts(conversions: Iterable[Conversion]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(conversion.text for conversion in conversions))


def _computed_text(ident: str, computed: Computed) -> str:
    unit = f" {computed.unit}" if computed.unit else ""
    told = f"{ident} = {canonical(computed.written)}{unit}"
    if computed.conversions:
        told += f" ({', '.join(_texts(computed.conversions))})"
    return f"{told}, by the gateway alone" if computed.far else told


def _interlock_lines(item: InterlockSummary) -> list[str]:
    lines = [f"interlock {item.id} ({'armed' if item.armed else 'NOT ARMED: moves no output'})"]
    lines.append(f"  trips when  {item.cause}")
    if item.permissive is not None:
        lines.append(f"  resets if   {item.permissive}")
    if item.converted:
        lines.append(f"  converted   {', '.join(item.converted)}")
    if item.start_window:
        within = format_duration(item.start_within_ns)
        lines.append(f"  starts      within {within}: {item.start_window} must be covered first")
    lines.extend(f"  reads       {each.text()}" for each in item.inputs)
    lines.extend(f"  shared      {each.text()}" for each in item.shared)
    response = format_duration(item.response_ns)
    if not item.paths:
        lines.append(f"  response    {response}: no output to reach")
    lines.extend(
        f"  {path.output}{'' if path.independent else ' (through the gateway, not independent)'}: "
        f"worst demand {format_duration(path.demand_ns)} ({path.demand_tag}), "
        f"worst loss {format_duration(path.loss_ns)} ({path.loss_tag}), response {response}"
        for path in item.paths
    )
    return lines


def _longest_window(start_within_ns: int, *conditions: Expr | None) -> tuple[int, str]:
    """(span, text) of the longest window that is longer than the site's start; (0, "") of none."""
    windows = [
        node
        for condition in conditions
        if condition is not None
        for node in tree.walk(condition)
        if isinstance(node, tree.Window) and node.span_ns > start_within_ns
    ]
    longest = max(windows, key=lambda node: node.span_ns, default=None)
    return (longest.span_ns, canonical(longest)) if longest is not None else (0, "")
