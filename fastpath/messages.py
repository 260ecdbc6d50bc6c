"""The guard's mailbox, as the sender sees it: layouts of every message.

A message is one SEQPACKET datagram of at most 4,096 bytes: a 32-byte header and a body. The guard
checks each field again and answers commands with a RESULT of the same id; sending the same id
again gives the same answer and no second action.
"""

import struct
from typing import Final, NamedTuple

from fastpath.codes import MessageType

VERSION: Final = 1
VERSION_OLDEST: Final = 1  # gateways of the previous minor version are served too
MESSAGE_BYTES_MAX: Final = 4096
SAMPLES_PER_MESSAGE_MAX: Final = 126
RANGES_PER_TOUCH_MAX: Final = 256
WHO_BYTES_MAX: Final = 32

HEADER: Final = struct.Struct("<HHIQ16s")  # version, type, length, program, id
HELLO: Final = struct.Struct("<HHI16s")  # version, oldest, 0, instance id
# version, compatible, 0, journal_id, event_head, event_tail, sample_head, program hash, starts
WELCOME: Final = struct.Struct("<HHIQQQQ32sQ")
SAMPLE: Final = struct.Struct("<IBBHdqq")  # slot, quality, reason, flags, value, mono_ns, utc_ns
TOUCH: Final = struct.Struct("<qI4x")  # mono_ns, n; then n RANGEs
RANGE: Final = struct.Struct("<II")  # first slot, count
ACK: Final = struct.Struct("<QQ")  # journal_id, event_tail
# key, generation, kind (1 interlock, 2 tag), not_after (boottime ns), ledger_seq, duration_ns, who
COMMAND: Final = struct.Struct("<QIIqQq32s")
# hash, expected current hash, ledger_seq, step, flags (LoadFlag)
LOAD: Final = struct.Struct("<32s32sQII")
OUTPUT_RESULT: Final = struct.Struct("<QII")  # output key, generation, code
# code, type of the command, scan, generation, detail, text (zero-padded)
RESULT: Final = struct.Struct("<IIQII40s")
NUDGE: Final = struct.Struct("<QQ")  # event_head, sample_head


class Welcome(NamedTuple):
    """The guard's answer to HELLO. ``compatible`` is 0 where it does not serve this version."""

    version: int
    compatible: int
    reserved: int
    journal_id: int
    event_head: int
    event_tail: int
    sample_head: int
    program: bytes
    guard_starts: int


class Result(NamedTuple):
    """The guard's answer to a command."""

    code: int  # ResultCode
    type: int  # MessageType of the command
    scan: int
    generation: int
    detail: int
    text: str


def pack(kind: MessageType, body: bytes, ident: bytes = bytes(16), program: int = 0) -> bytes:
    """One whole message. Raises ValueError above MESSAGE_BYTES_MAX."""
    length = HEADER.size + len(body)
    if length > MESSAGE_BYTES_MAX:
        msg = f"message of {length} bytes, at most {MESSAGE_BYTES_MAX}"
        raise ValueError(msg)
    return HEADER.pack(VERSION, kind, length, program, ident) + body


def unpack(message: bytes) -> tuple[int, bytes, bytes]:
    """(type, id, body) of a message from the guard. Raises ValueError when it is not one."""
    if len(message) < HEADER.size:
        msg = f"message of {len(message)} bytes"
        raise ValueError(msg)
    _version, kind, length, _program, ident = HEADER.unpack_from(message)
    if length != len(message):
        msg = f"message says {length} bytes, has {len(message)}"
        raise ValueError(msg)
    return kind, ident, message[HEADER.size :]


def welcome_of(body: bytes) -> Welcome:
    """The body of WELCOME."""
    return Welcome(*WELCOME.unpack_from(body))


def result_of(body: bytes) -> Result:
    """The body of RESULT."""
    code, kind, scan, generation, detail, text = RESULT.unpack_from(body)
    return Result(
        code, kind, scan, generation, detail, text.rstrip(b"\0").decode("utf-8", "replace")
    )


def command(
    key: int,
    *,
    who: str,
    generation: int = 0,
    kind: int = 1,
    not_after_ns: int = 0,
    ledger_seq: int = 0,
    duration_ns: int = 0,
) -> bytes:
    """Body of RESET, RELEASE, TRIP, STOP and BYPASS_*. ``not_after_ns`` is boottime, 0 never."""
    return COMMAND.pack(
        key, generation, kind, not_after_ns, ledger_seq, duration_ns,
        who.encode()[:WHO_BYTES_MAX],
    )  # fmt: skip
