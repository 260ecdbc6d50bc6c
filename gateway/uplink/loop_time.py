"""The clock that all pauses of the uplinks are measured by: no step of the wall clock moves it."""

import asyncio


def loop_s() -> float:
    """Seconds, in the running loop."""
    return asyncio.get_running_loop().time()
