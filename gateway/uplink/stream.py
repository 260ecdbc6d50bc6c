"""A connected socket, with TLS where asked for, made on the loop: every wait can be cancelled."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence

from drivers.errors import LinkError
from drivers.resolve import resolve
from gateway.errors import UplinkError


async def open_stream(
    host: str, port: int, *, timeout_s: float, context: ssl.SSLContext | None = None
) -> socket.socket:
    """Non-blocking and connected, the handshake done.

    Raises OSError (ssl.SSLError is one), or UplinkError where the name has no address.
    """
    async with asyncio.timeout(timeout_s):
        sock = await _connect(await addresses_of(host, port, timeout_s), port)
        if context is None:
            return sock
        return await _handshake(sock, context, host)


async def addresses_of(host: str, port: int, timeout_s: float) -> list[str]:
    """One or more. Raises UplinkError."""
    try:
        return await resolve(host, port, timeout_s)
    except LinkError as error:
        raise UplinkError(str(error)) from error


async def _connect(addresses: Sequence[str], port: int) -> socket.socket:
    """The first address that answers, in the resolver's order."""
    loop = asyncio.get_running_loop()
    failure = OSError("no address")
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, (address, port))
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _handshake(sock: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    loop = asyncio.get_running_loop()
    try:
        secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                await _ready(secure, loop.add_reader, loop.remove_reader)
            except ssl.SSLWantWriteError:
                await _ready(secure, loop.add_writer, loop.remove_writer)
            else:
                return secure
    except BaseException:
        secure.close()
        raise


async def _ready(
    sock: socket.socket, add: Callable[..., object], remove: Callable[[int], object]
) -> None:
    ready = asyncio.Event()
    add(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        remove(sock.fileno())
