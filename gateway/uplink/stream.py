"""A connected socket, with TLS where asked for, made on the loop: every wait can be cancelled."""

import asyncio
import socket
import ssl
from collections.abc import Callable


async def open_stream(
    host: str, port: int, *, timeout_s: float, context: ssl.SSLContext | None = None
) -> socket.socket:
    """Non-blocking and connected, the handshake done. Raises OSError (ssl.SSLError is one)."""
    async with asyncio.timeout(timeout_s):
        sock = await _connect(host, port)
        if context is None:
            return sock
        return await _handshake(sock, context, host)


async def _connect(host: str, port: int) -> socket.socket:
    """The first address that answers, in the resolver's order."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _name, address in infos:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
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
