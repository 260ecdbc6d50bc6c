"""A site file loaded anew while everything runs: whole, or not at all.

The file is checked whole, then the guard is asked under its swap rules; only when it runs the new
program is the gateway's own part exchanged. What weakens is named and wants a reason.
"""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastpath import blob
from fastpath.codes import LoadFlag, LoadStep, ResultCode, ResultDetail
from gateway.check import check_site
from gateway.errors import ConfigError, GatewayError, GuardError
from gateway.guard.apply import program_blob, refusal_text, store_program
from gateway.guard.weakening import weakening_text, weakenings
from gateway.orders.outcome import Exit, Outcome, not_reached
from gateway.uplink.parted import PartedUplinks

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastpath.messages import Result
    from gateway.check import Checked
    from gateway.parts import Gateway

_LOGGER = logging.getLogger(__name__)

WEAKENS_HINT: Final = "say why with 'sitewarden reload --weakens REASON'"


class Reloader:
    """Loads the site of ``path`` anew. ``exchange`` is told what the guard runs from now on.

    ``gateway`` gives the parts that run now.
    """

    def __init__(
        self,
        path: Path,
        credentials: Path | None,
        gateway: "Callable[[], Gateway]",
        exchange: "Callable[[Checked], None]",
    ) -> None:
        self._path = path
        self._credentials = credentials
        self._gateway = gateway
        self._exchange = exchange
        self._busy = asyncio.Lock()

    async def reload(self, site: str, weakens: str, who: str) -> Outcome:
        """Load ``site`` ("" for the file that runs), with a reason for what it weakens or none.

        Raises nothing of ours; a refusal changes nothing.
        """
        if self._busy.locked():
            return _failed("another reload is under way; look with 'sitewarden status'")
        async with self._busy:
            outcome = await self._reload(Path(site) if site else self._path, weakens, who)
        problems = self._gateway().problems
        if outcome.exit_code in (Exit.DONE, Exit.ALREADY):
            problems.cleared("program", "reload", outcome.text)
        else:
            problems.raised("program", "reload", f"reload by {who} refused: {outcome.text}")
        return outcome

    async def _reload(self, path: Path, weakens: str, who: str) -> Outcome:
        try:
            checked = await asyncio.to_thread(
                check_site, path, credentials_dir=self._credentials, require_credentials=False
            )
        except ConfigError as error:
            return Outcome(exit_code=Exit.USAGE, code=0, text="\n".join(error.errors))
        before = self._gateway().config.site
        if checked.config.site.id != before.id:
            text = f"{path} is of the site {checked.config.site.id}, here runs {before.id}"
            return _failed(text)
        gateway = self._gateway()
        simulation = gateway.simulation
        try:
            if simulation is not None:
                checked = await asyncio.to_thread(simulation.prepare, checked)
            elif lines := PartedUplinks(checked.config, gateway.ledger, gateway.history).refusals():
                return Outcome(exit_code=Exit.USAGE, code=0, text="\n".join(lines))
            refused = await self._to_the_guard(checked, path, weakens, who)
            if simulation is not None:
                await asyncio.to_thread(simulation.settle, taken=refused is None)
        except GuardError as error:
            return not_reached(str(error))
        except (GatewayError, OSError) as error:
            return _failed(f"not done: {error}; the old site runs on")
        if refused is not None:
            return refused
        self._path = path
        self._exchange(checked)
        return Outcome(exit_code=Exit.DONE, code=0, text=f"{path} runs", confirmed=True)

    async def _to_the_guard(
        self, checked: "Checked", path: Path, weakens: str, who: str
    ) -> Outcome | None:
        """Have the guard run it; an Outcome where it does not."""
        gateway = self._gateway()
        # The guard's own word: right after an exchange our parts do not know it yet.
        view = gateway.view()
        running = gateway.running.program if view is None else view.header().program
        digest = blob.blob_hash(checked.program)
        if digest == running:
            await gateway.ledger.command(who, "reload", str(path), {"program": digest.hex()})
            return None
        store_program(gateway.paths, checked.program)
        looked = await gateway.link.load(digest, running, 1, step=LoadStep.VERIFY)
        if looked.code != ResultCode.DONE:
            return _refused(looked, refusal_text(looked))
        weaker = looked.detail >= ResultDetail.WEAKENS
        words = self._weakened_words(running, checked.program) if weaker else ""
        if weaker and not weakens.strip():
            text = f"it weakens protection: {words}; {WEAKENS_HINT}"
            return Outcome(exit_code=Exit.REFUSED, code=ResultCode.NOT_ALLOWED, text=text)
        detail = {"program": digest.hex(), "from": running.hex(), "weakens": words}
        seq = await gateway.ledger.command(who, "reload", str(path), detail | {"reason": weakens})
        result = await gateway.link.load(
            digest, running, seq, flags=LoadFlag.WEAKENS if weaker else 0
        )
        await gateway.ledger.command_result(seq, result.code, result.text)
        if result.code not in (ResultCode.DONE, ResultCode.ALREADY):
            return _refused(result, refusal_text(result))
        return None

    def _weakened_words(self, running: bytes, program: bytes) -> str:
        """What becomes weaker, interlock by interlock."""
        old = program_blob(self._gateway().paths, running)
        found = weakenings(old, program) if old is not None else []
        return weakening_text(found) or "armed interlocks are not what they were"


def _failed(text: str) -> Outcome:
    return Outcome(exit_code=Exit.FAILED, code=0, text=text)


def _refused(result: "Result", text: str) -> Outcome:
    return Outcome(exit_code=Exit.REFUSED, code=result.code, text=f"{text}; the old site runs on")
