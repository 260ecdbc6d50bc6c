"""The view's sockets: gateway.sock for this machine's commands, TCP for metrics and health.

Neither is needed to protect or to record, so neither ever stops the gateway: a port in use is a
problem that people are told of, tried again until it is free.
"""

import asyncio
import contextlib
import errno
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web

from gateway.view.actions import Actions
from gateway.view.api import tcp_application, unix_application
from gateway.view.listener import tcp_listeners, unix_listener
from gateway.view.metrics import Metrics
from gateway.view.reads import Reads

if TYPE_CHECKING:
    from gateway.parts import Gateway
    from gateway.view.reactions import Reactions

RETRY_S_FIRST: Final = 1.0
RETRY_S_MAX: Final = 15.0
HEADER_S: Final = 5.0  # for a request's head, and for a connection between two requests
SHUTDOWN_S: Final = 1.0
BACKLOG: Final = 64


class ViewServer:
    """Serves one gateway until cancelled. ``ready`` is set once both sockets were tried."""

    def __init__(self, gateway: "Gateway", reactions: "Reactions") -> None:
        self._gateway = gateway
        self._reactions = reactions
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Bind both sockets and serve; returns only by cancellation."""
        executor = ThreadPoolExecutor(1, thread_name_prefix="view")
        metrics = Metrics(self._gateway, self._reactions, executor)
        reads = Reads(self._gateway, metrics, executor)
        actions = Actions(self._gateway, executor)
        unix, tcp = _runner(unix_application(reads, actions)), _runner(tcp_application(reads))
        try:
            await unix.setup()
            await tcp.setup()
            await self._serve_both(unix, tcp)
        finally:
            self._gateway.http = ""
            await unix.cleanup()
            await tcp.cleanup()
            with contextlib.suppress(OSError):
                self._gateway.paths.gateway_sock.unlink(missing_ok=True)
            executor.shutdown(wait=False, cancel_futures=True)

    async def _serve_both(self, unix: web.AppRunner, tcp: web.AppRunner) -> None:
        waiting = {self._bind_unix: unix, self._bind_tcp: tcp}
        delay_s = RETRY_S_FIRST
        while True:
            for bind, runner in list(waiting.items()):
                if await bind(runner):
                    del waiting[bind]
            self.ready.set()
            if not waiting:
                await asyncio.Event().wait()
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_S_MAX)

    async def _bind_unix(self, runner: web.AppRunner) -> bool:
        path = self._gateway.paths.gateway_sock
        try:
            listener = unix_listener(path, partial(_callers, runner))
            await web.SockSite(runner, listener, backlog=BACKLOG).start()
        except OSError as error:
            text = f"cannot listen on {path}: {error.strerror}"
            self._gateway.problems.raised("view", "gateway.sock", text)
            return False
        self._gateway.problems.cleared("view", "gateway.sock", f"listening on {path}")
        return True

    async def _bind_tcp(self, runner: web.AppRunner) -> bool:
        listen = self._gateway.config.view.listen
        if not listen:
            return True
        host, _, port = listen.rpartition(":")
        try:
            listeners = await tcp_listeners(host.strip("[]"), int(port), partial(_callers, runner))
            for listener in listeners:
                await web.SockSite(runner, listener, backlog=BACKLOG).start()
        except (OSError, ValueError) as error:
            text = f"cannot listen on {listen}: {_why(error)}"
            self._gateway.problems.raised("view", listen, text)
            return False
        self._gateway.http = base_url(runner.addresses[0])
        self._gateway.problems.cleared("view", listen, f"listening on {self._gateway.http}")
        return True


def base_url(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """``http://127.0.0.1:9750`` of a bound address; a wildcard reads as loopback."""
    host, port = address[0], address[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _runner(application: web.Application) -> web.AppRunner:
    return web.AppRunner(
        application,
        access_log=None,
        keepalive_timeout=HEADER_S,
        shutdown_timeout=SHUTDOWN_S,
        lingering_time=1.0,
        max_headers=64,
    )


def _callers(runner: web.AppRunner) -> int:
    """Connections that are open now."""
    return len(runner.server.connections) if runner.server else 0


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the port is in use by another program; free it or change [view] listen"
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return f"{error}; expected host:port"
