"""Host names to addresses, without the event loop's own threads.

A resolver that hangs would otherwise hold those threads, which the rest of the gateway shares,
and the end of the process with them.
"""

import asyncio
import ipaddress
import os
import socket
import threading
from typing import Final

from drivers.errors import LinkError

ADDRESSES_MAX: Final = 4

_running: dict[tuple[str, int], "asyncio.Future[list[str]]"] = {}


async def resolve(host: str, port: int, timeout_s: float) -> list[str]:
    """The addresses of ``host``, one or more; an address is its own. Raises LinkError."""
    if is_address(host):
        return [host]
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(_lookup(host, port))
    except TimeoutError:
        text = f"{host}: no answer from the name service within {timeout_s:g} s"
        raise LinkError(text) from None
    except OSError as error:
        text = f"{host}: {error_text(error)}"
        raise LinkError(text) from None
    except ValueError:
        text = f"{host!r} is no host name"
        raise LinkError(text) from None


def is_address(host: str) -> bool:
    """Whether nothing has to be resolved."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def error_text(error: OSError) -> str:
    """What the system says of it, without Python's words around it."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _lookup(host: str, port: int) -> "asyncio.Future[list[str]]":
    """The lookup that runs for this name, or a new one: a slow name costs one thread, not many."""
    loop = asyncio.get_running_loop()
    key = (host, port)
    known = _running.get(key)
    if known is not None and known.get_loop() is loop:
        return known
    future: asyncio.Future[list[str]] = loop.create_future()
    _running[key] = future
    # Read once, so that an error nobody waits for any more is not reported as forgotten.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def settle(addresses: list[str], error: Exception | None) -> None:
        _running.pop(key, None)
        if future.done():
            return
        if error is None:
            future.set_result(addresses)
        else:
            future.set_exception(error)

    def look() -> None:
        addresses: list[str] = []
        failure: Exception | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:ADDRESSES_MAX]
        except (OSError, ValueError) as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, addresses, failure)

    threading.Thread(target=look, name=f"resolve {host}", daemon=True).start()
    return future
