"""TagImage: the newest value, quality and times of each tag of one process."""

class TagImage:
    """``count`` slots, all BAD(never_read) at first."""

    count: int
    def __init__(self, count: int) -> None: ...
    def apply(self, samples: bytes) -> int:
        """Store messages.SAMPLE records; returns how many were stored.

        Left out: a slot outside the image, and what is older than what stands there.
        Raises ValueError when the length is not a whole number of records.
        """
    def put(
        self,
        i: int,
        value: float,
        quality: int,
        reason: int,
        mono_ns: int,
        utc_ns: int,
        source_utc_ns: int,
    ) -> None:
        """Store one value. Raises IndexError."""
    def get(self, i: int) -> tuple[float, int, int, int, int, int]:
        """(value, quality, reason, mono_ns, utc_ns, source_utc_ns). Raises IndexError."""
