"""Computed tags: the gateway's conditions and numbers, as samples among samples."""

from array import array
from typing import NamedTuple

from fastpath.program import Conditions

class Output(NamedTuple):
    """A computed tag: its register, the site's index of it, its inputs' slots."""

    register: int
    tag: int
    record: int  # RecordMode
    inputs: list[int]

class Evaluator(Conditions):
    """Computes tags of the samples that they are made of. Times are monotonic nanoseconds."""

    def compute(self, outputs: list[Output], slots: array[int]) -> None:
        """What to compute. ``slots`` as in :meth:`Conditions.watch`.

        Raises IndexError for a register or slot that is not of this program.
        """
    def run(self, samples: bytes) -> tuple[bytes, bytes]:
        """Evaluate after each run of equal mono_ns.

        Returns the samples with those of computed tags that changed behind their run, and of the
        latter those that the history keeps. Raises ValueError for a broken length.
        """
    def tick(self, mono_ns: int, utc_ns: int) -> tuple[bytes, bytes]:
        """Evaluate at a time without samples; returns changes as :meth:`run` does."""
    def standing(self, mono_ns: int, utc_ns: int) -> bytes:
        """Every computed tag as it stands, stamped with this time."""
