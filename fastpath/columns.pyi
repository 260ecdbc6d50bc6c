"""Samples <-> columns of one poll group: a body of codec 0 or 1, its messages, its series."""

from array import array
from collections.abc import Sequence

CODEC_PLAIN: int  # 0: one time column, float64 values, one quality byte each
CODEC_PACKED: int  # 1: whole milliseconds, each tag's values in the form that takes least

ABSENT: int  # 0xFF in a quality column: the tag has no sample at that time

SAMPLES_MAX: int  # of one body

FIELDS: int  # 5: of each tag in a summary minimum, mean, maximum, last, count

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

def merge(pieces: Sequence[tuple[Sequence[int], int, bytes]], tags: int) -> bytes:
    """One codec 1 body over a group's ``tags`` places, of pieces (places, codec, body).

    ``places`` says where each tag of the piece stands in the group. Each tag's samples are sorted
    by time, those of one time in the order of the pieces; times are cut down to milliseconds.
    Raises ValueError for a body or place that is none, and for more than SAMPLES_MAX samples.
    """

class Block:
    """A decoded body of a group of ``tags``. Raises ValueError for anything that is not one.

    What it allocates is bounded, whatever the body says. A message is (times in UTC ns, places in
    the group, values, quality bytes): ``values[i][j]`` is the tag at ``places[i]`` at time j, and
    its quality ABSENT where it has none.
    """

    samples: int
    t_first_ns: int  # 0 where there are no samples, as t_last_ns
    t_last_ns: int
    def __init__(self, codec: int, body: bytes, tags: int) -> None: ...
    def messages(self) -> int:
        """How many messages of at most 1,000 samples it is cut into: always the same of a body.

        Where at least half of the cells are filled: all tags, so many times as go in; else the
        samples of one tag at a time.
        """
    def message(self, index: int) -> tuple[list[int], list[int], list[list[float]], list[bytes]]:
        """One of them. Raises IndexError."""
    def whole(self) -> tuple[list[int], list[int], list[list[float]], list[bytes]]:
        """All of it as one message. Raises ValueError where less than a 16th were filled."""
    def series(self, place: int, t0_ns: int, t1_ns: int) -> list[tuple[int, float, int]]:
        """(UTC ns, value, quality byte) of the tag at ``place`` in t0 .. t1, by time.

        Raises IndexError for a place that is none.
        """

    def summary(self, span_ns: int) -> bytes:
        """Its samples by buckets of ``span_ns`` (whole ms): a codec 1 body of FIELDS * tags places.

        Of each tag and bucket, at the bucket's begin: the least, mean (to 7 digits) and greatest
        value and how many there are of finite ones that are not BAD; the last of them at its own
        time; NaN where there is none. The quality is the worst of all samples. Raises ValueError.
        """
