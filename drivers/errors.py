"""Who is at fault when a driver fails."""


class DriverError(Exception):
    """Root of everything that leaves this package."""


class LinkError(DriverError):
    """No connection, or it ended: the link is at fault. Ends the session."""


class ProtocolError(DriverError):
    """The device answered what it must not (length, function, unit, echo). Ends the session."""


class DeviceError(DriverError):
    """The device answered properly that it cannot (exception response, bad status)."""


class RequestError(DriverError):
    """What was asked is impossible (range, type): our site file is at fault."""
