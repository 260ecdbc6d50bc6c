"""The gateway's own log: a reader that is stuck holds nobody, a flood is cut short and counted."""

import fcntl
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator

import pytest

from gateway.cli import log_sink
from gateway.cli.log_sink import LINES_MAX, SAME_MAX, LogSink

F_SETPIPE_SZ = 1031


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    yield reader, writer
    os.close(writer)


def logger_to(sink: LogSink) -> logging.Logger:
    logger = logging.getLogger("tests.log_sink")
    logger.propagate = False
    logger.handlers[:] = [sink]
    return logger


def read_until(reader: int, wanted: str) -> str:
    found = ""
    while wanted not in found:
        found += os.read(reader, 65536).decode()
    return found


def end(sink: LogSink, reader: int) -> None:
    """Whoever reads has gone."""
    os.close(reader)
    sink.close()


def test_a_reader_that_is_stuck_holds_nobody(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(writer)
    logger = logger_to(sink)
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = ["".join(each) for each in itertools.product(letters, repeat=3)]  # no two alike
    began = time.monotonic()
    for i in range(LINES_MAX + 2_000):
        logger.warning("%s %d", names[i], i)
    assert time.monotonic() - began < 5.0
    read_until(reader, " 4000\n")
    logger.warning("after it")
    text = read_until(reader, "after it")
    assert "log lines found no place and are lost" in text
    end(sink, reader)


def test_a_flood_is_cut_short_and_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    now = [0.0]
    sink = LogSink(writer, monotonic_s=lambda: now[0])
    logger = logger_to(sink)
    for i in range(1_000):
        logger.warning("device %d does not answer", i)
    logger.warning("something else")
    now[0] = log_sink.SPAN_S
    logger.warning("later")
    text = read_until(reader, "later")
    assert text.count("does not answer") == SAME_MAX + 1
    assert f"{1_000 - SAME_MAX} more lines like this suppressed: device # does not" in text
    assert "something else" in text
    end(sink, reader)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_went_wrong_is_replaced(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    sink = LogSink(writer)
    logger = logger_to(sink)
    real, failed = sink._put, threading.Event()

    def put(line: bytes) -> None:
        if not failed.is_set():
            failed.set()
            raise ValueError("odd")
        real(line)

    monkeypatch.setattr(sink, "_put", put)
    logger.warning("the first is lost")
    assert failed.wait(5)
    first = sink._thread
    assert first is not None
    first.join(5)
    logger.warning("the second is not")
    assert "the second is not" in read_until(reader, "is not")
    end(sink, reader)
