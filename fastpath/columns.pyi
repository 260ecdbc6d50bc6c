"""Samples <-> packed columns of one poll group: one time column, a value and a quality per tag."""

from array import array

CODEC_PLAIN: int  # 0: float64 values, one quality byte each

ABSENT: int  # 0xFF in a quality column: the tag has no sample at that time

PENDING_MAX: int  # samples that an Accumulator keeps

def quality_byte(quality: int, reason: int) -> int:
    """quality | reason << 2, the one-byte form kept in columns. Raises ValueError."""

def split_quality(byte: int) -> tuple[int, int]:
    """(quality, reason) of a quality byte."""

def pack(times_ns: list[int], values: list[list[float]], qualities: list[bytes]) -> bytes:
    """Codec 0 body of n times x m tags: ``values[i][j]``, ``qualities[i][j]``: tag i at time j.

    Raises ValueError when the columns are not of one length.
    """

def unpack(body: bytes) -> tuple[list[int], list[list[float]], list[bytes]]:
    """The inverse of :func:`pack`. Raises ValueError for a body that is not one."""

def remap(samples: bytes, table: array[int]) -> bytes:
    """Samples with ``slot := table[slot]``; left out where that is NONE_U32 or outside the table.

    ``table`` is an array of type "I". Raises ValueError when the length is not a whole number of
    records.
    """

class Accumulator:
    """Samples of poll groups until they are stored: rows of at most ``max_samples`` samples.

    ``groups`` are lists of tag indices; a tag is in at most one (else ValueError).
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
        """All that waits, as rows (group, tags, t_first, t_last, n_samples, body), oldest first.

        A row has at most max_samples samples; ``tags`` are those that have one in it, ``body`` is
        their :func:`pack` form. Samples of one group and utc_ns share a time, unless one tag has
        two of them.
        """
