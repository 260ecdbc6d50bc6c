"""Journal records and a stand-in for the guard's shared file, for tests of the recorder."""

import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from fastpath import blob
from fastpath.codes import (
    NONE_U32,
    EventType,
    InterlockFlag,
    InterlockLatchFlag,
    InterlockState,
    OutputKind,
    OutputPath,
    Owner,
)
from fastpath.journal import Header, InterlockView, SlotView
from fastpath.messages import SAMPLE
from fastpath.records import PAYLOADS, Event

INTERLOCK = "face-power-cut"
OUTPUT = "power.face"
DEVICE = "plc-face"
LEGS = ("ch4.t1 >= 1.5", "ch4.t2 >= 1.5", "(not fan.running) for 300ms")
CAUSE = "2oo3(ch4.t1 >= 1.5, ch4.t2 >= 1.5, ch4.t3 >= 1.5) or ((not fan.running) for 300ms)"


def program(tags: Sequence[str] = ("ch4.t1", "ch4.t2", "slow"), *, armed: bool = True) -> bytes:
    """A program blob with one interlock, as far as texts and slots go (not one to be run)."""
    slots = {tag: i for i, tag in enumerate(tags)}
    return blob.build(
        blob.Program(
            site_key=1,
            tick_ns=10_000_000,
            start_within_ns=0,
            tags=[
                blob.Tag(
                    key=blob.key_of("tag", tag),
                    owner=Owner.GATEWAY if tag == "slow" else Owner.GUARD,
                )
                for tag in tags
            ],
            interlocks=[
                blob.Interlock(
                    key=blob.key_of("interlock", INTERLOCK),
                    fingerprint=1,
                    delay_ns=0,
                    bad_for_ns=0,
                    hold_max_ns=0,
                    min_trip_ns=0,
                    response_ns=0,
                    bypass_max_ns=0,
                    order=0,
                    cause=0,
                    permissive=NONE_U32,
                    group=NONE_U32,
                    flags=InterlockFlag.ARMED if armed else 0,
                    on_bad=1,
                    legs_first=0,
                    legs_count=3,
                    effects_first=0,
                    effects_count=1,
                )
            ],
            effects=[blob.Effect(0, 0)],
            legs=[
                blob.Leg(0, 0, slots.get("ch4.t1", NONE_U32), 1.5),
                blob.Leg(0, 0, slots.get("ch4.t2", NONE_U32), 1.5),
                blob.Leg(0, 0, NONE_U32, 0.0),
            ],
            outputs=[
                blob.Output(
                    key=blob.key_of("output", OUTPUT),
                    confirm_ns=1,
                    reassert_ns=1,
                    silence_ns=0,
                    device=0,
                    readback=NONE_U32,
                    address=16,
                    trip=0,
                    normal=1,
                    unit=1,
                    path=OutputPath.MODBUS,
                    kind=OutputKind.COIL,
                    flags=1,
                )
            ],
            devices=[
                blob.Device(
                    blob.key_of("device", DEVICE), bytes(16), 0, 0, 0, 0, 0, 0, 0, 502, 0, 0, 1, 1
                )
            ],
            names={
                "tags": list(tags),
                "units": ["%CH4"] * len(tags),
                "interlocks": [INTERLOCK],
                "outputs": [OUTPUT],
                "devices": [DEVICE],
                "legs": list(LEGS),
                "causes": [CAUSE],
            },
        )
    )


def number(data: bytes) -> int:
    """The short form of a blob's hash."""
    return int.from_bytes(blob.blob_hash(data)[:8], "little")


def payload(kind: EventType, /, **fields: Any) -> bytes:
    """The 64 bytes of a record; what is not given is zero."""
    names, layout = PAYLOADS[kind]
    given: defaultdict[str, Any] = defaultdict(int, fields)
    empty = struct.unpack(layout, bytes(struct.calcsize(layout)))
    values = [given[n] if n in fields else e for n, e in zip(names.split(), empty, strict=True)]
    return struct.pack(layout, *values)


class FakeGuard:
    """What a GuardView shows, out of lists."""

    def __init__(self, data: bytes, journal_id: int = 2**63 + 5) -> None:
        self.journal_id = journal_id
        self.data = data
        self.events_written: list[Event] = []
        self.samples_written = b""
        self.samples_gone = 0
        self.tail = 1
        self.image: dict[int, SlotView] = {}
        self.first = 1  # the oldest record that is not overwritten

    def write(self, kind: EventType, /, *, flags: int = 0, key: int = 0, **fields: Any) -> Event:
        """Append a record."""
        seq = len(self.events_written) + 1
        event = Event(
            seq, seq * 1_000_000, seq * 1_000_000, seq, kind, flags, 0, key, number(self.data),
            payload(kind, **fields),
        )  # fmt: skip
        self.events_written.append(event)
        return event

    def trip(self, **fields: Any) -> Event:
        """Append a TRIP of the interlock."""
        fields.setdefault("reason", 1)
        return self.write(EventType.TRIP, key=blob.key_of("interlock", INTERLOCK), **fields)

    def sample(self, slot: int, value: float, ms: int) -> None:
        """Append a sample."""
        self.samples_written += SAMPLE.pack(slot, 2, 0, 0, value, ms * 10**6, ms * 10**6)
        self.image[slot] = SlotView(value, 2, 0, ms * 10**6, ms * 10**6, 0, 1)

    # ---- GuardView

    def header(self) -> Header:
        """Of the shared file."""
        return Header(
            boot_id=bytes(16), journal_id=self.journal_id, guard_starts=1, pid=1, clean_stop=0,
            scan=1, scan_mono_ns=1, scan_ns_max=1, overruns=0, program=blob.blob_hash(self.data),
            event_head=len(self.events_written) + 1, event_tail=self.tail, events_lost=0,
            sample_head=len(self.samples_written) // SAMPLE.size, samples_shed=0,
            gateway_connected=1, last_message_mono_ns=0, counters=(0,) * 256,
        )  # fmt: skip

    def events(self, first: int, limit: int) -> list[Event]:
        """Valid records from ``first``."""
        return [event for event in self.events_written if event.seq >= max(first, self.first)][
            :limit
        ]

    def interlock(self, index: int) -> InterlockView:
        """The only one's latch, by its records."""
        assert index == 0
        tripped, seq, utc_ns = False, 0, 0
        for event in self.events_written:
            if event.type in {EventType.TRIP, EventType.RESET}:
                tripped, seq, utc_ns = event.type == EventType.TRIP, event.seq, event.utc_ns
        state = InterlockState.TRIPPED if tripped else InterlockState.NORMAL
        flags = InterlockLatchFlag.ARMED
        return InterlockView(
            blob.key_of("interlock", INTERLOCK), state, flags, 1, 1, 0, utc_ns, 0, 0, seq
        )

    def samples(self, first: int, limit: int) -> tuple[int, int, bytes]:
        """Records of the ring."""
        lost = max(0, self.samples_gone - first)
        first = max(first, self.samples_gone)
        last = min(first + limit, len(self.samples_written) // SAMPLE.size)
        return last, lost, self.samples_written[first * SAMPLE.size : last * SAMPLE.size]

    def slots(self, count: int) -> list[SlotView]:
        """The image."""
        return [self.image.get(i, SlotView(0.0, 0, 0, 0, 0, 0, 0)) for i in range(count)]

    def ack(self, journal_id: int, tail: int) -> None:
        """What the mailbox's ACK does."""
        assert journal_id == self.journal_id
        assert self.tail <= tail <= len(self.events_written) + 1
        self.tail = tail
