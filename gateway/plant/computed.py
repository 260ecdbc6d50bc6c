"""The site's computed tags at work: made of every run of samples, among which they then stand.

Windows begin with what the history knows. What the machine slept through, or what passed while the
gateway was away, is no sample: a window counts it as not covered.
"""

import logging
import math
import time
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from fastpath.codes import NONE_U32, Quality, Reason
from fastpath.columns import quality_byte, remap, split_quality
from fastpath.evaluator import Evaluator
from fastpath.messages import SAMPLE
from gateway.errors import StoreError
from gateway.guard.by_hand import unsubstituted

if TYPE_CHECKING:
    from gateway.guard.apply import Running
    from gateway.guard.link import GuardLink
    from gateway.logic.computing import ComputedProgram
    from gateway.site.model import Config
    from gateway.store.history import History

_LOGGER = logging.getLogger(__name__)

TICK_NS: Final = 1_000_000_000
HISTORY_WAIT_NS: Final = 5_000_000_000  # for a history that cannot be read: then without it
WAITING_BYTES_MAX: Final = 8 * 1024 * 1024  # of samples that came before the past was read
PIECES: Final = 24  # in which the past of a tag is read
PIECE_NS_MIN: Final = 60_000_000_000


class Made(NamedTuple):
    """Samples with those of computed tags among them, and of the latter those to keep."""

    samples: bytes
    kept: bytes = b""


class ComputedValues:
    """Evaluates computed tags. ``running`` tells which of them the guard's program asks for."""

    def __init__(
        self,
        program: "ComputedProgram",
        config: "Config",
        link: "GuardLink",
        running: "Callable[[], Running]",
        *,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.dropped = 0  # samples that came before the past was read and found no room
        self._program = program
        self._link = link
        self._running = running
        self._monotonic_ns = monotonic_ns
        self._utc_ns = utc_ns
        self._stale_ns = {tag.id: int(tag.stale_after or 0) for tag in config.tag}
        self._evaluator = Evaluator(program.blob)
        ids = [tag.id for tag in config.tag]
        slots = array("I", [program.slots.get(ident, NONE_U32) for ident in ids])
        self._evaluator.compute(list(program.outputs), slots)
        self._far = frozenset(i for i, ident in enumerate(ids) if ident in program.far)
        self._begun = not program.outputs
        self._waiting = bytearray()
        self._asked_ns = 0
        self._ticked_ns = 0

    def run(self, samples: bytes) -> Made:
        """Make the computed tags of these samples, which come in the order of their arrival."""
        if not self._program.outputs:
            return Made(samples)
        if not self._begun:
            self._wait(samples)
            return Made(samples)
        made, kept = self._evaluator.run(samples)
        self._feed_guard(made)
        return Made(made, kept)

    def tick(self, now_ns: int) -> Made:
        """Once a second: windows and delays go on while no sample comes."""
        if not self._begun or not self._program.outputs or now_ns - self._ticked_ns < TICK_NS:
            return Made(b"")
        self._ticked_ns = now_ns
        utc_ns = self._utc_ns()
        made, kept = self._evaluator.tick(now_ns, utc_ns)
        if self._far:
            self._feed_guard(self._evaluator.standing(now_ns, utc_ns))
        return Made(made, kept)

    async def begin(self, history: "History", journal_id: int) -> Made:
        """Fill the windows from the history, once; then what has waited for it.

        ``journal_id`` of the guard tells whether its samples go on where the history ends. Raises
        StoreError while the history cannot be read; after a time it begins without.
        """
        if self._begun:
            return Made(b"")
        now_ns = self._monotonic_ns()
        self._asked_ns = self._asked_ns or now_ns
        try:
            lived = await history.sample_position(journal_id) is not None
            await self._recall(history, guard_lived=lived)
        except StoreError:
            if now_ns - self._asked_ns < HISTORY_WAIT_NS:
                raise
            _LOGGER.warning("the windows of computed tags begin empty: no history to read")
        self._begun = True
        waiting, self._waiting = bytes(self._waiting), bytearray()
        made, kept = self._evaluator.run(waiting)
        # The samples themselves have gone their way already.
        return Made(b"".join(self._own(made)), kept)

    # ---- the past

    async def _recall(self, history: "History", *, guard_lived: bool) -> None:
        ahead_ns = self._utc_ns() - self._monotonic_ns()
        end_ns = await history.newest()
        for ident, span_ns in self._program.spans_ns.items():
            piece_ns = max(span_ns // PIECES, PIECE_NS_MIN)
            now_ns = self._utc_ns()
            for start_ns in range(now_ns - span_ns - piece_ns, now_ns, piece_ns):
                last_ns = min(start_ns + piece_ns, now_ns) - 1
                self._fill(ident, await history.read(ident, start_ns, last_ns), ahead_ns)
            silent_ns = end_ns + self._stale_ns[ident]
            if not guard_lived and silent_ns < now_ns:
                # From here on nobody looked.
                gap = (silent_ns, math.nan, quality_byte(Quality.BAD, Reason.COMM_FAILURE))
                self._fill(ident, [gap], ahead_ns)

    def _fill(self, ident: str, seen: Sequence[tuple[int, float, int]], ahead_ns: int) -> None:
        """Rows of the history into the windows of a tag; ``ahead_ns``: UTC minus monotonic."""
        records = bytearray()
        for utc_ns, value, byte in seen:
            quality, reason = split_quality(byte)
            records += SAMPLE.pack(0, quality, reason, 0, value, utc_ns - ahead_ns, utc_ns)
        for number in self._program.windows[ident]:
            self._evaluator.fill(number, bytes(records))

    def _wait(self, samples: bytes) -> None:
        if len(self._waiting) + len(samples) > WAITING_BYTES_MAX:
            self.dropped += len(samples) // SAMPLE.size
            return
        self._waiting += samples

    # ---- the guard

    def _feed_guard(self, samples: bytes) -> None:
        """Tell the guard the computed tags that its program reads."""
        if not self._far:
            return
        running = self._running()
        wanted = {i: running.slot_of(i) for i in self._far if running.slot_of(i) != NONE_U32}
        if not wanted:
            return
        table = array("I", [wanted.get(i, NONE_U32) for i in range(max(wanted) + 1)])
        found = unsubstituted(remap(samples, table))
        if found:
            self._link.send_samples(found, running.number)

    def _own(self, samples: bytes) -> list[bytes]:
        """Of these samples those of computed tags."""
        own = {output.tag for output in self._program.outputs}
        size = SAMPLE.size
        pieces = (samples[at : at + size] for at in range(0, len(samples), size))
        return [piece for piece in pieces if SAMPLE.unpack(piece)[0] in own]
