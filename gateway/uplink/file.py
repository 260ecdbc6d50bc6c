"""File uplink: what would be sent is written into a directory, for air-gapped sites and FTP jobs.

Without a template each lane is a series of NDJSON files: a message per line, as in an MQTT payload.
Messages are appended to a hidden file and synced; it gets its final name when it is long or old
enough, and at every orderly end. With a template each send is a file of its own. ACCEPTED means
durable: appended and synced, or, with a template, synced under the final name. A crash between
that and the cursor makes doubles with the same identity.

==========================================  =================================================
what happened                               verdict
==========================================  =================================================
synced                                      accepted
too much waits to be fetched                the link pauses, nothing is written
the disk is full, read-only                 the link pauses, nothing of this send counts
the template fails with a message           the send is halved until the one is found: refused
the directory is gone, or another one       nothing known: opened again
it is missing, no directory, not ours       link refused: slow retry, one alert
==========================================  =================================================
"""

import asyncio
import contextlib
import errno
import time
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastpath.codes import Quality
from gateway.errors import UplinkError
from gateway.site.file_template import FileTemplate, TemplateError, alert, samples
from gateway.site.uplink_rules import directory_of
from gateway.store.alert import rfc3339
from gateway.uplink import message
from gateway.uplink.base import (
    ACCEPTED,
    ALERT,
    BACKFILL,
    LIVE,
    Acknowledges,
    LinkRefusedError,
    Outgoing,
    Refused,
    Retry,
    Verdict,
)
from gateway.uplink.spool import LINES, Bounds, Part, Spool

if TYPE_CHECKING:
    from gateway.site.credentials import Credentials
    from gateway.site.model import Uplink as UplinkConfig
    from gateway.uplink.message import Sender

FULL_RETRY_S: Final = 5.0
CLOSE_S: Final = 1.0
_LOOK_S_MAX: Final = 1.0  # how late a file may get its name

_WORDS: Final = {ALERT: "alerts", LIVE: "live", BACKFILL: "backfill"}
_PAUSE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_LINK_REFUSED: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM}
)
_TEMPLATE: Final = "template"  # a refused item's reason
_NS_PER_MS: Final = 1_000_000

_Encoded = tuple[int, bytes]  # place in the send, the message's JSON


