"""What a site no longer has an uplink for, given up as soon as both stores can tell of it."""

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.errors import ConfigError
from gateway.uplink.parted import PartedUplinks

if TYPE_CHECKING:
    from gateway.life.problems import Problems
    from gateway.site.model import Config
    from gateway.store.history import History
    from gateway.store.ledger import Ledger

STORES_LOOK_S: Final = 1.0


class Parting:
    """Of one start or reload. ``decided``: nothing is refused any more, whatever is owed."""

    def __init__(
        self,
        config: "Config",
        ledger: "Ledger",
        history: "History",
        problems: "Problems",
        *,
        decided: bool,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._history = history
        self._problems = problems
        self._decided = decided
        self.done: Final = asyncio.Event()

    @property
    def known(self) -> bool:
        """Whether both stores are open, and so can tell what is owed."""
        return self._ledger.ok and self._history.ok

    def check(self) -> None:
        """Raises ConfigError where one may not go; to be asked where it is ``known``."""
        refusals = self._uplinks().refusals()
        if refusals:
            raise ConfigError(refusals)

    async def run(self) -> None:
        """Wait for the stores, and part. What may not go then is kept, and told."""
        while not self.known:  # noqa: ASYNC110  they tell nobody
            await asyncio.sleep(STORES_LOOK_S)
        uplinks = self._uplinks()
        await uplinks.forget("site file", decided=self._decided)
        refusals = [] if self._decided else uplinks.refusals()
        if refusals:
            self._problems.raised("gateway", "parted uplinks", "; ".join(refusals))
        else:
            text = "no uplink that the site file lacks is owed anything"
            self._problems.cleared("gateway", "parted uplinks", text)
        self.done.set()
        await asyncio.Event().wait()

    def _uplinks(self) -> PartedUplinks:
        return PartedUplinks(self._config, self._ledger, self._history)
