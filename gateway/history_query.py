"""The history query of gateway.sock: one tag's samples, bounded in number and in time.

In a thread and over a connection of its own, so that neither the loop nor the recorder waits for
it; one at a time.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gateway.export_rows import words_of
from gateway.store.alert import rfc3339
from gateway.store.history_file import HistoryFile
from gateway.times import utc_ns_of

POINTS_MAX: Final = 10_000
POINTS: Final = 1_000  # where nobody says
WITHIN_S: Final = 2.0
DEFAULT_NS: Final = 3_600 * 1_000_000_000  # the last hour


class HistoryQuery:
    """Over one history.db."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._one = asyncio.Lock()

    async def answer(self, words: Mapping[str, str]) -> dict[str, Any]:
        """To ``tag``, ``from``, ``to`` (times, or ``24h``: so long ago) and ``limit``.

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
        tag = words.get("tag", "")
        async with self._one:
            return await asyncio.to_thread(self._read, tag, t0_ns, t1_ns, int(limit))

    def _read(self, tag: str, t0_ns: int, t1_ns: int, limit: int) -> dict[str, Any]:
        with HistoryFile(self._path) as history:
            if not any(tag in group.tags for group in history.groups()):
                msg = f'the history has no tag "{tag}"'
                raise LookupError(msg)
            found, next_ns = history.series(tag, t0_ns, t1_ns, limit=limit, within_s=WITHIN_S)
            return {
                "tag": tag,
                "from": rfc3339(t0_ns),
                "to": rfc3339(t1_ns),
                "samples": [
                    {
                        "time": rfc3339(at),
                        "value": value,
                        "quality": quality,
                        "reason": reason or None,
                    }
                    for at, _, value, byte in found
                    for quality, reason in (words_of(byte),)
                ],
                "complete": next_ns is None,
                "next": None if next_ns is None else rfc3339(next_ns),
                "damaged": history.damaged,
            }


def _moment(words: Mapping[str, str], name: str, now_ns: int, default_ns: int) -> int:
    text = words.get(name, "")
    try:
        return utc_ns_of(text, now_ns) if text else default_ns
    except ValueError:
        msg = f'{name}: found "{text}", expected a time such as 2026-11-22T14:00:00Z, or 24h'
        raise ValueError(msg) from None