class FileUplink:
    """One directory. Raises UplinkError and nothing else."""

    acknowledges = Acknowledges.STORED

    def __init__(
        self, config: "UplinkConfig", sender: "Sender", credentials: "Credentials | None" = None
    ) -> None:
        self.credentials = credentials  # a directory asks for none
        self._sender = sender
        self._template_path = Path(config.template) if config.template else None
        self._template: FileTemplate | None = None
        self._rotate_bytes = int(config.rotate_bytes)
        self._rotate_after_s = config.rotate_after / 1e9
        self._timeout_s = config.timeout / 1e9
        self._parts: dict[str, Part] = {}
        self._spool = Spool(
            Path(directory_of(config)),
            f"{sender.gateway}.{sender.uplink}",
            Bounds(config.max_files, int(config.max_bytes)),
        )

    async def connect(self) -> bool:
        """Open the directory and make whole what a crash has left there."""
        await self.close()
        try:
            if self._template_path is not None:
                self._template = await asyncio.to_thread(_compiled, self._template_path)
            async with asyncio.timeout(self._timeout_s):
                await asyncio.to_thread(self._spool.open)
        except TemplateError as error:
            msg = f"template: {error}"
            raise LinkRefusedError(msg) from error
        except OSError as error:  # TimeoutError is one
            raise _link_error(error) from error
        return True

    async def send(self, lane: str, items: Sequence[Outgoing]) -> list[Verdict]:
        """Write all of them, in order."""
        verdicts: list[Verdict | None] = [None] * len(items)
        encoded: list[_Encoded] = []
        for place, out in enumerate(items):
            try:
                encoded.append((place, message.encode(self._sender, lane, out)))
            except (msgspec.MsgspecError, ValueError) as error:
                verdicts[place] = Refused("unreadable", str(error))
        rest: Verdict = Retry()
        if encoded:
            try:
                rest = await self._deliver(lane, encoded, verdicts) or rest
            except UplinkError as error:
                if not any(verdicts):
                    raise
                rest = Retry(reason=str(error))
        return [verdict or rest for verdict in verdicts]

    async def lost(self) -> None:
        """Give files their names when they are old enough; ends by UplinkError alone."""
        look_s = min(_LOOK_S_MAX, self._rotate_after_s / 4)
        while True:
            await asyncio.sleep(look_s)
            parts = list(self._parts.values())  # at once: a thread puts others there
            if any(self._is_old(part) for part in parts):
                try:
                    await self._off_loop(self._rotate)
                except OSError as error:
                    if error.errno not in _PAUSE:
                        raise _link_error(error) from error

    async def close(self) -> None:
        """Give every file its name, in a second at most; never raises."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.to_thread(self._finish_all)

    async def _deliver(
        self, lane: str, batch: Sequence[_Encoded], verdicts: list[Verdict | None]
    ) -> Retry | None:
        """Halved until the one that the template cannot take stands alone; Retry: stop here."""
        try:
            if self._template is None:
                data = b"".join(body + b"\n" for _place, body in batch)
                await self._off_loop(self._append, lane, data)
            else:
                await self._off_loop(self._write_whole, lane, [body for _place, body in batch])
        except TemplateError as error:
            if len(batch) == 1:
                verdicts[batch[0][0]] = Refused(_TEMPLATE, str(error))
                return None
            middle = len(batch) // 2
            stop = await self._deliver(lane, batch[:middle], verdicts)
            return stop or await self._deliver(lane, batch[middle:], verdicts)
        except OSError as error:
            if error.errno in _PAUSE:
                return Retry(FULL_RETRY_S, _text(error))
            raise _link_error(error) from error
        for place, _body in batch:
            verdicts[place] = ACCEPTED
        return None

    async def _off_loop(self, call: Any, *arguments: Any) -> None:
        async with asyncio.timeout(self._timeout_s):
            await asyncio.to_thread(call, *arguments)

    # In a thread, one at a time

    def _append(self, lane: str, data: bytes) -> None:
        with self._spool.alone():
            part = self._parts.get(lane)
            if part is not None and (
                self._is_old(part) or part.size + len(data) > self._rotate_bytes
            ):
                self._finish(lane)
                part = None
            if part is None:
                part = self._parts[lane] = self._spool.begin(f"{_WORDS[lane]}{LINES}")
            try:
                part.append(data)
            except OSError:
                if not part.size:
                    del self._parts[lane]
                    part.drop()
                raise

    def _write_whole(self, lane: str, bodies: Sequence[bytes]) -> None:
        if self._template is None or self._template_path is None:
            return
        seen = [_seen(lane, body) for body in bodies]
        sender = self._sender
        text = self._template.render(
            lane=lane,
            gateway=sender.gateway,
            site=sender.site,
            uplink=sender.uplink,
            messages=seen,
        )
        with self._spool.alone():
            part = self._spool.begin(f"{_WORDS[lane]}{_suffix(self._template_path)}")
            try:
                part.append(text)
                part.finish()
            except OSError:
                part.drop()
                raise

    def _rotate(self) -> None:
        with self._spool.alone():
            for lane in [lane for lane, part in self._parts.items() if self._is_old(part)]:
                self._finish(lane)

    def _finish(self, lane: str) -> None:
        self._parts[lane].finish()
        del self._parts[lane]

    def _finish_all(self) -> None:
        with self._spool.alone():
            while self._parts:
                _lane, part = self._parts.popitem()
                try:
                    part.finish()
                except OSError:
                    part.leave()
            self._spool.close()

    def _is_old(self, part: Part) -> bool:
        return time.monotonic() - part.begun_s >= self._rotate_after_s


def _compiled(path: Path) -> FileTemplate:
    """Raises TemplateError; else a slip of an editor would look like the fault of each message."""
    template = FileTemplate.read(path)
    template.compile()
    return template


def _seen(lane: str, body: bytes) -> dict[str, Any]:
    """A message as a template sees it."""
    fields: dict[str, Any] = msgspec.json.decode(body)
    if lane == ALERT:
        return alert(fields)
    return samples({**fields, "rows": _rows(fields)})


def _rows(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Every sample by itself, by tag and then by time."""
    qualities = fields.get("q")
    rows = []
    for i, tag in enumerate(fields["tags"]):
        for j, ms in enumerate(fields["dt_ms"]):
            value = fields["v"][i][j]
            code = qualities[i][j] if qualities is not None else None
            if code is None and (qualities is not None or value is None):
                continue  # no sample of this tag at that time
            quality = Quality.GOOD if code is None else Quality(code & 3)
            time_ns = fields["t0_ns"] + round(ms * _NS_PER_MS)
            rows.append(
                {"time": rfc3339(time_ns), "tag": tag, "value": value, "quality": quality.name}
            )
    return rows


def _suffix(template: PurePath) -> str:
    """``.csv`` of ``alerts.csv.j2``; a name without one makes ``.txt``."""
    name = PurePath(template.name.removesuffix(".j2"))
    return name.suffix.lower() if name.suffix[1:].isalnum() else ".txt"


def _link_error(error: OSError) -> UplinkError:
    text = _text(error)
    return LinkRefusedError(text) if error.errno in _LINK_REFUSED else UplinkError(text)


def _text(error: OSError) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "the disk does not answer in time"
    place = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return f"{place}{error.strerror or error}"
