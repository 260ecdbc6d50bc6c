"""The gateway's heap, as glibc itself tells of it."""

import subprocess
import sys

import pytest

LIVES = """
import ctypes, sys, threading
from gateway.life.memory import share_heap
if "shared" in sys.argv:
    share_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
all_there = threading.Barrier(9)
def live():
    libc.malloc(1000)
    all_there.wait()
    all_there.wait()
threads = [threading.Thread(target=live) for _ in range(8)]
for thread in threads:
    thread.start()
all_there.wait()
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
all_there.wait()
"""


@pytest.mark.parametrize(("words", "one"), [(["shared"], True), ([], False)])
def test_all_threads_share_one_heap(words: list[str], *, one: bool) -> None:
    command = [sys.executable, "-c", LIVES, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout.count("<heap nr=") == 1) is one
