"""What a journal record is about, by its keys: names from the program that ran when it was written.

Records of an older program keep their meaning as long as its blob is on disk.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from fastpath.codes import EventFlag
from fastpath.records import Event
from gateway.alarms.programs import KnownPrograms
from gateway.guard.program_text import DeviceText, InterlockText, OutputText, ProgramText
from gateway.orders.hands import Hand
from gateway.store.alert import AlertDraft
from gateway.store.audit_memory import Order

_NS_PER_S: Final = 1_000_000_000


class People(Protocol):
    """Who is behind a record."""

    def order(self, ident: bytes) -> Order | None:
        """The command with this id in the mailbox."""

    def order_at(self, seq: int) -> Order | None:
        """The command that is this entry of the audit."""

    def hand(self, key: int, mono_ns: int) -> Hand | None:
        """Who tripped the interlock with this key by hand, at this monotonic time."""


class Nobody:
    """Where nobody is known."""

    def order(self, _ident: bytes) -> Order | None:
        """None."""
        return None

    def order_at(self, _seq: int) -> Order | None:
        """None."""
        return None

    def hand(self, _key: int, _mono_ns: int) -> Hand | None:
        """None."""
        return None


class Names:
    """Finds texts by key; what no program knows is shown as ``kind-KEY``."""

    def __init__(self, programs: KnownPrograms) -> None:
        self._programs = programs

    def interlock(
        self, event: Event, key: int | None = None
    ) -> tuple[ProgramText | None, InterlockText | None]:
        """The interlock of the record, or of ``key``, with its program."""
        wanted = event.key if key is None else key
        for text in self.texts(event):
            for interlock in text.interlocks:
                if interlock.key == wanted:
                    return text, interlock
        return None, None

    def output(
        self, event: Event, key: int | None = None
    ) -> tuple[ProgramText | None, OutputText | None]:
        """The output of the record, or of ``key``, with its program."""
        wanted = event.key if key is None else key
        for text in self.texts(event):
            for output in text.outputs:
                if output.key == wanted:
                    return text, output
        return None, None

    def named(
        self,
        event: Event,
        items: Callable[[ProgramText], tuple[OutputText, ...] | tuple[DeviceText, ...]],
        kind: str,
        key: int | None = None,
    ) -> str:
        """The id of an output or a device; for ``kind`` "" nothing where it is unknown."""
        wanted = event.key if key is None else key
        for text in self.texts(event):
            for item in items(text):
                if item.key == wanted:
                    return item.id
        return unknown(kind, wanted) if kind else ""

    def tag(self, event: Event) -> tuple[ProgramText | None, str]:
        """The tag whose key the record has, with its program."""
        for text in self.texts(event):
            slot = text.tag_keys.get(event.key)
            if slot is not None:
                return text, text.tags[slot]
        return None, unknown("tag", event.key)

    def texts(self, event: Event) -> list[ProgramText]:
        """The program that ran then first, the others that are known after it."""
        own = self._programs.text(event.program)
        others = self._programs.texts()
        return [own, *others] if own else others

    def text_of(self, start: bytes) -> ProgramText | None:
        """The program whose hash begins with these bytes (8 are looked at)."""
        return self._programs.text(int.from_bytes(start[:8], "little"))

    def hash(self, event: Event) -> str:
        """The hash of the program that ran then, hexadecimal; its start where no more is known."""
        text = self._programs.text(event.program)
        return text.hash.hex() if text else event.program.to_bytes(8, "little").hex()


def draft_of(event: Event, **fields: Any) -> AlertDraft:
    """A draft with what every record has."""
    return AlertDraft(
        utc_ns=event.utc_ns,
        clock_synced=bool(event.flags & EventFlag.CLOCK_SYNCED),
        journal_seq=event.seq,
        **fields,
    )


def unknown(kind: str, key: int) -> str:
    """What stands where a name is not known."""
    return f"{kind}-{key:016x}"


def tag_of(text: ProgramText | None, slot: int) -> str:
    """A tag's id, "" where it is not known."""
    return text.tags[slot] if text and slot < len(text.tags) else ""


def name_of(kind: Any, code: int) -> str:
    """A code's name in words."""
    try:
        return str(kind(code).name).lower().replace("_", " ")
    except ValueError:
        return f"code {code}"


def after(ns: int) -> str:
    """`` after 3.000 s``, nothing for no time."""
    return f" after {seconds(ns)}" if ns > 0 else ""


def seconds(ns: int) -> str:
    """Seconds, the finer the shorter."""
    return f"{ns / 1e9:.1f} s" if ns >= 10_000_000_000 else f"{ns / 1e9:.3f} s"


def moment(utc_ns: int) -> str:
    """``2026-05-04 14:32:05 UTC``; "an unknown time" for what is none."""
    try:
        return f"{datetime.fromtimestamp(utc_ns // _NS_PER_S, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


def who_and_why(order: Order | Hand | None) -> str:
    """`` by uid:ann: new sensor``, nothing where it is not known."""
    if order is None:
        return ""
    return f" by {order.who}" + (f": {order.reason}" if order.reason else "")
