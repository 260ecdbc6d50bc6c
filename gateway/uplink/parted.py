"""Uplinks, and lanes of uplinks, that the site file no longer has while something is owed there.

Taking one out, or renaming an uplink, would silently give up what it has not had yet. So a site
file without it is refused, at a start and at a reload, until the site says that it may go:
``discard_uplinks`` in ``[site]``, with the uplink's id, or ``id/lane`` for a lane. What is given up
is written to the audit. A reload is decided once, before the guard takes the site file; what the
end of the old parts adds after that changes nothing any more. What the stores have is known only
once they are open: those of a start that did not wait for them are kept, and told.
"""

import logging
from typing import TYPE_CHECKING, NamedTuple

from gateway.errors import StoreError
from gateway.store.cursors import ALERT
from gateway.store.lanes import BACKFILL, LIVE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.site.model import Config
    from gateway.store.history import History
    from gateway.store.ledger import Ledger

_LOGGER = logging.getLogger(__name__)


class _Parted(NamedTuple):
    """One uplink, whole (``lane`` is ""), or one lane of it."""

    uplink: str
    lane: str
    alerts: int  # owed
    messages: int

    @property
    def name(self) -> str:
        """As it stands in ``discard_uplinks``."""
        return f"{self.uplink}/{self.lane}" if self.lane else self.uplink

    @property
    def what(self) -> str:
        """For people."""
        if not self.lane:
            return f"[[uplink]] {self.uplink!r}"
        return f"lane {self.lane!r} of {self.uplink!r}"

    @property
    def owed(self) -> str:
        """For people."""
        return f"has {self.alerts} alerts and {self.messages} messages of samples to get"


class PartedUplinks:
    """Those of the stores, which are open, that ``config`` does not have."""

    def __init__(self, config: "Config", ledger: "Ledger", history: "History") -> None:
        self._ledger = ledger
        self._history = history
        self._discard = frozenset(config.site.discard_uplinks)
        self._told = [uplink.id for uplink in config.uplink if ALERT in uplink.lanes]
        self._parted = _parted(
            {uplink.id: uplink.lanes for uplink in config.uplink},
            ledger.cursors.owed(),
            history.owed(),
        )

    def refusals(self) -> list[str]:
        """Why the site file is not to be taken; nothing where it is."""
        return [
            f"site.discard_uplinks: found no {one.what} any more, which {one.owed}; "
            f"expected it back, or discard_uplinks = [{one.name!r}] to give them up"
            for one in self._parted
            if self._is_refused(one)
        ]

    def _is_refused(self, one: _Parted) -> bool:
        return bool(one.alerts + one.messages) and one.name not in self._discard

    async def forget(self, who: str, *, decided: bool = False) -> None:
        """Part with them, audited, and know the site's own from now on.

        One that is refused stays, unless that was ``decided`` before. A store that does not answer
        now keeps them for the next start.
        """
        for one in self._parted:
            if not decided and self._is_refused(one):
                continue
            detail = {"alerts": one.alerts, "messages": one.messages}
            try:
                seq = await self._ledger.command(who, "discard uplink", one.name, detail)
                if one.lane != ALERT:
                    lanes = (one.lane,) if one.lane else (LIVE, BACKFILL)
                    await self._history.forget(one.uplink, lanes)
                if one.lane in ("", ALERT):
                    await self._ledger.cursors.forget(one.uplink)
                await self._ledger.command_result(seq, 1, f"it {one.owed}, given up")
            except StoreError as error:
                _LOGGER.warning("%s is gone, the stores keep it: %s", one.what, error)
                continue
            _LOGGER.warning("%s is gone; it %s", one.what, one.owed)
        try:
            await self._ledger.cursors.begin(self._told)
        except StoreError as error:
            _LOGGER.warning("new uplinks are not known to the ledger yet: %s", error)


def _parted(
    ours: "Mapping[str, Sequence[str]]",
    alerts: "Mapping[str, int]",
    messages: "Mapping[tuple[str, str], int]",
) -> list[_Parted]:
    """What the stores know and the site does not have, of its uplinks those lanes alone."""
    found = []
    for uplink in sorted(alerts.keys() | {uplink for uplink, _lane in messages}):
        rows = {lane: messages.get((uplink, lane), 0) for lane in (LIVE, BACKFILL)}
        if uplink not in ours:
            found.append(_Parted(uplink, "", alerts.get(uplink, 0), sum(rows.values())))
            continue
        if uplink in alerts and ALERT not in ours[uplink]:
            found.append(_Parted(uplink, ALERT, alerts[uplink], 0))
        found += [
            _Parted(uplink, lane, 0, count)
            for lane, count in rows.items()
            if count and lane not in ours[uplink]
        ]
    return found
