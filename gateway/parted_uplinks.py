"""Uplinks that the site file no longer has while something is still owed to them.

Taking one out, or renaming it, would silently give up what it has not had yet. So a site file
without it is refused, at a start and at a reload, until the site says that it may go:
``discard_uplinks`` in ``[site]``. What is given up is written to the audit. A reload is decided
once, before the guard takes the site file; what the end of the old parts adds after that changes
nothing any more.
"""

import logging
from typing import TYPE_CHECKING

from gateway.errors import ConfigError, StoreError
from gateway.store.cursors import ALERT

if TYPE_CHECKING:
    from gateway.site.model import Config
    from gateway.store.history import History
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)


class PartedUplinks:
    """Those of the stores that ``config`` does not have."""

    def __init__(self, config: "Config", ledger: "Ledger", history: "History") -> None:
        self._ledger = ledger
        self._history = history
        self._discard = frozenset(config.site.discard_uplinks)
        self._told = [uplink.id for uplink in config.uplink if ALERT in uplink.lanes]
        ours = {uplink.id for uplink in config.uplink}
        alerts, messages = ledger.cursors.owed(), history.owed()
        self._owed = {
            uplink: (alerts.get(uplink, 0), messages.get(uplink, 0))
            for uplink in sorted((alerts.keys() | messages.keys()) - ours)
        }

    def refusals(self) -> list[str]:
        """Why the site file is not to be taken; nothing where it is."""
        return [
            f"site.discard_uplinks: found no [[uplink]] {uplink!r} any more, which {_words(owed)}; "
            f"expected it back, or discard_uplinks = [{uplink!r}] to give them up"
            for uplink, owed in self._owed.items()
            if any(owed) and uplink not in self._discard
        ]

    async def forget(self, who: str, *, decided: bool = False) -> None:
        """Part with them, audited, and know the site's own from now on.

        A store that does not answer now keeps them for the next start. Raises ConfigError where
        one may not go, unless that was ``decided`` before: then nothing is refused any more.
        """
        if not decided and (refusals := self.refusals()):
            raise ConfigError(refusals)
        for uplink, owed in self._owed.items():
            detail = {"alerts": owed[0], "messages": owed[1]}
            try:
                seq = await self._ledger.command(who, "discard uplink", uplink, detail)
                await self._history.forget(uplink)
                await self._ledger.cursors.forget(uplink)
                await self._ledger.command_result(seq, 1, f"it {_words(owed)}, given up")
            except StoreError as error:
                _LOGGER.warning("uplink %s is gone, the stores keep it: %s", uplink, error)
                continue
            _LOGGER.warning("uplink %s is gone; it %s", uplink, _words(owed))
        try:
            await self._ledger.cursors.begin(self._told)
        except StoreError as error:
            _LOGGER.warning("new uplinks are not known to the ledger yet: %s", error)


def _words(owed: tuple[int, int]) -> str:
    alerts, messages = owed
    return f"has {alerts} alerts and {messages} messages of samples to get"
