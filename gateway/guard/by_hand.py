"""What the guard may have of a value that somebody gave by hand: that it is bad."""

import math

from fastpath.codes import Quality, Reason
from fastpath.messages import SAMPLE


def unsubstituted(samples: bytes) -> bytes:
    """Samples with every substituted value BAD, whatever the tag's ``uncertain`` says.

    So no value by hand is ever an input of an interlock, not through a computed tag either.
    """
    told = bytearray()
    for slot, quality, reason, flags, value, mono_ns, utc_ns in SAMPLE.iter_unpack(samples):
        if reason == Reason.SUBSTITUTED:
            told += SAMPLE.pack(slot, Quality.BAD, reason, flags, math.nan, mono_ns, utc_ns)
        else:
            told += SAMPLE.pack(slot, quality, reason, flags, value, mono_ns, utc_ns)
    return bytes(told)
