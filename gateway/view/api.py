"""The two HTTP applications: which handler answers where, and how every refusal is told.

TCP has /metrics and /healthz and nothing that changes anything; gateway.sock has all reads and the
commands besides, and the peer's uid says who commands.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from fastpath.journal import JournalError
from gateway.errors import GatewayError
from gateway.view.actions import Actions
from gateway.view.answers import refusal
from gateway.view.reads import Reads
from gateway.view.requests import READ_S, RequestError

BODY_BYTES_MAX: Final = 16 * 1024
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "sitewarden",  # not the versions of what is underneath
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def tcp_application(reads: Reads) -> web.Application:
    """Metrics and health, nothing else."""
    application = _application("this address serves /metrics and /healthz")
    application.router.add_get("/metrics", reads.metrics)
    application.router.add_get("/healthz", reads.healthz)
    return application


def unix_application(reads: Reads, actions: Actions) -> web.Application:
    """Everything; whoever may open the socket may command."""
    application = _application("this socket serves /status /tags /interlocks /alarms ...")
    application.router.add_get("/metrics", reads.metrics)
    application.router.add_get("/healthz", reads.healthz)
    application.router.add_get("/status", reads.status)
    application.router.add_get("/tags", reads.tags)
    application.router.add_get("/interlocks", reads.interlocks)
    application.router.add_get("/alarms", reads.alarms)
    application.router.add_get("/holdings", reads.holdings)
    application.router.add_get("/api/history", reads.history)
    application.router.add_get("/letters", reads.letters)
    application.router.add_get("/letters/{id:[0-9]{1,18}}", reads.letter)
    application.router.add_post("/letters", actions.letter_order)
    application.router.add_post("/written", actions.written)
    application.router.add_post("/trip", actions.trip)
    application.router.add_post("/reset", actions.reset)
    application.router.add_post("/release", actions.release)
    application.router.add_post("/bypass", actions.bypass)
    application.router.add_post("/substitute", actions.substitute)
    application.router.add_post("/drill", actions.drill)
    application.router.add_post("/stop", actions.stop)
    application.router.add_post("/reload", actions.reload)
    application.router.add_post("/simulate", actions.simulate)
    return application


def _application(hint: str) -> web.Application:
    @web.middleware
    async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every refusal and failure as one JSON line, every wait bounded."""
        try:
            if request.method == "POST":
                return await handler(request)
            async with asyncio.timeout(READ_S):
                return await handler(request)
        except web.HTTPNotFound:
            return refusal(404, hint)
        except web.HTTPException as error:
            return refusal(error.status, error.reason)
        except RequestError as error:
            return refusal(error.status, str(error))
        except JournalError as error:
            return refusal(503, f"the guard's state cannot be read: {error}")
        except TimeoutError:
            return refusal(503, "not ready in time; try again")
        except GatewayError as error:
            return refusal(500, str(error))

    application = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[told])
    application.on_response_prepare.append(_harden)
    return application


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
