"""One sequence of a gateway as it has come so far: ranges, gap markers, counts."""

from typing import NamedTuple

from gateway.receiver.arrival import Head, Samples
from gateway.receiver.ranges import Ranges


class Key(NamedTuple):
    """Whose numbers they are."""

    gateway: str
    uplink: str
    epoch: int
    lane: str


class Stream:
    """Counts and numbers; ``id`` is its row's."""

    def __init__(
        self,
        ident: int,
        key: Key,
        counts: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0),
        came: Ranges | None = None,
        gaps: dict[tuple[int, int], str] | None = None,
    ) -> None:
        self.id = ident
        self.key = key
        (
            self.messages, self.samples, self.doubles, self.differing, self.t_first, self.t_last,
        ) = counts  # fmt: skip
        self.came = came if came is not None else Ranges()
        self.gaps = gaps if gaps is not None else {}

    @property
    def counts(self) -> tuple[int, int, int, int, int, int]:
        """In the order of the table's columns."""
        return (
            self.messages, self.samples, self.doubles, self.differing, self.t_first, self.t_last,
        )  # fmt: skip

    def take(self, head: Head) -> None:
        """Count an item that was not here before."""
        self.messages += 1
        self.came.add(head.seq, head.seq)
        if isinstance(head, Samples) and head.dt_ms:
            self.samples += head.count()
            t_first, t_last = head.span_ns
            self.t_first = min(self.t_first or t_first, t_first)
            self.t_last = max(self.t_last, t_last)

    def accounted(self) -> Ranges:
        """What has come, and what the gateway said will not."""
        found = Ranges(list(self.came))
        for first, last in self.gaps:
            found.add(first, last)
        return found
