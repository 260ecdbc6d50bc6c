"""OPC UA status codes: quality and reason of a value, and words for people.

The severity bits alone decide the quality: 00 GOOD, 01 UNCERTAIN, 10 and the reserved 11 BAD. The
rest of the code only chooses the reason, so that a code of tomorrow still has its quality.
"""

from typing import Final

from asyncua.ua.status_codes import StatusCodes, get_name_and_doc

from fastpath.codes import Quality, Reason

CODE_MASK: Final = 0xFFFF_0000  # severity and sub-code; below are flags about the value
_INFO_MASK: Final = 0x0C00
_INFO_DATA_VALUE: Final = 0x0400
_OVERFLOW: Final = 0x0080

_QUALITIES: Final = (Quality.GOOD, Quality.UNCERTAIN, Quality.BAD, Quality.BAD)
_OTHERWISE: Final[dict[Quality, Reason]] = {
    Quality.GOOD: Reason.NEVER_READ,
    Quality.UNCERTAIN: Reason.DEVICE_FAILURE,
    Quality.BAD: Reason.DEVICE_FAILURE,
}
_REASONS: Final[dict[int, Reason]] = {
    StatusCodes.BadWaitingForInitialData: Reason.NEVER_READ,
    StatusCodes.UncertainInitialValue: Reason.NEVER_READ,
    **dict.fromkeys(
        (
            StatusCodes.BadCommunicationError,
            StatusCodes.BadConnectionClosed,
            StatusCodes.BadNoCommunication,
            StatusCodes.BadNotConnected,
            StatusCodes.BadServerNotConnected,
            StatusCodes.BadShutdown,
            StatusCodes.BadTimeout,
            StatusCodes.UncertainNoCommunicationLastUsableValue,
        ),
        Reason.COMM_FAILURE,
    ),
    **dict.fromkeys(
        (StatusCodes.BadNoData, StatusCodes.BadDataLost, StatusCodes.UncertainLastUsableValue),
        Reason.STALE,
    ),
    **dict.fromkeys(
        (StatusCodes.BadOutOfRange, StatusCodes.UncertainEngineeringUnitsExceeded),
        Reason.OUT_OF_RANGE,
    ),
    **dict.fromkeys(
        (StatusCodes.UncertainSubstituteValue, StatusCodes.UncertainSimulatedValue),
        Reason.SUBSTITUTED,
    ),
    **dict.fromkeys(
        (
            StatusCodes.BadAttributeIdInvalid,
            StatusCodes.BadConfigurationError,
            StatusCodes.BadDeadbandFilterInvalid,
            StatusCodes.BadFilterNotAllowed,
            StatusCodes.BadIndexRangeInvalid,
            StatusCodes.BadIndexRangeNoData,
            StatusCodes.BadMonitoredItemFilterInvalid,
            StatusCodes.BadMonitoredItemFilterUnsupported,
            StatusCodes.BadNoMatch,
            StatusCodes.BadNodeIdInvalid,
            StatusCodes.BadNodeIdUnknown,
            StatusCodes.BadNotFound,
            StatusCodes.BadNotReadable,
            StatusCodes.BadNotSupported,
            StatusCodes.BadObjectDeleted,
            StatusCodes.BadSecurityModeInsufficient,
            StatusCodes.BadTooManyMonitoredItems,
            StatusCodes.BadTypeMismatch,
            StatusCodes.BadUserAccessDenied,
        ),
        Reason.UNREADABLE,
    ),
}


def quality_of(code: int) -> tuple[Quality, Reason]:
    """Quality and reason of a value with this status code (any 32 bits)."""
    quality = _QUALITIES[code >> 30 & 3]
    if quality is Quality.GOOD:
        return quality, Reason.NEVER_READ
    return quality, _REASONS.get(code & CODE_MASK, _OTHERWISE[quality])


def overflowed(code: int) -> bool:
    """Whether values before this one were lost in the server's queue."""
    return code & _INFO_MASK == _INFO_DATA_VALUE and bool(code & _OVERFLOW)


def status_text(code: int) -> str:
    """The code for people: its name and what the standard says of it, or its number."""
    name, words = get_name_and_doc(code & CODE_MASK)
    if words.startswith("Unknown"):
        return f"status 0x{code:08X}"
    return f"{name}: {words.rstrip('.')}"
