"""Samples that wait for the history, by poll group, and the pieces that are made of them."""

PENDING_MAX: int  # samples that an Accumulator keeps

class Accumulator:
    """Samples of poll groups until they are stored: pieces of at most ``max_samples`` samples.

    ``groups`` are lists of tag indices; a tag is in at most one (else ValueError). Bodies are
    of codec 1 (columns.CODEC_PACKED). Times are cut down to whole milliseconds: what a poll's
    stamp says below them is noise.
    """

    refused: int  # samples that came when PENDING_MAX waited
    def __init__(self, groups: list[list[int]], max_samples: int = 1000) -> None: ...
    def add(self, samples: bytes) -> int:
        """Keep messages.SAMPLE records whose slot is a tag of a group; returns how many.

        Raises ValueError when the length is not a whole number of records.
        """
    def pending(self) -> int:
        """Samples that were added and not yet taken."""
    def take(self) -> list[tuple[int, list[int], int, int, int, bytes]]:
        """All that waits, as pieces (group, tags, t_first, t_last, n_samples, body), oldest first.

        A piece has at most max_samples samples; ``tags`` are those that have one in it, ``body``
        is theirs. Samples of one group and ms share a time, unless one tag has two of them.
        """
