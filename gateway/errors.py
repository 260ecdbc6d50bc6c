"""What goes wrong in the gateway."""


class GatewayError(Exception):
    """Root of everything that the gateway raises on purpose; its text is for people."""


class ConfigError(GatewayError):
    """A site file is refused. ``errors`` has one finished line per error, sorted by line."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


class StoreError(GatewayError):
    """A database cannot take or give what was asked now."""


class UplinkError(GatewayError):
    """Nothing is known of any item of a send: the link failed."""


class GuardError(GatewayError):
    """The guard is not reached, or does not serve this version."""
