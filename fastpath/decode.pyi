"""Registers or bits -> value and quality, one pass, no object per value."""

class Decoder:
    """A fixed list of points of one reply.

    ``points`` are (at, type, order, bit, scale, offset, low, high, has_range): ``at`` counts
    registers (or bits) from the reply's first; the codes are codes.PointType and codes.ByteOrder;
    ``low`` and ``high`` are inclusive, in engineering units. Raises ValueError for a point that
    cannot be decoded at all (unknown type or order, bit above 15).
    """

    def __init__(
        self, points: list[tuple[int, int, int, int, float, float, float, float, bool]]
    ) -> None: ...
    def registers(self, payload: bytes) -> list[tuple[float, int, int]]:
        """(value, quality, reason) per point; ``payload`` is big-endian registers as on the wire.

        value = raw x scale + offset. NaN and infinities are BAD(not_a_number) with value NaN,
        values outside the range BAD(out_of_range), integers beyond +-2**53 UNCERTAIN(precision).
        A point past the end of the payload raises ValueError.
        """
    def bits(self, payload: bytes) -> list[tuple[float, int, int]]:
        """The same for a coil or discrete-input reply (bit 0 of byte 0 first)."""
