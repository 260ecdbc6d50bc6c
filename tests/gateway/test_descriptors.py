"""Descriptors in reserve, and callers that wait instead of taking the last ones."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.life.descriptors import ROOM, Spares, opened, scarce
from gateway.view.listener import CALLERS_MAX, unix_listener


@pytest.fixture
def few() -> Iterator[int]:
    """So few that nothing is left but the room and ten; the limit."""
    had = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(int(name) for name in os.listdir("/proc/self/fd")) + ROOM + 10
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, had[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, had)


def test_what_is_held_is_there_for_who_borrows_it() -> None:
    spares, before = Spares(), opened()
    with spares.lent():
        assert opened() == before  # nothing was held yet
    spares.hold(5)
    assert opened() == before + 5
    with spares.lent(), spares.lent():
        spares.refill()
        assert opened() == before
    assert opened() == before + 5
    spares.hold(0)
    assert opened() == before


def test_others_may_take_them_meanwhile_and_they_are_held_again_later(few: int) -> None:
    spares = Spares()
    spares.hold(few)  # all there are
    with spares.lent():
        taken = [os.dup(0) for _ in range(5)]
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        os.dup(0)
    for each in taken:
        os.close(each)
    spares.refill()
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        os.dup(0)
    spares.hold(0)


@pytest.mark.usefixtures("few")
def test_they_are_scarce_before_they_are_used_up(tmp_path: Path) -> None:
    assert not scarce()
    with unix_listener(tmp_path / "sock", lambda: 0) as listener:
        listener.listen()
        taken = []
        while not scarce():
            taken.append(os.dup(0))
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(tmp_path / "sock"))
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                listener.accept()
            while scarce():
                os.close(taken.pop())
            listener.accept()[0].close()  # it had only waited
        for each in taken:
            os.close(each)


def test_callers_wait_while_enough_of_them_are_served(tmp_path: Path) -> None:
    served = CALLERS_MAX
    with unix_listener(tmp_path / "sock", lambda: served) as listener:
        listener.listen()
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(tmp_path / "sock"))
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                listener.accept()
            served -= 1
            listener.accept()[0].close()
