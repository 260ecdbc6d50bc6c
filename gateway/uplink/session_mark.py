"""Whether somebody else uses this uplink's name at a broker: two gateways with the same identity.

Some brokers say so when they end the session for it, others end it without a word. Each process
puts a mark of its own into the retained status; one that finds another's there, after having said
its own, was taken over.
"""

import secrets
from typing import Any, Final

import msgspec

from gateway.uplink.loop_time import loop_s

LOOK_S: Final = 10.0  # between two looks
TOLD_S: Final = 600.0  # told until so long has passed without another one
NOTICE: Final = (
    "another client takes the session over: the same gateway and uplink id are used twice"
)


class SessionMark:
    """The status that one process says of one uplink, and what it finds said by others."""

    def __init__(self, gateway: str, uplink: str, *, exercise: bool = False) -> None:
        self._uplink = uplink
        self._mark = secrets.token_hex(4)
        self._word: dict[str, Any] = {"gateway": gateway, "uplink": uplink}
        if exercise:
            self._word["exercise"] = True
        self._taken_s: float | None = None  # loop time
        self._looked_s: float | None = None
        self.doubted = False  # the last session ended without a word

    def word(self, state: str) -> bytes:
        """The status message of a state."""
        return msgspec.json.encode({**self._word, "state": state, "session": self._mark})

    def worth_a_look(self) -> bool:
        """Whether to look who said the status last; not at each session of a link that flaps."""
        now_s = loop_s()
        if not self.doubted or (self._looked_s is not None and now_s - self._looked_s < LOOK_S):
            return False
        self._looked_s = now_s
        return True

    def heard(self, payload: bytes) -> None:
        """What is retained as the status, read before ours is said again."""
        try:
            found = msgspec.json.decode(payload, type=dict[str, Any])
        except msgspec.MsgspecError:
            return
        # In any state: the broker says the other's last will when we take the session back.
        if found.get("uplink") == self._uplink and found.get("session") != self._mark:
            self.taken_over()

    def taken_over(self) -> None:
        """It was."""
        self._taken_s = loop_s()

    @property
    def contested(self) -> bool:
        """Whether that was lately."""
        if self._taken_s is None:
            return False
        return loop_s() - self._taken_s < TOLD_S
