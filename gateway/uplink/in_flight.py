"""What is in flight to a broker at once; alerts have a share of their own, free of samples."""

import asyncio

from gateway.uplink.base import ALERT


class Slots:
    """Places for ``total`` messages."""

    def __init__(self, total: int) -> None:
        self._all = asyncio.Semaphore(total)
        self._samples = asyncio.Semaphore(max(1, total - max(1, total // 4)))

    def of(self, lane: str) -> "_Slot":
        """One place, to be held with ``async with``; first come, first served in a lane."""
        return _Slot([self._all] if lane == ALERT else [self._samples, self._all])


class _Slot:
    """One place in flight."""

    def __init__(self, semaphores: list[asyncio.Semaphore]) -> None:
        self._wanted = semaphores
        self._held: list[asyncio.Semaphore] = []

    async def __aenter__(self) -> None:
        try:
            for semaphore in self._wanted:
                await semaphore.acquire()
                self._held.append(semaphore)
        except asyncio.CancelledError:
            self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        while self._held:
            self._held.pop().release()
