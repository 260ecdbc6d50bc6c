"""A site file -> everything that runs it, or every error that it has.

References, conditions, response times, credentials: all in one run, each error one line, sorted.
A site is refused as a whole or taken as a whole.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastpath import blob
from fastpath.program import BlobRefused, verify
from gateway.errors import ConfigError
from gateway.logic.alarms import AlarmProgram, compile_alarms
from gateway.logic.cautions import cautions, response_text
from gateway.logic.compile import compile_site
from gateway.logic.computing import ComputedProgram, compile_computed
from gateway.logic.conditions import Conditions, check_conditions, with_units
from gateway.logic.layout import TooLargeError
from gateway.logic.summary import Summary, summary_of
from gateway.logic.timing import Path as WorstPath
from gateway.logic.timing import Timing
from gateway.logic.tree import tags_of
from gateway.site.complaints import shown
from gateway.site.credentials import CredentialError, Credentials, load_credentials
from gateway.site.draft import Draft
from gateway.site.durations import format_duration
from gateway.site.file_template import FileTemplate, TemplateError
from gateway.site.load import read_site, resolve, tag_times
from gateway.site.model import Config
from gateway.site.places import Places
from gateway.site.references import check_references
from gateway.site.uplink_rules import ACKNOWLEDGES, directory_of

if TYPE_CHECKING:
    from gateway.site.convert import Entry

GATEWAY_STALE_AFTER_NS_MIN: Final = 15_000_000_000  # a restart of the gateway takes that long


@dataclass(frozen=True, slots=True)
class Checked:
    """A site fit to run. ``warnings`` are finished lines."""

    config: Config
    program: bytes  # the guard's, verified
    alarms: AlarmProgram
    computed: ComputedProgram
    warnings: list[str]
    summary: Summary


def check_site(
    path: Path, *, credentials_dir: Path | None = None, require_credentials: bool = True
) -> Checked:
    """Check a site file whole. Raises ConfigError with every error.

    Without ``require_credentials`` a missing credential is nothing to tell here: whoever runs the
    site goes on without that uplink, which tells it, until it is there.
    """
    given = credentials_dir
    return check_draft(
        read_site(path), credentials_dir=given, require_credentials=require_credentials
    )


def check_draft(
    draft: Draft, *, credentials_dir: Path | None = None, require_credentials: bool = True
) -> Checked:
    """Check a site as read, with what others have put into it. Raises ConfigError."""
    places = Places(draft)
    check_references(draft, places)
    conditions = check_conditions(draft, places)
    timing = Timing(draft, conditions.computed)
    paths = _check_responses(draft, conditions, timing)
    _check_buses(draft, timing)
    _check_gateway_inputs(draft, conditions)
    _check_alert_lane(draft)
    _check_templates(draft)
    if require_credentials:
        _check_credentials(draft, credentials_dir)
        _check_directories(draft)
    if draft.complaints:
        raise ConfigError(draft.complaints.lines())
    return _compiled(draft, conditions, paths, timing)


def _compiled(
    draft: Draft, conditions: Conditions, paths: list[WorstPath], timing: Timing
) -> Checked:
    config = with_units(resolve(draft), conditions.computed)
    try:
        program = compile_site(config)
        verify(program)
        alarms = compile_alarms(config)
        verify(alarms.blob)
        computed = compile_computed(config, conditions.computed)
        verify(computed.blob)
    except BlobRefused as error:
        raise ConfigError([f"{draft.file}:1: {error}"]) from error
    except TooLargeError as error:
        raise ConfigError([f"{draft.file}:1: {error}"]) from error
    summary = summary_of(
        config,
        conditions,
        paths,
        alarms=len(alarms.alarms),
        program=program[blob.HASH_AT : blob.HASH_AT + 32],
    )
    warnings = cautions(draft, config, conditions, paths, timing.buses.values())
    return Checked(config, program, alarms, computed, warnings, summary)


def _check_responses(draft: Draft, conditions: Conditions, timing: Timing) -> list[WorstPath]:
    """The worst cases of every interlock whose cause could be read; none beyond ``response``."""
    paths: list[WorstPath] = []
    for entry in draft.interlock:
        good = entry.ok("delay", "bad_for", "hold_max", "on_bad", "response")
        if entry.id not in conditions.causes or not good:
            continue
        for path in timing.paths(entry.item, conditions.causes[entry.id]):
            paths.append(path)
            if path.worst_ns > path.response_ns:
                wanted = format_duration(path.worst_ns)
                text = f"{response_text(path)}, expected {wanted} or more"
                draft.complaints.add(entry.origin, ("response",), text)
    return paths


def _check_buses(draft: Draft, timing: Timing) -> None:
    """A serial line that is asked for more than it carries answers late, and later every round."""
    entries = draft.by_id("device")
    for bus in timing.buses.values():
        if bus.timed and bus.load > 1:
            entry = entries[next(iter(bus.devices))]
            alike = ", let reads that look alike differ in length" if bus.kept_apart() else ""
            text = (
                f"found polls and heartbeats that take {bus.load:.0%} of the time of {bus.port}, "
                f"expected less than 100%: poll less often{alike}, or set a higher baud"
            )
            draft.complaints.add(entry.origin, ("poll",), text)


def _check_gateway_inputs(draft: Draft, conditions: Conditions) -> None:
    """What the gateway feeds goes stale while it restarts: 15 s, or declared to trip."""
    tags, devices = draft.by_id("tag"), draft.by_id("device")
    for entry in draft.interlock:
        declared = entry.item.trips_on_gateway_restart or not entry.ok("trips_on_gateway_restart")
        if declared or entry.id not in conditions.causes:
            continue
        for name in tags_of(conditions.causes[entry.id]):
            tag = tags.get(name)
            device = devices.get(tag.item.device or "") if tag is not None else None
            if tag is None or device is None or device.item.fast:
                continue
            if not tag.ok("poll", "stale_after") or not device.ok("poll", "timeout", "fast"):
                continue
            _, stale_after = tag_times(tag.item, device.item)
            if stale_after < GATEWAY_STALE_AFTER_NS_MIN:
                text = (
                    f"found {format_duration(stale_after)}, expected 15s or more: the gateway "
                    f"feeds it and {entry.origin.where} reads it (or there: "
                    f"trips_on_gateway_restart = true)"
                )
                draft.complaints.add(tag.origin, ("stale_after",), text)


def _check_alert_lane(draft: Draft) -> None:
    """Alerts that reach no platform, or none that acknowledges them, are told to nobody."""
    if draft.uplink and all(
        entry.ok("lanes", "kind")
        and ("alert" not in entry.item.lanes or ACKNOWLEDGES[entry.item.kind] == "none")
        for entry in draft.uplink
    ):
        entry = draft.uplink[0]
        text = 'found no uplink with the lane "alert", expected alerts on at least one'
        draft.complaints.add(entry.origin, ("lanes",), text)


def _check_credentials(draft: Draft, directory: Path | None) -> None:
    entries: list[Entry[Any]] = [*draft.device, *draft.uplink]
    for entry in entries:
        for key in ("credentials", "proxy_credentials"):
            name = getattr(entry.item, key, None)
            if name is None or not entry.ok(key):
                continue
            try:
                held = load_credentials(name, directory)
            except CredentialError as error:
                draft.complaints.add(entry.origin, (key,), str(error))
                continue
            lacks = _lacking(entry.item, key, held)
            if lacks:
                text = f"found no {lacks} in it, expected one"
                draft.complaints.add(entry.origin, (key,), text)


def _check_templates(draft: Draft) -> None:
    """A template is part of the site: it is used once, with a message such as each lane has."""
    for entry in draft.uplink:
        name = entry.item.template
        if name is None or entry.item.kind != "file" or not entry.ok("template", "kind", "lanes"):
            continue
        try:
            FileTemplate.read(Path(draft.file).parent / name).attempt(entry.item.lanes)
        except TemplateError as error:
            draft.complaints.add(entry.origin, ("template",), f"found {shown(name)}: {error}")


def _check_directories(draft: Draft) -> None:
    """Of the file uplinks, as this machine has them."""
    for entry in draft.uplink:
        if entry.item.kind != "file" or not entry.ok("kind", "url"):
            continue
        directory = Path(directory_of(entry.item))
        lacks = ""
        if directory.is_symlink():
            lacks = "it is a symbolic link"
        elif not directory.is_dir():
            lacks = "no such directory is there"
        elif not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            lacks = "we may not write there"
        if lacks:
            text = f"found {shown(entry.item.url)}, expected a directory that is ours: {lacks}"
            draft.complaints.add(entry.origin, ("url",), text)


def _lacking(item: Any, key: str, held: Credentials) -> str:
    """What a credential must have besides, for the keys that need it."""
    if key == "proxy_credentials":
        return "" if held.username else "username"
    return "webhook-secret" if getattr(item, "sign", False) and not held.webhook_secret else ""
