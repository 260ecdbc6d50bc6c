"""What holds in every life of a guard, over the traces of random sites and histories."""

from typing import Any

from hypothesis import HealthCheck, given, settings

from fastpath.codes import InterlockState, OutputState
from tests.fastpath.test_differential import Case, cases
from tests.helpers import twins
from tests.helpers.histories import Step

HELD = (InterlockState.TRIPPED, InterlockState.READY_TO_RESET)
TRIPS = (OutputState.TRIPPING, OutputState.TRIPPED, OutputState.TRIP_FAILED)
LIVES = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_what_holds_commands_its_outputs(stepping: Any) -> None:
    """Without edits: an armed interlock that is tripped or ready has its outputs at trip."""
    held = 0

    @given(cases())
    @LIVES
    def checked(case: Case) -> None:
        nonlocal held
        config, _edited, history = case
        for scan in twins.run(stepping.Stepper, config, [], history).trace:
            for one in config.interlock:
                if not one.armed or scan.interlocks[one.id].state not in HELD:
                    continue
                for effect in one.effects:
                    if effect.delay == 0:
                        held += 1
                        assert scan.outputs[effect.output].state in TRIPS

    checked()
    assert held >= 100


def test_no_wall_clock_moves_an_output(stepping: Any) -> None:
    """The same history without its steps of the wall clock commands the same."""

    @given(cases())
    @LIVES
    def checked(case: Case) -> None:
        config, edited, history = case
        calm = [
            Step(tuple(op for op in each.ops if op[0] != "utc"), each.after_ns) for each in history
        ]
        first = twins.run(stepping.Stepper, config, edited, history).trace
        second = twins.run(stepping.Stepper, config, edited, calm).trace
        assert [each.wishes for each in first] == [each.wishes for each in second]

    checked()
