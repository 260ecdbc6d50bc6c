"""What waits for room in the guard's mailbox: commands, the newest acknowledgement, samples.

Commands keep their order and go first. Of samples the newest per slot is kept; those that it
replaces are counted. Everything is bounded.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from fastpath import messages
from fastpath.codes import MessageType

QUEUED_MESSAGES_MAX: Final = 64
_SLOT_BYTES: Final = 4  # a SAMPLE begins with its slot


class Outbox:
    """``put(message)`` hands one message to the kernel; False: there is no room now."""

    def __init__(self, put: Callable[[bytes], bool]) -> None:
        self._put = put
        self._queue: deque[bytes] = deque()
        self._ack: tuple[int, int] | None = None
        self._fresh = b""  # samples that nothing of their slot waits before
        self._kept: dict[bytes, bytes] = {}  # slot: its newest sample
        self._program = 0
        self.samples_sent = 0
        self.samples_overwritten = 0

    @property
    def full(self) -> bool:
        """True where no further command may wait."""
        return len(self._queue) >= QUEUED_MESSAGES_MAX

    @property
    def idle(self) -> bool:
        """True where nothing waits."""
        return not (self._queue or self._ack or self._fresh or self._kept)

    def message(self, message: bytes) -> None:
        """One message that must arrive, in order."""
        self._queue.append(message)

    def ack(self, journal_id: int, event_tail: int) -> None:
        """The newest acknowledgement; it says all that an older one said."""
        self._ack = (journal_id, event_tail)

    def samples(self, samples: bytes, program: int) -> None:
        """Samples by the slots of ``program``; what waits for another program is dropped."""
        if program != self._program:
            self._kept.clear()
            self._program = program
        if self._kept:
            self._keep(samples)
        else:
            self._fresh = samples

    def flush(self) -> bool:
        """Send what waits, in the order of its weight; False when some of it did not fit."""
        done = self._flush_messages() and self._flush_fresh() and self._flush_kept()
        if self._fresh:
            self._keep(self._fresh)
            self._fresh = b""
        return done

    def clear(self) -> None:
        """Forget everything: the session is over."""
        self._queue.clear()
        self._kept.clear()
        self._fresh = b""
        self._ack = None

    def _flush_messages(self) -> bool:
        while self._queue:
            if not self._put(self._queue[0]):
                return False
            self._queue.popleft()
        if self._ack is not None:
            body = messages.ACK.pack(*self._ack)
            if not self._put(messages.pack(MessageType.ACK, body)):
                return False
            self._ack = None
        return True

    def _flush_fresh(self) -> bool:
        step = messages.SAMPLES_PER_MESSAGE_MAX * messages.SAMPLE.size
        while self._fresh:
            part = self._fresh[:step]
            if not self._put(self._samples_message(part)):
                return False
            self.samples_sent += len(part) // messages.SAMPLE.size
            self._fresh = self._fresh[step:]
        return True

    def _flush_kept(self) -> bool:
        while self._kept:
            slots = list(self._kept)[: messages.SAMPLES_PER_MESSAGE_MAX]
            part = b"".join(self._kept[slot] for slot in slots)
            if not self._put(self._samples_message(part)):
                return False
            self.samples_sent += len(slots)
            for slot in slots:
                del self._kept[slot]
        return True

    def _keep(self, samples: bytes) -> None:
        size = messages.SAMPLE.size
        for start in range(0, len(samples), size):
            sample = samples[start : start + size]
            slot = sample[:_SLOT_BYTES]
            if slot in self._kept:
                self.samples_overwritten += 1
            self._kept[slot] = sample

    def _samples_message(self, part: bytes) -> bytes:
        return messages.pack(MessageType.SAMPLES, part, program=self._program)
