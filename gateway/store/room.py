"""Room on a full disk: the owner deletes its oldest, then the reserve is given back step by step.

The last of the reserve is not for growing: with the file's size fixed, what is deleted makes room;
without room for the -wal not even that would be possible.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from typing import Final

from gateway.life.descriptors import SPARE_ONES
from gateway.store.owned_file import OwnedFile
from gateway.store.owner import Owner
from gateway.store.reserve import Reserve
from gateway.store.sqlite_errors import is_full

_LOGGER = logging.getLogger(__name__)

STEP_BYTES: Final = 4 * 1024 * 1024
PINCH_BYTES: Final = 16 * 1024 * 1024  # of the reserve: for the -wal and its checkpoint alone


class Room:
    """Of one database; used by its one task alone."""

    def __init__(self, file: OwnedFile, owner: Owner, reserve_bytes: int) -> None:
        self._file = file
        self._owner = owner
        self._reserve = Reserve(file.path.with_name(f"{file.path.name}.reserve"), reserve_bytes)
        self._pinched = False  # the reserve is nearly used up: the file grows no more

    @property
    def reserve_bytes(self) -> int:
        """Bytes kept for a full disk now."""
        return self._reserve.held_bytes

    async def make(self) -> bool:
        """True where there is room again. Raises sqlite3.Error."""
        if self._pinched and await self._unpinch():
            return True
        connection = self._file.connection
        if connection is not None:
            try:
                then = await self._file.transaction(connection, self._owner.make_room)
                if then:
                    then()
                    return True
            except sqlite3.Error as error:
                if not is_full(error):
                    raise
        return await self.give()

    async def make_where_short(self) -> bool:
        """True where the disk was short after all, and some was given."""
        return await asyncio.to_thread(self._reserve.short) and await self.give()

    async def look(self) -> None:
        """Fill the reserve as far as the disk has room again."""
        if self._pinched:
            with contextlib.suppress(sqlite3.Error):  # the next job meets it, and mends
                await self._unpinch()
        elif not self._reserve.full:
            await self._with_reserve(self._reserve.fill)

    async def give(self) -> bool:
        """Give the disk a step of the reserve; False where nothing is left."""
        given = await self._with_reserve(self._reserve.give, STEP_BYTES)
        if given and not self._pinched and self._reserve.held_bytes < PINCH_BYTES:
            await self._pinch(yes=True)
        return given

    async def _unpinch(self) -> bool:
        """True where the disk has room again, be it less than for the whole reserve."""
        if not await self._with_reserve(self._reserve.refill, PINCH_BYTES):
            return False
        await self._pinch(yes=False)
        return True

    async def _pinch(self, *, yes: bool) -> None:
        self._pinched = yes
        await self._file.pinch(yes=yes)

    async def _with_reserve(self, call: Callable[..., bool], *args: int) -> bool:
        try:
            with SPARE_ONES.lent():
                return await asyncio.to_thread(call, *args)
        except OSError as error:
            _LOGGER.debug("%s: reserve: %s", self._file.path.name, error)
            return False
