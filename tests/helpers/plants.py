"""The plant around two guards: what its devices say, how they answer, what the gateway feeds."""

from typing import Any

from fastpath import blob as blobs
from fastpath import messages
from fastpath.codes import MessageType, Quality
from fastpath.reference_output import Output
from tests.helpers.histories import CONTACTS, OUTPUTS, POLLED, SLOW
from tests.helpers.pairs import EMPTY, Pair

Reading = tuple[float, int, int]  # value, quality, reason
GOOD = int(Quality.GOOD)
ANSWERED = {"good": False, "refused": True}
DONE, REFUSED = 1, 2  # code of an OUTPUT_RESULT


class Plant:
    """What happens to it are the ``op_*``."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.values: dict[str, Reading] = dict.fromkeys(POLLED, (0.0, GOOD, 0))
        self.polling = True
        self.replies = dict.fromkeys(OUTPUTS, "good")
        self.contacts = True  # read-backs follow what is written

    # ---- once per scan

    def poll(self) -> None:
        """Before a scan: every reading of the fast device."""
        pair = self.pair
        if not self.polling or pair.running is EMPTY:
            return
        now = pair.now
        if pair.reference.plan.is_fast(SLOW):
            self.values.setdefault(SLOW, (0.0, GOOD, 0))
        for tag, (value, quality, reason) in self.values.items():
            if tag in pair.slots:
                pair.stepper.poll(pair.slots[tag], value, quality, reason)
                pair.reference.poll(tag, value, quality, reason, now)
        if "plc" in pair.devices:
            self.op_device("plc", up=True)
            pair.stepper.heard(pair.devices["plc"])
            pair.reference.heard("plc", now)

    def write(self) -> None:
        """After a scan: the wishes go out, and the plant answers as it does now."""
        for name, place in self.pair.outputs.items():
            one = self.pair.reference.outputs.items[name]
            how = self.replies[name]
            if one.by_gateway:
                self._write_through_gateway(one, how)
            elif self.pair.stepper.wish(place) and how != "lost":
                self._write(one, place, how)

    def _write(self, one: Output, place: int, how: str) -> None:
        stepper, now = self.pair.stepper, self.pair.now
        value = one.commanded
        stepper.sent(place)
        self.pair.reference.sent(one.id, now)
        if how in ANSWERED:
            stepper.replied(place, ANSWERED[how])
            self.pair.reference.replied(one.id, refused=ANSWERED[how])
        else:
            stepper.expired(place)
            self.pair.reference.expired(one.id)
        self._follow(one, value, how)

    def _write_through_gateway(self, one: Output, how: str) -> None:
        """It reads the wish in the latch, where there is a gateway, and says what came of it."""
        if one.commanded is None or one.replied or how not in ANSWERED:
            return
        if self.pair.stepper.connected:
            value = one.commanded
            self._result(one.id, one.generation, REFUSED if ANSWERED[how] else DONE)
            self._follow(one, value, how)

    def _follow(self, one: Output, value: float | None, how: str) -> None:
        if how == "good" and self.contacts and one.readback is not None:
            tag, inverted = one.readback
            self.values[tag] = (float(bool(value) != inverted), GOOD, 0)

    def _result(self, output: str, generation: int, code: int) -> None:
        body = messages.OUTPUT_RESULT.pack(blobs.key_of("output", output), generation, code)
        self.pair.stepper.send(MessageType.OUTPUT_RESULT, body)
        self.pair.reference.output_result(output, generation, code, self.pair.now)

    # ---- events of a history

    def op_plant(self, tag: str, reading: Reading) -> None:
        self.values[tag] = (reading[0], int(reading[1]), int(reading[2]))

    def op_calm(self, value: float, on: bool) -> None:
        for tag in POLLED:
            if tag not in CONTACTS:
                known = value if tag.startswith("n") else float(on)
                self.values[tag] = (known, GOOD, 0)
        self.polling = True
        self.op_sample((value, GOOD, 0), 0)

    def op_sample(self, reading: Reading, ahead_ns: int) -> None:
        pair = self.pair
        if SLOW not in pair.slots:
            return
        value, quality, reason = reading
        mono_ns = pair.now.mono_ns + ahead_ns
        pair.gateway(present=True)
        body = messages.SAMPLE.pack(
            pair.slots[SLOW], quality, reason, 0, value, mono_ns, pair.now.utc_ns
        )
        pair.stepper.send(MessageType.SAMPLES, body)
        pair.reference.sample(SLOW, value, int(quality), int(reason), mono_ns, pair.now)

    def op_result(self, output: str, off_by: int, code: int) -> None:
        """A word of the gateway that fits, or does not."""
        one = self.pair.reference.outputs.items.get(output)
        self.pair.gateway(present=True)
        self._result(output, max(0, one.generation + off_by) if one is not None else 0, code)

    def op_polling(self, on: bool) -> None:
        self.polling = on

    def op_replies(self, output: str, how: str) -> None:
        self.replies |= dict.fromkeys(OUTPUTS if output == "all" else (output,), how)

    def op_contacts(self, follow: bool) -> None:
        self.contacts = follow

    def op_device(self, ident: str, up: bool) -> None:
        if ident in self.pair.devices:
            self.pair.stepper.device(self.pair.devices[ident], up)
            self.pair.reference.device(ident, up=up)

    def op_link(self, ident: str, up: bool) -> None:
        pair = self.pair
        if ident not in pair.devices:
            return
        if up:
            pair.stepper.link_up(pair.devices[ident])
            pair.reference.outputs.link_up(ident, pair.now)
        else:
            pair.stepper.link_down(pair.devices[ident])
            pair.reference.outputs.link_down(ident)

    def ops(self) -> dict[str, Any]:
        """What may happen to it, by name."""
        return {name[3:]: getattr(self, name) for name in dir(self) if name.startswith("op_")}
