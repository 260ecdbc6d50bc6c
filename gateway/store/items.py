"""A message of samples as it leaves: columns of one poll group's tags."""

from collections.abc import Sequence

from msgspec import Struct


class SampleItem(Struct, frozen=True):
    """One message of samples: ``values[i][j]`` is tag i at ``t0_ns + dt_ns[j]``.

    ``qualities[i][j]`` is a ``columns.quality_byte`` (ABSENT: no sample at that time,
    and the value is NaN).
    """

    seq: int  # gap-free per uplink and lane
    t0_ns: int  # UTC
    dt_ns: Sequence[int]
    tags: Sequence[str]
    values: Sequence[Sequence[float]]
    qualities: Sequence[bytes]


class PollGroup(Struct, frozen=True):
    """The tags of one device and period; ``indices`` are their tag indices, in the same order."""

    key: str
    tags: tuple[str, ...]
    indices: tuple[int, ...]
