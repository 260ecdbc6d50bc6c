"""Who sends on one uplink now: several together, or one item alone with nothing else under way.

What costs a session, or an answer, can be told apart from its company only where it had none.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager


class Gate:
    """Shared by most, held alone by one; who wants it alone goes before those that come after."""

    def __init__(self) -> None:
        self._alone = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def passing(self, *, alone: bool) -> AsyncIterator[None]:
        """Inside, nothing else is where ``alone``, and nobody that is alone otherwise."""
        async with self._alone:
            if alone:
                await self._empty.wait()
                with self._counted():
                    yield
                return
            inside = ExitStack()
            inside.enter_context(self._counted())
        with inside:
            yield

    async def empty(self) -> None:
        """Returns when nothing is inside."""
        await self._empty.wait()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
