"""What one transaction adds to the ledger: drafts become numbered alerts, raises begin and end.

A batch is worked out on top of what is committed without changing it, so that the transaction may
fail or run again.
"""

import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

import msgspec

from gateway.store.alert import ActiveAlert, Alert, AlertDraft, rfc3339

_ENCODER: Final = msgspec.json.Encoder()
# How every body begins. A quote inside of a text is escaped, so none of this can stand in one.
_OLD_HEAD: Final = re.compile(
    rb'\{"id":"(?P<id>[^"\\]+)","gateway":"[^"\\]*","epoch":\d+,"seq":(?P<seq>\d+),'
    rb'"kind":"(?P<kind>[a-z_]+)",.*\}\Z',
    re.DOTALL,
)
_WAS: Final = b',"was":"'


@dataclass(slots=True)
class Stamp:
    """What the ledger adds to each alert."""

    gateway: str
    site: str
    utc_ns: Callable[[], int] = time.time_ns
    clock_synced: Callable[[], bool] = lambda: False
    program: str | None = None
    unarmed_count: int | None = None
    exercise: bool = False  # nothing of this ledger is about a real plant


@dataclass(slots=True)
class Batch:
    """On top of ``head`` and the raises ``standing``, which it only reads.

    ``told``: numbers, by the ``id()`` of their drafts, that are in the file already (0: said
    nothing new).
    """

    stamp: Stamp
    epoch: int
    head: int
    standing: Mapping[str, ActiveAlert]
    told: Mapping[int, int] = field(default_factory=dict)
    seqs: list[int] = field(default_factory=list)  # one per draft, 0: not said
    rows: list[tuple[int, str, int, int, bytes]] = field(default_factory=list)
    active: dict[str, ActiveAlert | None] = field(default_factory=dict)
    positions: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, draft: AlertDraft) -> None:
        """Number one draft; 0 where it says nothing new."""
        if (seq := self.told.get(id(draft))) is not None:
            self.seqs.append(seq)
            return
        before = self._active(draft.subject)
        state, ref = draft.state, draft.ref
        if draft.subject:
            if state == "raised" and before and not draft.repeat:
                self.seqs.append(0)
                return
            if state == "cleared" and not before:
                if draft.unmatched is None:
                    self.seqs.append(0)
                    return
                state = draft.unmatched
            ref = ref or (before.id if before else None)
        alert = self._alert(draft, state, ref)
        body = _ENCODER.encode(alert)
        self.head = alert.seq
        self.seqs.append(alert.seq)
        self.rows.append((alert.seq, alert.kind, self.stamp.utc_ns(), zlib.crc32(body), body))
        if draft.subject and state == "raised":
            self.active[draft.subject] = ActiveAlert(draft.subject, alert.id, body)
        elif before and state == "cleared":
            self.active[draft.subject] = None

    def add_salvaged(self, old: bytes) -> tuple[str, str, bytes] | None:
        """An alert that not every uplink has: the same but for its number, and ``was``.

        (Its old id, its new id and body); None where it is no alert of ours.
        """
        seq = self.head + 1
        ident = f"{self.stamp.gateway}/{self.epoch}/{seq}"
        found = _OLD_HEAD.match(old)
        if found is None:
            return None
        was = b"" if _WAS in old else b',"was":"' + found["id"] + b'"'
        front = (
            f'{{"id":"{ident}","gateway":"{self.stamp.gateway}","epoch":{self.epoch},"seq":{seq}'
        )
        body = front.encode() + old[found.end("seq") : -1] + was + b"}"
        self.head = seq
        kind = found["kind"].decode()
        self.rows.append((seq, kind, self.stamp.utc_ns(), zlib.crc32(body), body))
        return found["id"].decode(), ident, body

    def _active(self, subject: str) -> ActiveAlert | None:
        if not subject:
            return None
        if subject in self.active:
            return self.active[subject]
        return self.standing.get(subject)

    def _alert(self, draft: AlertDraft, state: Any, ref: str | None) -> Alert:
        stamp = self.stamp
        now_ns = stamp.utc_ns()
        seq = self.head + 1
        synced = draft.clock_synced
        return Alert(
            id=f"{stamp.gateway}/{self.epoch}/{seq}",
            gateway=stamp.gateway,
            epoch=self.epoch,
            seq=seq,
            kind=draft.kind,
            state=state,
            site=stamp.site,
            source=draft.source,
            time=rfc3339(draft.utc_ns or now_ns),
            recorded=rfc3339(now_ns),
            clock_synced=stamp.clock_synced() if synced is None else synced,
            priority=draft.priority,
            ref=ref,
            level=draft.level,
            value=_finite(draft.value),
            limit=_finite(draft.limit),
            unit=draft.unit,
            quality=draft.quality,
            cause=draft.cause,
            legs=draft.legs,
            first_out=draft.first_out,
            reaction_ns=draft.reaction_ns,
            outputs=draft.outputs,
            guidance=draft.guidance,
            correction=draft.correction,
            armed=draft.armed,
            unarmed_count=stamp.unarmed_count,
            exercise=draft.exercise or stamp.exercise,
            program=draft.program or stamp.program,
        )


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
