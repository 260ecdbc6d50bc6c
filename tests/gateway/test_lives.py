"""How lives are counted, over kills, ordered stops and another boot of the machine."""

import logging
import os
from pathlib import Path

import pytest

from gateway.life.lives import LOOP_LIVES, SPACES_S, Lives, Seen, look

SECOND_NS = 1_000_000_000


class Machine:
    """A clock, a boot id, and lives that begin there."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "lives.json"
        self.boot_ns = 1_000 * SECOND_NS
        self.boot = "one"

    def life(self) -> Lives:
        made = Lives(self.path, boot_ns=lambda: self.boot_ns, boot_id=lambda: self.boot)
        made.begin()
        return made

    def crash(self, times: int) -> None:
        for _ in range(times):
            self.life().work()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_end_that_nobody_asked_for_counts_until_one_that_somebody_did(machine: Machine) -> None:
    assert (machine.life().unclean, machine.life().unclean, machine.life().unclean) == (0, 1, 2)
    assert look(machine.path, lambda pid: pid == os.getpid()) == Seen(2, os.getpid())
    assert look(machine.path, lambda _: False) == Seen(3)
    last = machine.life()
    assert last.after_unclean
    last.end()
    assert look(machine.path, lambda _: True) == Seen(0)
    after = machine.life()
    assert (after.unclean, after.after_unclean) == (0, False)


def test_short_lives_in_a_row_are_a_loop_and_begin_their_work_ever_later(machine: Machine) -> None:
    found = []
    for _ in range(len(SPACES_S) + 1):
        life = machine.life()
        found.append(life.space_s())
        machine.boot_ns += int(life.space_s() * SECOND_NS)
        life.work()
    assert found == [*SPACES_S, SPACES_S[-1]]
    assert life.looping
    machine.boot_ns += int(SPACES_S[-1] * SECOND_NS)
    assert machine.life().space_s() == 0.0  # whoever started it has waited itself


def test_a_steady_life_ends_the_loop_and_keeps_the_count(machine: Machine) -> None:
    machine.crash(LOOP_LIVES)
    life = machine.life()
    assert life.space_s() > 0.0
    life.steady()
    assert life.space_s() == 0.0
    after = machine.life()
    assert (after.unclean, after.looping) == (LOOP_LIVES + 1, False)


def test_another_boot_begins_anew(machine: Machine) -> None:
    machine.crash(LOOP_LIVES + 1)
    machine.boot, machine.boot_ns = "two", 5 * SECOND_NS
    life = machine.life()
    assert (life.unclean, life.after_unclean, life.space_s()) == (0, False, 0.0)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"boot": 7}', b"\xff", b'{"boot": "one"'])
def test_a_record_that_is_none_begins_anew(machine: Machine, content: bytes) -> None:
    machine.path.write_bytes(content)
    assert look(machine.path, lambda _: True) == Seen()
    machine.life()
    assert look(machine.path, lambda _: True).unclean == 0


def test_one_that_cannot_be_written_is_told_once_and_stops_nothing(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.path = machine.path.parent / "nowhere" / "lives.json"
    with caplog.at_level(logging.WARNING):
        life = machine.life()
        life.work()
        life.end()
    assert len(caplog.records) == 1
