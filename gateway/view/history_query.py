"""The history query of gateway.sock: one tag's samples or five minutes, bounded in number and time.

In a thread and over a connection of its own, so that neither the loop nor the recorder waits for
it; one at a time.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.store.alert import rfc3339
from gateway.store.five_minutes import Summary, first_of
from gateway.store.history_file import HistoryFile, Sample
from gateway.times import utc_ns_of
from gateway.view.export_rows import words_of

POINTS_MAX: Final = 10_000
POINTS: Final = 1_000  # where nobody says
WITHIN_S: Final = 2.0
DEFAULT_NS: Final = 3_600 * 1_000_000_000  # the last hour

_Answer = tuple[dict[str, Any], int | None]  # the rows under their name, and where to go on
_Read = Callable[[HistoryFile, str, tuple[int, int], int], _Answer]


class HistoryQuery:
    """Over one history.db."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._one = asyncio.Lock()

    async def answer(self, words: Mapping[str, str]) -> dict[str, Any]:
        """To ``tag``, ``from``, ``to`` (times, or ``24h``: so long ago), ``limit``, ``resolution``.

        ``complete`` false: there may be more, from ``next`` on. Raises ValueError for a question
        that is none, LookupError for a tag that was never stored, StoreError.
        """
        now_ns = time.time_ns()
        t0_ns = _moment(words, "from", now_ns, now_ns - DEFAULT_NS)
        t1_ns = _moment(words, "to", now_ns, now_ns)
        limit = words.get("limit", str(POINTS))
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= POINTS_MAX):
            msg = f'limit: found "{limit}", expected 1 to {POINTS_MAX}'
            raise ValueError(msg)
        resolution = words.get("resolution", "raw")
        if resolution not in ("raw", "5m"):
            msg = f'resolution: found "{resolution}", expected raw or 5m'
            raise ValueError(msg)
        read = _raw if resolution == "raw" else _five_minutes
        tag = words.get("tag", "")
        async with self._one:
            return await asyncio.to_thread(self._read, tag, (t0_ns, t1_ns), int(limit), read)

    def _read(self, tag: str, span: tuple[int, int], limit: int, read: _Read) -> dict[str, Any]:
        with HistoryFile(self._path) as history:
            if not any(tag in group.tags for group in history.groups()):
                msg = f'the history has no tag "{tag}"'
                raise LookupError(msg)
            rows, next_ns = read(history, tag, span, limit)
            return {
                "tag": tag,
                "from": rfc3339(span[0]),
                "to": rfc3339(span[1]),
                **rows,
                "complete": next_ns is None,
                "next": None if next_ns is None else rfc3339(next_ns),
                "damaged": history.damaged,
            }


def _raw(history: HistoryFile, tag: str, span: tuple[int, int], limit: int) -> _Answer:
    found, next_ns = history.series(tag, *span, limit=limit, within_s=WITHIN_S)
    return {"samples": [_sample(each) for each in found]}, next_ns


def _five_minutes(history: HistoryFile, tag: str, span: tuple[int, int], limit: int) -> _Answer:
    found, next_ns = first_of(history, tag, *span, limit=limit, within_s=WITHIN_S)
    return {"five_minutes": [_summary(each) for each in found]}, next_ns


def _sample(sample: Sample) -> dict[str, Any]:
    at_ns, _, value, byte = sample
    quality, reason = words_of(byte)
    return {
        "time": rfc3339(at_ns),
        "value": value,
        "quality": quality,
        "reason": reason or None,
    }


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "time": rfc3339(summary.time_ns),
        "n": summary.n,
        "bad": summary.bad,
        "min": summary.lowest,
        "mean": summary.mean,
        "max": summary.highest,
        "last": summary.last,
    }


def _moment(words: Mapping[str, str], name: str, now_ns: int, default_ns: int) -> int:
    text = words.get(name, "")
    try:
        return utc_ns_of(text, now_ns) if text else default_ns
    except ValueError:
        msg = f'{name}: found "{text}", expected a time such as 2026-11-22T14:00:00Z, or 24h'
        raise ValueError(msg) from None
