"""Which CPU a scan thread may be bound to."""

import os


def cpu_refusal(cpu: int) -> str:
    """Why no thread of this process may run on this CPU; empty where it may."""
    allowed = os.sched_getaffinity(0)
    if cpu in allowed:
        return ""
    named = ", ".join(map(str, sorted(allowed)))
    how = "may not be used here" if 0 <= cpu < (os.cpu_count() or 1) else "does not exist"
    return f"CPU {cpu} {how}, expected one of {named}"
