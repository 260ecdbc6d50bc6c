"""Samples <-> packed columns of one poll group: one time column, a value and a quality per tag."""

CODEC_PLAIN: int  # 0: float64 values, one quality byte each

ABSENT: int  # 0xFF in a quality column: the tag has no sample at that time

def quality_byte(quality: int, reason: int) -> int:
    """quality | reason << 2, the one-byte form kept in columns."""

def split_quality(byte: int) -> tuple[int, int]: ...
def pack(times_ns: list[int], values: list[list[float]], qualities: list[bytes]) -> bytes:
    """Codec 0 body of n times x m tags: ``values[i][j]``, ``qualities[i][j]``: tag i at time j.

    Raises ValueError when the columns are not of one length.
    """

def unpack(body: bytes) -> tuple[list[int], list[list[float]], list[bytes]]:
    """The inverse of :func:`pack`. Raises ValueError for a body that is not one."""
