"""Loopback ports for programs that cannot choose one themselves and tell which."""

import random
import socket
from pathlib import Path

FIRST = 10_000
TRIES = 100


def free_port() -> int:
    """One that is free, and that the system gives nobody who asks for any port.

    It lies below the range of bind(0) and connect(): between the choice and the program's start, or
    over its restart, nobody else comes by it, not even a client that tries to reach it.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(TRIES):
        port = random.randrange(FIRST, low if low > FIRST else 65_536)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
