"""What a session ended of: of several errors at once, the one that says most."""

import logging

from gateway.errors import UplinkError
from gateway.uplink.base import LinkRefusedError, SuspectError

_LOGGER = logging.getLogger(__name__)


class FaultError(UplinkError):
    """Not the link's fault: ours."""


def session_error(error: Exception) -> UplinkError:
    """One error of the link; a fault of ours is logged and ends no more than the session."""
    errors = _leaves(error)
    for kind in (LinkRefusedError, SuspectError, UplinkError):
        for leaf in errors:
            if isinstance(leaf, kind):
                return leaf
    _LOGGER.error("fault in an uplink", exc_info=errors[0])
    return FaultError(f"internal fault: {type(errors[0]).__name__}: {errors[0]}")


def _leaves(error: Exception) -> list[Exception]:
    if isinstance(error, ExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
