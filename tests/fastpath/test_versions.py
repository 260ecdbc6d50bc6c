"""Gateways of other versions at a real guard: served, or told that they are not."""

import os
import struct

import pytest

from fastpath import messages
from fastpath.codes import EventType, InterlockState, MessageType, ResultCode
from tests.helpers.device import Device
from tests.helpers.guard import Client, GuardProcess, mine
from tests.helpers.guarding import methane, protecting, tripped

NOW, OLDEST = messages.VERSION, messages.VERSION_OLDEST


def hello(guard: GuardProcess, version: int, oldest: int) -> tuple[Client, messages.Welcome]:
    """A gateway that speaks ``version`` and understands guards from ``oldest`` on."""
    client = guard.client(hello=False)
    body = messages.HELLO.pack(version, oldest, 0, os.urandom(16))
    length = messages.HEADER.size + len(body)
    head = messages.HEADER.pack(version, MessageType.HELLO, length, 0, bytes(16))
    client.socket.send(head + body)
    return client, messages.welcome_of(client.receive(MessageType.WELCOME)[1])


def said(guard: GuardProcess) -> int:
    return len(guard.events(EventType.GATEWAY_UP))


@pytest.mark.parametrize(
    ("version", "oldest"),
    [
        (NOW, OLDEST),
        (OLDEST, OLDEST),  # the oldest that this guard serves
        (NOW + 1, NOW),  # one minor newer, which still speaks with this guard
    ],
)
async def test_neighbours_are_served(guard: GuardProcess, version: int, oldest: int) -> None:
    await guard.start()
    client, welcome = hello(guard, version, oldest)
    assert (welcome.version, welcome.compatible) == (NOW, 1)
    touch = messages.TOUCH.pack(0, 0)
    length = messages.HEADER.size + len(touch)
    header = messages.HEADER.pack(version, MessageType.TOUCH, length, 0, bytes(16))
    client.socket.send(header + touch)
    body = messages.command(1, who="uid:test")
    assert client.command(MessageType.TRIP, body).code == ResultCode.UNKNOWN_KEY
    assert said(guard) == 1


@pytest.mark.parametrize(
    ("version", "oldest"), [(OLDEST - 1, OLDEST - 1), (NOW + 2, NOW + 1)], ids=["older", "newer"]
)
async def test_others_are_told_so_and_the_guard_protects_on(
    guard: GuardProcess, device: Device, version: int, oldest: int
) -> None:
    await protecting(guard, mine(device.port))
    served = guard.client()
    before = said(guard)
    client, welcome = hello(guard, version, oldest)
    assert (welcome.version, welcome.compatible) == (NOW, 0)
    assert said(guard) == before
    # What it sends all the same is not read, even where it looks like a command.
    client.send(MessageType.TRIP, messages.command(7, who="uid:test"), os.urandom(16))
    assert client.closed_by_peer()
    assert guard.view is not None
    assert guard.view.interlock(0).state == InterlockState.NORMAL
    body = messages.command(1, who="uid:test")
    assert served.command(MessageType.TRIP, body).code == ResultCode.UNKNOWN_KEY, "still served"
    await tripped(guard, device)
    methane(device, 0.4, 0.4, 0.4)


async def test_a_hello_that_is_none_ends_the_session(guard: GuardProcess) -> None:
    await guard.start()
    client = guard.client(hello=False)
    head = messages.HEADER.pack(NOW + 9, MessageType.HELLO, 36, 0, bytes(16))
    client.socket.send(head + struct.pack("<I", 0))
    assert client.closed_by_peer()
