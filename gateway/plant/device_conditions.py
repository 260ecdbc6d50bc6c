"""Alarms of a device's own (OPC UA conditions) as alerts: as they begin and as they end."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drivers.base import Condition
    from gateway.life.problems import Problems
    from gateway.store.alert import Priority

KIND: Final = "condition"  # of the problem, and of the alert's source
# OPC UA severities are 1 to 1000 (OPC 10000-5, 6.4.2); its fifths as our priorities.
_SEVERITIES: Final[tuple[tuple[int, "Priority"], ...]] = (
    (801, "critical"), (601, "high"), (401, "medium"),
)  # fmt: skip


class DeviceConditions:
    """Those of one device; the alert's source is ``device/condition``."""

    def __init__(self, device: str, problems: "Problems") -> None:
        self._prefix = f"{device}/"
        self._problems = problems

    def tell(self, told: "Sequence[Condition]", standing: frozenset[str] | None) -> None:
        """What changed, in order. ``standing``: all that there is, the others are over."""
        for each in told:
            ident = self._prefix + each.ident
            if each.active:
                self._problems.raised(KIND, ident, each.text, priority=priority_of(each.severity))
            else:
                self._problems.cleared(KIND, ident, each.text)
        if standing is not None:
            keep = {self._prefix + each for each in standing}
            self._problems.clear_others(KIND, self._prefix, keep, "the device lists it no more")


def priority_of(severity: int) -> "Priority":
    """An OPC UA severity as a priority."""
    return next((priority for least, priority in _SEVERITIES if severity >= least), "low")
