"""A test's view of the link between gateway and guard."""

import asyncio

from fastpath.messages import Welcome
from gateway.guard.link import GuardLink


async def connected(link: GuardLink) -> Welcome:
    """Return as soon as a guard that serves this version has answered."""
    while True:
        state = link.state()
        if state.connected and state.welcome is not None:
            return state.welcome
        await asyncio.sleep(0.005)
