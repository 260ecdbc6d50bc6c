"""Bytes of an input, taken from the front; past the end there are zeros."""


class Reader:
    """What is left of an input."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes not taken yet."""
        return max(0, len(self.data) - self.at)

    def number(self, size: int = 1) -> int:
        """An unsigned little-endian number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end."""
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)
