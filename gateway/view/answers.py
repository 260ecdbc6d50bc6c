"""What a client is told: JSON, also where something is refused."""

from typing import Any, Final

import msgspec
from aiohttp import web

JSON: Final = "application/json"


def as_json(value: Any, status: int = 200) -> web.Response:
    """A value as a whole answer."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON)


def refusal(status: int, text: str) -> web.Response:
    """Why there is no other answer, in one line of JSON."""
    return as_json({"error": text}, status)
