"""Frames of the serial line, as Python sees them: tools and tests. The guard uses the C side."""

RTU_BYTES_MAX: int

def crc(data: bytes) -> int:
    """CRC-16 of the serial line."""

def rtu_frame(adu: bytes) -> bytes:
    """The RTU form of an MBAP request. Raises ValueError where it is none or too long."""

def reply_of(request: bytes, chunks: list[bytes], echo: int = 1) -> tuple[int, bytes, int, int]:
    """(verdict, reply as MBAP frame, bytes taken, echo) of what came in these chunks.

    ``request`` is an MBAP frame; verdict 0: more is needed, > 0: bytes of the reply, < 0:
    -codes.Refusal. ``echo``: 0 unknown, 1 the line does not echo, 2 it does. Raises ValueError
    where ``request`` is none.
    """
