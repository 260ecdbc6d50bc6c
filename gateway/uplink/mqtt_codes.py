"""What the reason codes of MQTT 5 mean for what was sent.

=====================  ========================================  ==================================
where                  code                                      verdict
=====================  ========================================  ==================================
PUBACK                 0x00, 0x10 (nobody subscribed)            accepted
PUBACK                 0x87 not authorised, 0x90 topic name      lane denied: slow retry, the other
                                                                 lanes go on, nothing delivered;
                                                                 each time over one item, while
                                                                 others are taken: its fault
PUBACK                 0x91 packet id in use, 0x97 quota         the link pauses
PUBACK                 0x99 payload format, 0x95 too large,      this item is refused
                       0x80, 0x83 and any other >= 0x80
(before sending)       above the broker's Maximum Packet Size    this item is refused
CONNACK, DISCONNECT    0x84 0x85 0x86 0x87 0x8A 0x8C 0x9B        link refused: slow retry, one alert
                       and certificates (TLS)
DISCONNECT             0x8E session taken over                   slow retry, told by the uplink
DISCONNECT             0x81 0x82 0x90 0x94 0x95 0x99             one of the items did that: sent one
                                                                 by one, then that one is refused
any                    anything else, silence, a lost link       nothing known: reconnect; each time
                                                                 over one item, while others are
                                                                 taken: its fault (``doubts``)
=====================  ========================================  ==================================
"""

from typing import Final

from gateway.errors import UplinkError
from gateway.uplink.base import (
    ACCEPTED,
    LinkRefusedError,
    Refused,
    Retry,
    SuspectError,
    TakenOverError,
    UnansweredError,
    Verdict,
)
from gateway.uplink.mqtt_client import Disconnected
from gateway.uplink.tls import refusal_of

DENIED_RETRY_S: Final = 30.0
QUOTA_RETRY_S: Final = 5.0
TAKEN_OVER: Final = 0x8E

_DENIED: Final = {0x87: "not_authorised", 0x90: "topic_name_invalid"}
_PAUSE: Final = {0x91: "packet id in use", 0x97: "quota exceeded"}
_BAD_ITEM: Final = {
    0x80: "unspecified",
    0x83: "implementation_specific",
    0x95: "packet_too_large",
    0x99: "payload_format_invalid",
}
_LINK_REFUSED: Final = {
    0x84: "it does not speak MQTT 5",
    0x85: "it does not accept our client id",
    0x86: "bad user name or password",
    0x87: "not authorised",
    0x8A: "we are banned",
    0x8C: "bad authentication method",
    0x9B: "it does not support QoS 1",
}
_SUSPECT: Final = {
    0x81: "malformed_packet",
    0x82: "protocol_error",
    0x90: "topic_name_invalid",
    0x94: "topic_alias_invalid",
    0x95: "packet_too_large",
    0x99: "payload_format_invalid",
}
_UNSAID: Final = {0, 0x80, 0x83}  # no reason, an unspecified one, one of its own


def verdict_of(code: int, topic: str) -> Verdict:
    """What a PUBACK's reason code says of its item."""
    if code < 0x80:
        return ACCEPTED
    if code in _DENIED:
        fault = _DENIED[code]
        text = f"{topic}: {fault.replace('_', ' ')}"
        return Retry(DENIED_RETRY_S, text, denied=True, fault=fault)
    if code in _PAUSE:
        return Retry(QUOTA_RETRY_S, _PAUSE[code])
    return Refused(_BAD_ITEM.get(code, "unspecified"), f"PUBACK 0x{code:02x}")


def too_large(length: int, most: int) -> Refused:
    """An item that the broker has said not to take."""
    return Refused(_BAD_ITEM[0x95], f"{length} bytes, the broker takes {most}")


def suspected(ended: Disconnected) -> Refused | None:
    """What the session's end says of the one item that was under way; None: nothing."""
    return Refused(_SUSPECT[ended.code], str(ended)) if ended.code in _SUSPECT else None


def link_error(
    ended: Disconnected | None, *, sent: bool = True, under_way: bool = False
) -> UplinkError:
    """What the session's end says of the link.

    ``sent``: it may have ended over an item. ``under_way``: there was one at its end.
    """
    if ended is None:
        return UplinkError("not connected")
    cause = refusal_of(ended.cause) if ended.cause else None
    if cause:
        return LinkRefusedError(cause)
    if ended.code == TAKEN_OVER:
        return TakenOverError("another client took the session over")
    if ended.code in _LINK_REFUSED:
        return LinkRefusedError(f"the broker refuses us: {_LINK_REFUSED[ended.code]}")
    if sent and ended.code in _SUSPECT:
        return SuspectError(str(ended))
    if under_way and ended.code in _UNSAID:
        return UnansweredError(str(ended))
    return UplinkError(str(ended))
