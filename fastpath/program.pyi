"""The program: verify a blob, evaluate it over an image. Single assignment, no jumps."""

from array import array

class BlobRefused(ValueError):
    """``rule`` is the verification rule (1 to 14) that the blob breaks."""

    rule: int
    def __init__(self, rule: int) -> None: ...

def verify(blob: bytes) -> None:
    """Check every rule for a program of the guard; raises BlobRefused."""

class Conditions:
    """A program's conditions over an image of its own: the gateway's alarms, checks and tests.

    Same code as the guard's, called with the GIL held. Times are monotonic nanoseconds.
    """

    def __init__(self, blob: bytes) -> None: ...  # verifies; raises BlobRefused
    def write(self, slot: int, value: float, quality: int, reason: int, mono_ns: int) -> None:
        """Store a tag's value. Raises IndexError."""
    def fill(self, window: int, samples: bytes) -> None:
        """Let a window have seen messages.SAMPLE records of its tag, oldest first.

        By mono_ns, which is negative before the boot; the slot in them is not looked at, and what
        is not newer than the window's newest is left out. Raises IndexError, or ValueError when
        the length is not a whole number of records.
        """
    def evaluate(self, now_ns: int) -> None:
        """One scan: staleness (stale_after_ns of the slot), then every instruction.

        A time before that of the last scan counts as that one.
        """
    def truth(self, register: int) -> int:
        """codes.Truth of a truth register after the last scan. Raises IndexError, ValueError."""
    def starting(self, register: int) -> bool:
        """True while an input of this register was never read (at most start_within_ns)."""
    def number(self, register: int) -> tuple[float, int]:
        """(value, quality: 0 bad or 2 good) of a number register. Raises IndexError, ValueError."""
    def deciding(self, register: int) -> int:
        """Slot of the leading tag of a register, codes.NONE_U32: none. Raises IndexError."""
    def watch(self, registers: list[int], slots: array[int]) -> None:
        """Report changes of these truth registers from :meth:`feed`, at first from unknown.

        ``slots`` (array of type "I") maps a sample's slot to this program's, codes.NONE_U32: not
        of this program. Raises IndexError or ValueError for a register that is no truth.
        """
    def feed(self, samples: bytes) -> list[tuple[int, int, int, int]]:
        """Store messages.SAMPLE records, evaluate after each run of equal mono_ns.

        Returns (mono_ns, utc_ns, register, codes.Truth) for every change of a watched register.
        Raises ValueError when the length is not a whole number of records.
        """
    def advance(self, mono_ns: int, utc_ns: int) -> list[tuple[int, int, int, int]]:
        """Evaluate at a time without samples; returns changes as :meth:`feed` does."""
