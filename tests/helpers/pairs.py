"""Two guards at the same moment: the compiled one in its stepper, and the reference."""

from typing import Any

from fastpath import blob as blobs
from fastpath.reference import Reference
from fastpath.reference_interlocks import Now
from fastpath.reference_plan import Plan
from gateway.logic.emit import legs_of
from gateway.logic.parse import parse
from gateway.site import model

EMPTY = model.Config(site=model.Site(id="empty"))


def plan_of(config: model.Config) -> Plan:
    """A site file's tables and conditions, as the reference reads them."""
    causes = {each.id: parse(each.cause) for each in config.interlock}
    permissives = {
        each.id: None if each.permissive is None else parse(each.permissive)
        for each in config.interlock
    }
    legs = {name: tuple(legs_of(cause)) for name, cause in causes.items()}
    return Plan(config, causes, permissives, legs)


class Pair:
    """Both, and where the running program keeps what has a name."""

    def __init__(self, stepper_type: Any) -> None:
        self.stepper = stepper_type(blobs.EMPTY)
        self.reference = Reference(plan_of(EMPTY), self.now)
        self.running = EMPTY
        self.sessions = 0  # of the gateway, that ended
        self.name(blobs.EMPTY)

    @property
    def now(self) -> Now:
        return Now(self.stepper.mono_ns, self.stepper.boot_ns, self.stepper.utc_ns)

    def name(self, blob: bytes) -> None:
        """The program that runs."""
        names = blobs.names(blob)
        self.blob = blob
        self.slots, self.interlocks, self.outputs, self.devices = (
            {name: n for n, name in enumerate(names.get(kind, []))}
            for kind in ("tags", "interlocks", "outputs", "devices")
        )

    def gateway(self, *, present: bool) -> None:
        """The gateway's session begins or ends."""
        if present and self.stepper.connected:
            return
        if present:
            self.stepper.connect()
        else:
            self.stepper.disconnect()
            self.sessions += 1
        self.reference.gateway(present=present)
