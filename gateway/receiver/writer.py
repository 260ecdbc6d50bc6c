"""The receiver's one thread of its own: takes what lies there together into one commit.

So a hundred messages that wait cost one sync of the disk, and one alone waits for nobody.
"""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from gateway.receiver.arrival import Arrival
from gateway.receiver.platform import Outcome, Platform

_LOGGER = logging.getLogger(__name__)

BATCH_MAX: Final = 256
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024

_T = TypeVar("_T")
_Taken = tuple[Arrival, Callable[[Outcome], object]]
_Call = Callable[[], None]


class Writer:
    """Owns the platform while it runs. ``put`` and ``call`` from any thread."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._queue: queue.SimpleQueue[_Taken | _Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Finish what lies there, and end."""
        self._queue.put(None)
        self._thread.join()

    def put(self, arrival: Arrival, done: Callable[[Outcome], object]) -> None:
        """``done`` is called in the writer's thread, once it is stored or not."""
        self._queue.put((arrival, done))

    def call(self, look: Callable[[Platform], _T]) -> "Future[_T]":
        """Ask the platform something, between two commits."""
        answer: Future[_T] = Future()

        def ask() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(look(self._platform))
                except Exception as error:  # noqa: BLE001  it is the asker's
                    answer.set_exception(error)

        self._queue.put(ask)
        return answer

    def _run(self) -> None:
        held: _Taken | _Call | None
        while (held := self._queue.get()) is not None:
            if callable(held):
                held()
                continue
            batch, held = self._more(held)
            outcomes = self._platform.take([arrival for arrival, _ in batch])
            for (_, done), outcome in zip(batch, outcomes, strict=True):
                try:
                    done(outcome)
                except Exception:  # one who does not hear it must not keep it from the others
                    _LOGGER.exception("receive: a sender was not answered")
            if held is not None:
                held()

    def _more(self, first: _Taken) -> tuple[list[_Taken], _Call | None]:
        """What lies there now, bounded; a call behind it ends the batch."""
        batch = [first]
        size = len(first[0].body)
        while len(batch) < BATCH_MAX and size < BATCH_BYTES_MAX:
            try:
                held = self._queue.get_nowait()
            except queue.Empty:
                break
            if held is None:
                self._queue.put(None)  # nobody puts after the end
                break
            if callable(held):
                return batch, held
            batch.append(held)
            size += len(held[0].body)
        return batch, None
