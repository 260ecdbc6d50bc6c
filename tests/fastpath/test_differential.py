"""The compiled guard against the reference: random sites through random histories, scan by scan."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fastpath.codes import EventType
from gateway.site.model import Config
from tests.helpers import twins
from tests.helpers.histories import Step, edits, histories, sites

Case = tuple[Config, list[Config], list[Step]]
SCANS_EACH = 20  # at least, on average
RECORDS_EACH = 5
PARTS = 2


@st.composite
def cases(draw: st.DrawFn) -> Case:
    config = draw(sites())
    edited = [draw(edits(config)) for _ in range(draw(st.integers(0, 2)))]
    return config, edited, draw(histories)


def compared(stepping: Any, programs: int, *, derandomize: bool = False) -> Counter[str]:
    """So many sites through both guards. Raises Difference, of the smallest case.

    ``derandomize``: always the same ones.
    """
    counts: Counter[str] = Counter()

    @given(cases())
    @settings(
        max_examples=programs,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    def same(case: Case) -> None:
        done = twins.run(stepping.Stepper, *case)
        counts["programs"] += 1
        counts["scans"] += len(done.trace)
        for scan in done.trace:
            counts.update(EventType(each.type).name for each in scan.events)

    same()
    return counts


def told(counts: Counter[str]) -> str:
    kinds = {kind: counts[kind] for kind in counts if kind not in ("programs", "scans")}
    rest = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return f"{counts['programs']} programs, {counts['scans']} scans: {rest}"


def enough(counts: Counter[str], programs: int) -> None:
    """What was compared is worth its name."""
    records = sum(counts.values()) - counts["programs"] - counts["scans"]
    assert counts["programs"] >= programs * 9 // 10
    assert counts["scans"] >= programs * SCANS_EACH * 9 // 10
    assert records >= programs * RECORDS_EACH


@pytest.mark.timeout(600)
def test_the_guard_does_what_the_reference_says(
    stepping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = compared(stepping, 500, derandomize=True)
    with capsys.disabled():
        print(f"\n{told(counts)}")
    enough(counts, 500)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_guard_does_what_the_reference_says_ten_thousand_times(
    stepping: Any, capsys: pytest.CaptureFixture[str], part: int
) -> None:
    """In parts, each with sites of its own, so that every core has one."""
    programs = 10_000 // PARTS
    counts = compared(stepping, programs)
    with capsys.disabled():
        print(f"\npart {part}: {told(counts)}")
    enough(counts, programs)
