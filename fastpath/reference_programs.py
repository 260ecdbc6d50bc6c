"""The change of program in plain Python: what it may not take away, and what it carries over.

Part of the reference (``reference``): written for reading, never run on site.
"""

from collections.abc import Iterable

from fastpath.reference_interlocks import Interlock, Now
from fastpath.reference_output import QUIET, Output
from fastpath.reference_plan import Plan

CARRIED = (
    "state", "generation", "reason", "since_boot_ns", "trip_boot_ns", "first_out", "same_scan",
    "starting", "demands", "legs", "effects_from_ns", "needs_reset", "bypass", "withheld",
    "withheld_demands",
)  # fmt: skip


def interlock_stays(one: Interlock, plan: Plan, now: Now) -> bool:
    """An interlock that holds is in the new program, armed as before, with what it has tripped."""
    if not one.latched and one.bypass is None:
        return True
    new = next((each for each in plan.config.interlock if each.id == one.id), None)
    if new is None:
        return False
    if not one.armed:
        return True
    passed_ns = now.boot_ns - one.effects_from_ns
    wanted = {name for name, delay_ns in one.outputs if one.holds and passed_ns >= delay_ns}
    return bool(new.armed) and wanted <= {
        each.output for each in new.effects if passed_ns >= each.delay
    }


def outputs_stay(outputs: Iterable[Output], plan: Plan) -> bool:
    """None goes that is demanded or tripped; one that failed keeps whatever stands in for it."""
    new = {each.id: each for each in plan.config.output}
    for one in outputs:
        if one.id not in new:
            if one.held or one.state not in QUIET:
                return False
        elif one.failed and not set(one.definition.fallback) <= set(new[one.id].fallback):
            return False
    return True


def carried(old: Interlock, new: Interlock) -> Interlock:
    """The same key in another program: the state stays; memory only where nothing changed."""
    if old.fingerprint == new.fingerprint:
        old.definition = new.definition
        for condition in old.conditions:
            condition.truths.clear()  # known again at the next evaluation
        return old
    for name in CARRIED:
        setattr(new, name, getattr(old, name))
    count = len(new.leg_nodes)  # as they were shown, until they are evaluated
    new.legs = (*old.legs, *(0,) * count)[:count]
    if old.latched:
        for condition in new.conditions:
            condition.lose()
    new.forget()
    return new
