"""A platform that compares every sample with what was made of it, and keeps none of them.

``python -m tests.helpers.verifying PORT TAGS PER_GROUP BASE_MS JITTER_MS SEED``
A persistent MQTT session on paho: what the broker takes while this is away comes later. Each line
of standard output is what has come so far, ten times a second while something comes; a number on
standard input ends it: so many seconds of the signals were made, and the last line says what is
missing of them. What it counts of samples, the compiled ``signals`` module compares.
"""

import json
import select
import sys
import time
from typing import Any, Final

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.helpers import inside

TELL_S: Final = 0.1
SESSION_S: Final = 86_400


class Message(msgspec.Struct):
    """Samples in columns."""

    epoch: int
    seq: int
    historical: bool
    t0_ns: int
    dt_ms: list[float]
    tags: list[str]
    v: list[list[float | None]]
    q: list[list[int | None]] | None = None
    gap: Any = None


class Alert(msgspec.Struct):
    """What is looked at of an alert."""

    seq: int
    kind: str


class Told(msgspec.Struct):
    """What has come so far; times are CLOCK_MONOTONIC ns of this machine, 0 where it never came."""

    connected: bool = False
    messages: int = 0
    samples: int = 0
    backfill_samples: int = 0
    alerts: int = 0  # without doubles
    alarms: int = 0
    alerts_before_backfill: int = 0
    first_backfill_ns: int = 0
    last_backfill_ns: int = 0
    last_alert_ns: int = 0
    doubles: int = 0
    gaps: int = 0
    baseline: int = 0
    baseline_ns: int = 0
    bytes: int = 0


class Verifier:
    """One session."""

    def __init__(self, port: int, signals: Any) -> None:
        self.told = Told()
        self.signals = signals
        self._port = port
        self._seen: set[tuple[int, bool, int]] = set()
        self._alerts: set[int] = set()
        self._decoder = msgspec.json.Decoder(Message)
        self._alert = msgspec.json.Decoder(Alert)
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="verifier", protocol=paho.MQTTv5
        )
        self._client.on_message = self._message
        self._client.on_subscribe = self._subscribed

    def run(self) -> int:
        """Until a number comes on standard input; the number."""
        told_s, told = 0.0, b""
        while True:
            if not self._client.is_connected():
                self.told.connected = False
                self._connect()
            self._client.loop(TELL_S)
            now_s = time.monotonic()
            if now_s - told_s >= TELL_S:
                told_s = now_s
                self.told.samples = self.signals.samples
                line = msgspec.json.encode(self.told)
                if line != told:
                    told = line
                    print(line.decode(), flush=True)
                if select.select([sys.stdin], [], [], 0)[0]:
                    return int(sys.stdin.readline() or 0)

    def _connect(self) -> None:
        lasting: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        lasting.SessionExpiryInterval = SESSION_S
        try:
            self._client.connect("127.0.0.1", self._port, clean_start=False, properties=lasting)
        except OSError:
            time.sleep(TELL_S)
            return
        while not self._client.is_connected():
            self._client.loop(TELL_S)
        self._client.subscribe([("sitewarden/#", SubscribeOptions(1)),
                                ("baseline", SubscribeOptions(1))])  # fmt: skip

    def _subscribed(self, *_: object) -> None:
        self.told.connected = True

    def _message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        told, end = self.told, message.topic.rpartition("/")[2]
        told.bytes += len(message.payload)
        if end == "baseline":
            told.baseline += 1
            told.baseline_ns = time.monotonic_ns()
            msgspec.json.decode(message.payload)
        elif end == "alerts":
            self._take_alert(self._alert.decode(message.payload))
        elif end in self.lanes:
            self._take(self._decoder.decode(message.payload))

    lanes: Final = ("live", "backfill")

    def _take_alert(self, alert: Alert) -> None:
        if alert.seq in self._alerts:
            self.told.doubles += 1
            return
        self._alerts.add(alert.seq)
        self.told.alerts += 1
        self.told.alarms += alert.kind in ("alarm", "alarm_end")
        self.told.last_alert_ns = time.monotonic_ns()

    def _take(self, message: Message) -> None:
        told, key = self.told, (message.epoch, message.historical, message.seq)
        if key in self._seen:
            told.doubles += 1
            return
        self._seen.add(key)
        told.messages += 1
        if message.gap is not None:
            told.gaps += 1
        if message.historical:
            now_ns = time.monotonic_ns()
            if not told.first_backfill_ns:
                told.first_backfill_ns, told.alerts_before_backfill = now_ns, told.alerts
            told.last_backfill_ns = now_ns
        before = self.signals.samples
        self.signals.take(
            int(message.historical), message.t0_ns, message.dt_ms, message.tags, message.v,
            message.q,
        )  # fmt: skip
        if message.historical:
            told.backfill_samples += self.signals.samples - before


def main() -> None:
    """Verify until told to end."""
    port, tags, per_group, base_ms, jitter_ms, seed = map(int, sys.argv[1:])
    signals = inside.load("signals").Signals(
        tags, per_group, base_ms, jitter_ms=jitter_ms, seed=seed
    )
    verifier = Verifier(port, signals)
    seconds = verifier.run()
    verdict = {
        "samples": signals.samples,
        "wrong": signals.wrong,
        "backwards": signals.backwards,
        "bad": signals.bad,
        "faults": signals.faults,
        "missing": signals.missing(seconds)[:20],
    }
    print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
