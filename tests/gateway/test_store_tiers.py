"""Five-minute buckets: what remains of samples, whenever they came and however they were packed."""

import math
import random
from pathlib import Path
from typing import Any

import pytest

from fastpath.codes import Quality
from fastpath.columns import quality_byte
from fastpath.messages import SAMPLE
from gateway.site import model
from gateway.store import age_clock, packing, tiers
from gateway.store.history import History
from gateway.store.items import PollGroup
from gateway.store.tiers import SPAN_NS, Bucket

SECOND = 1_000_000_000
BEGIN_NS = 1_750_000_200 * SECOND  # a bucket begins here
GROUPS = (PollGroup("plc/1", ("a", "b"), (0, 1)), PollGroup("plc/2", ("c",), (2,)))
BAD, GOOD = quality_byte(Quality.BAD, 4), quality_byte(Quality.GOOD, 0)
EVER = (0, 2**62)
Sample = tuple[int, float, int]  # UTC ns, value, quality


def record(tag: int, sample: Sample) -> bytes:
    at_ns, value, quality = sample
    return SAMPLE.pack(tag, quality & 3, quality >> 2, 0, value, at_ns, at_ns)


def expected(samples: list[Sample]) -> list[Bucket]:
    """In plain Python, over all samples at once."""
    found = []
    for begin in sorted({at_ns // SPAN_NS * SPAN_NS for at_ns, _, _ in samples}):
        own = [s for s in samples if s[0] // SPAN_NS * SPAN_NS == begin]
        own.sort(key=lambda sample: sample[0])
        worst = min((quality for _, _, quality in own), key=lambda quality: quality & 3)
        values = [v for _, v, quality in own if quality & 3 and math.isfinite(v)]
        found.append(
            Bucket(begin, min(values), math.fsum(values) / len(values), max(values), values[-1],
                   len(values), worst)
            if values
            else Bucket(begin, math.nan, math.nan, math.nan, math.nan, 0, worst)
        )  # fmt: skip
    return found


def same(found: list[Bucket], wanted: list[Bucket]) -> None:
    assert [b.t_ns for b in found] == [b.t_ns for b in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.mean == pytest.approx(other.mean, rel=1e-6, abs=1e-9, nan_ok=True)
        assert str(one._replace(mean=0.0)) == str(other._replace(mean=0.0))


async def opened(path: Path, **options: Any) -> History:
    options = {"utc_ns": lambda: BEGIN_NS + 10 * SECOND} | options
    return await History.open(path, groups=GROUPS, **options)


async def test_buckets_are_those_of_all_samples_however_they_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows end within buckets, a clock is set back, values are BAD or no numbers."""
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 700)
    chance = random.Random(1)
    history = await opened(tmp_path / "history.db")
    samples: dict[str, list[Sample]] = {"a": [], "b": [], "c": []}
    try:
        for second in range(1500):
            back = 900 if 1000 <= second < 1100 else 0
            for tag, name in enumerate(samples):
                odd = chance.random()
                value = math.nan if odd < 0.01 else round(chance.gauss(20, 3), 2)
                bad = odd > 0.99 or (name == "b" and 300 <= second < 600)
                at_ns = BEGIN_NS + (second - back) * SECOND + tag * 1_000_000
                samples[name].append((at_ns, value, BAD if bad else GOOD))
                history.add(record(tag, samples[name][-1]))
            if second % 50 == 0:
                await history.commit()
                await history.pack()
        await history.commit()
        assert 0 < history.stats().unpacked_samples < 1500
        for name, own in samples.items():
            same(await history.buckets(name, *EVER), expected(own))
        two = await history.buckets("a", BEGIN_NS + SPAN_NS, BEGIN_NS + 2 * SPAN_NS)
        same(two, expected(samples["a"])[1:3])
        assert len(await history.buckets("a", *EVER, limit=2)) == 2
        assert await history.buckets("nobody", *EVER) == []
    finally:
        await history.close()
    history = await opened(tmp_path / "history.db")
    try:
        same(await history.buckets("c", *EVER), expected(samples["c"]))
    finally:
        await history.close()


@pytest.mark.parametrize("bound", ["age", "bytes"])
async def test_the_tier_is_bounded_and_what_goes_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    now = [BEGIN_NS]
    monkeypatch.setattr(packing, "WINDOW_SAMPLES", 4)
    history = await opened(tmp_path / "history.db", utc_ns=lambda: now[0])
    try:
        for number in range(40):
            for i in range(4):
                history.add(record(0, (BEGIN_NS + number * SPAN_NS + i * SECOND, 1.5, GOOD)))
            await history.commit()
            await history.pack()
        assert len(await history.buckets("a", *EVER)) == 40
        if bound == "age":
            now[0] = BEGIN_NS + tiers.MAX_AGE_NS + 10 * SPAN_NS + SECOND
            left = 30
            await history.shed()
            assert len(await history.buckets("a", *EVER)) == 40, "a leap makes nothing old at once"
            passed = history._state.monotonic_ns() + age_clock.LASTS_NS
            monkeypatch.setattr(history._state, "monotonic_ns", lambda: passed)
        else:
            monkeypatch.setattr(tiers, "PART_OF_BYTES", 2_000_000_000 // 600)
            left = 0
        await history.shed()
        found = await history.buckets("a", *EVER)
        assert len(found) == left if left else 0 < len(found) < 40
        assert found[-1].t_ns == BEGIN_NS + 39 * SPAN_NS  # the oldest go
        assert history.stats().dropped["shed_five_minute"] == 40 - len(found)
    finally:
        await history.close()


@pytest.mark.parametrize(
    ("history", "days"),
    [(model.History(), 30), (model.History(preset="mine"), 7),
     (model.History(preset="mine", max_age=model.Duration(86_400 * SECOND)), 1)],
)  # fmt: skip
def test_a_preset_says_how_long_raw_samples_stay(history: model.History, days: int) -> None:
    assert history.raw_max_age_ns == days * 86_400 * SECOND
    assert history.five_minute_max_age == 365 * 86_400 * SECOND
