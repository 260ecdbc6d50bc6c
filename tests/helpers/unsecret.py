"""The surroundings of drivers that ask for no credentials."""

from drivers.errors import PointError
from drivers.kind import Secrets


def no_secrets(name: str) -> Secrets:
    """Raises PointError: there are none here."""
    raise PointError(key="credentials", text=f"no credentials {name!r} here")
