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


class PointError(RequestError):
    """A device or point cannot be. ``key`` is the site file's key at fault; the text is for people.

    Without a ``key`` it is the table as a whole.
    """

    def __init__(self, *, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key
