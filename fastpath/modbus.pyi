"""Native Modbus TCP frames, as Python sees them: tools and tests. The guard uses the C side."""

from collections.abc import Sequence

REPLY_GOOD: int
REPLY_REFUSED: int  # + a code of codes.Refusal
ADU_BYTES_MAX: int

def read_frame(tid: int, unit: int, fc: int, address: int, count: int) -> bytes:
    """Request of function 1 to 4. Raises ValueError when it is not legal."""

def write_frame(tid: int, unit: int, fc: int, address: int, values: Sequence[int]) -> bytes:
    """Request of function 5, 6, 15 or 16. Raises ValueError when it is not legal."""

def whole_frame(data: bytes) -> int:
    """0: more is needed; > 0: bytes of the first whole frame; < 0: -codes.Refusal."""

def reply_code(reply: bytes, request: bytes) -> tuple[int, int]:
    """(1 good or 100 + codes.Refusal, exception number) of a reply to one of our requests.

    Raises ValueError when ``request`` is not a request.
    """
