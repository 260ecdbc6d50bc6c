"""Which samples of each tag the history keeps: report by exception, with a maximum interval."""

NOTHING: int  # mode of a tag whose samples are never kept

class Recording:
    """``rules`` by tag index: (RecordMode or NOTHING, deadband, longest interval in ns; 0: none).

    Raises ValueError for an unknown mode and for a deadband or an interval below zero.
    """

    count: int
    def __init__(self, rules: list[tuple[int, float, int]]) -> None: ...
    def keep(self, samples: bytes) -> bytes:
        """Those messages.SAMPLE records, by tag index, that are to be kept, in their order.

        A change of quality is always kept. Left out: a slot without a rule. Raises ValueError when
        the length is not a whole number of records.
        """
