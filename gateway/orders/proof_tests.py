"""Proof tests that are due: told once, shown until one has passed.

An interlock with ``test_every`` is overdue that long after its last test that passed, and at once
where none is on record. It goes on protecting: what is overdue is the proof.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.store.audit_memory import ProofTest
from gateway.times import span_words

if TYPE_CHECKING:
    from gateway.life.problems import Problems
    from gateway.site.model import Config
    from gateway.store.ledger import Ledger

LOOK_S: Final = 60.0
_KIND: Final = "proof test"


def due_utc_ns(proof: ProofTest | None, every_ns: int) -> int:
    """When the next proof test is due; 0: at once, because none has ever passed."""
    passed_ns = proof.passed_utc_ns if proof else 0
    return passed_ns + every_ns if passed_ns else 0


class ProofWatch:
    """Looks at the proof tests of a site."""

    def __init__(
        self,
        config: "Config",
        ledger: "Ledger",
        problems: "Problems",
        *,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._every = {
            item.id: int(item.test_every) for item in config.interlock if item.test_every
        }
        self._ledger = ledger
        self._problems = problems
        self._utc_ns = utc_ns

    async def run(self) -> None:
        """Look for ever; returns only by cancellation."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Tell what is overdue now, and what no longer is. Nothing while the ledger is away."""
        if not self._ledger.ok:
            return
        proofs, now_ns = self._ledger.audit.proofs(), self._utc_ns()
        for ident, every_ns in self._every.items():
            proof = proofs.get(ident)
            due_ns = due_utc_ns(proof, every_ns)
            if now_ns < due_ns:
                self._problems.cleared(_KIND, ident, "a proof test has passed")
                continue
            every = span_words(every_ns)
            last = span_words(now_ns - due_ns + every_ns) + " ago" if due_ns else "never"
            text = (
                f"its proof test is overdue: asked for every {every}, passed last {last}; "
                f"'sitewarden drill {ident}' makes one (it trips the outputs)"
            )
            self._problems.raised(_KIND, ident, text, priority="medium")
