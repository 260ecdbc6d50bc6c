"""What strengthens, straight to the guard's socket: a TRIP, the end of a bypass.

For an operator's command with the gateway dead.
Needs neither the gateway nor an event loop, so that it starts fast.
"""

import os
import socket
from pathlib import Path
from typing import Final

from fastpath import messages
from fastpath.codes import MessageType
from fastpath.messages import Result
from gateway.errors import GuardError

_ANSWERS_MAX: Final = 64  # messages that are looked at for the one RESULT


def send_directly(
    path: Path,
    message_type: MessageType,
    key: int,
    who: str,
    *,
    kind: int = 1,
    timeout_s: float = 2.0,
) -> Result:
    """TRIP or BYPASS_END straight to the guard's socket; blocks at most ``timeout_s``.

    Strengthening, so neither needs the ledger. ``kind``: BypassKind of what ends. Raises GuardError
    when the guard is not reached, refuses this user, or does not answer.
    """
    ident = os.urandom(16)
    message = messages.pack(message_type, messages.command(key, who=who, kind=kind), ident)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(os.fspath(path))
            connection.send(message)
            for _ in range(_ANSWERS_MAX):
                answer = connection.recv(messages.MESSAGE_BYTES_MAX)
                if not answer:
                    msg = "the guard closed the connection: is this user allowed?"
                    raise GuardError(msg)
                answer_type, answered, body = messages.unpack(answer)
                if answer_type == MessageType.RESULT and answered == ident:
                    return messages.result_of(body)
        except TimeoutError as error:
            msg = f"no answer from the guard within {timeout_s:g} s"
            raise GuardError(msg) from error
        except OSError as error:
            msg = f"guard not reached at {path}: {error.strerror}"
            raise GuardError(msg) from error
        except ValueError as error:
            msg = f"the guard's answer is not understood: {error}"
            raise GuardError(msg) from error
    msg = "the guard did not answer this command"
    raise GuardError(msg)
