"""Programs with more outputs and devices than the mine's one breaker, and what they did."""

from dataclasses import replace
from typing import Any

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import NONE_U32, EventType, MessageType, OutputPath
from fastpath.records import Event, payload_of
from tests.helpers.guard import Client, GuardProcess


def add_device(program: blobs.Program, port: int, **changes: Any) -> int:
    """Another device like the first, without tags; its index."""
    index = len(program.devices)
    device = replace(program.devices[0], key=index + 1, port=port, **changes)
    program.devices.append(device)
    program.names["devices"].append(f"device{index + 1}")
    return index


def add_output(program: blobs.Program, key: int, **changes: Any) -> int:
    """Another breaker like the first without read-back, in the order of keys; its index now."""
    output = replace(program.outputs[0], **{"key": key, "readback": NONE_U32, **changes})
    assert key > program.outputs[-1].key
    program.outputs.append(output)
    program.names["outputs"].append(f"output{key}")
    return len(program.outputs) - 1


def add_interlock(program: blobs.Program, key: int, *outputs: int, **changes: Any) -> int:
    """Another interlock of the same cause with these effects; its index."""
    index = len(program.interlocks)
    first = len(program.effects)
    program.interlocks.append(
        replace(
            program.interlocks[0], key=key, order=index, legs_first=len(program.legs),
            legs_count=0, effects_first=first, effects_count=len(outputs), **changes,
        )
    )  # fmt: skip
    program.effects += [blobs.Effect(index, output) for output in outputs]
    program.names["interlocks"].append(f"interlock{key}")
    return index


def via_gateway(program: blobs.Program, index: int, **changes: Any) -> None:
    """Let the gateway carry an output."""
    program.outputs[index] = replace(
        program.outputs[index], path=OutputPath.GATEWAY, device=NONE_U32, readback=NONE_U32,
        address=0, **changes,
    )  # fmt: skip


def told(guard: GuardProcess, key: int, *types: EventType) -> list[Event]:
    """Records of one output."""
    return [e for e in guard.events(*types) if e.key == key]


def path_of(guard: GuardProcess, key: int, *types: EventType) -> list[EventType]:
    """Types of the records of one output, in order."""
    return [EventType(e.type) for e in told(guard, key, *types)]


def code_of(event: Event) -> int:
    """An output record's code."""
    return int(payload_of(event)["code"])


def trip(client: Client, key: int = 7) -> messages.Result:
    """A manual trip."""
    return client.command(MessageType.TRIP, messages.command(key, who="uid:test"))
