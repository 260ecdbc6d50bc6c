"""The program: verify a blob, evaluate it over an image. Single assignment, no jumps."""

class BlobRefused(ValueError):
    """``rule`` is the verification rule (1 to 14) that the blob breaks."""

    rule: int

def verify(blob: bytes) -> None:
    """Check every rule for a program of the guard; raises BlobRefused."""

class Conditions:
    """A program's conditions over an image of its own: the gateway's alarms, checks and tests.

    Same code as the guard's, called with the GIL held. Times are monotonic nanoseconds.
    """

    def __init__(self, blob: bytes) -> None: ...  # verifies; raises BlobRefused
    def write(self, slot: int, value: float, quality: int, reason: int, mono_ns: int) -> None: ...
    def evaluate(self, now_ns: int) -> None:
        """One scan: staleness (stale_after_ns of the slot), then every instruction."""
    def truth(self, register: int) -> int:
        """codes.Truth of a truth register after the last scan."""
    def starting(self, register: int) -> bool:
        """True while an input of this register was never read."""
    def number(self, register: int) -> tuple[float, int]:
        """(value, quality: 0 bad or 2 good) of a number register."""
