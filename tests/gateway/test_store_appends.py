"""Many who append at the same time share commits; each call is still all or nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.errors import StoreError
from gateway.store import appends
from gateway.store.alert import AlertDraft, Source
from gateway.store.ledger import Ledger

JOURNAL = 7
STORM = 10_000
STORM_S = 10.0


def draft(cause: str, **fields: Any) -> AlertDraft:
    return AlertDraft(
        kind="trip", state="event", source=Source("interlock", "face"), cause=cause, **fields
    )


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await Ledger.open(tmp_path / "ledger.db", "shaft", reserve_bytes=0)
    yield opened
    await opened.close()


@pytest.fixture
def commits(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The head after each transaction."""
    found: list[int] = []
    transact = ledger._db.transact

    async def counted(*arguments: Any) -> Any:
        result = await transact(*arguments)
        found.append(ledger.head)
        return result

    monkeypatch.setattr(ledger._db, "transact", counted)
    return found


async def causes(ledger: Ledger) -> list[str]:
    return [json.loads(item.body)["cause"] for item in await ledger.alerts(1, 1_000_000)]


async def test_a_task_that_is_cancelled_from_inside_leaves_nobody_waiting(ledger: Ledger) -> None:
    calls = [asyncio.create_task(ledger.append([draft("under way")]))]
    await asyncio.sleep(0)
    carrying = ledger._appends._task
    assert carrying is not None
    await asyncio.sleep(0)  # it has taken the first
    calls.append(asyncio.create_task(ledger.append([draft("waits")])))
    await asyncio.sleep(0)
    carrying.cancel()
    async with asyncio.timeout(5.0):
        assert await asyncio.gather(*calls) == [[2], [3]]
        assert await ledger.append([draft("later")]) == [4]
    assert await causes(ledger) == ["under way", "waits", "later"]


async def test_a_task_that_is_cancelled_before_it_begins_holds_up_no_later_one(
    ledger: Ledger,
) -> None:
    first = asyncio.create_task(ledger.append([draft("first")]))
    await asyncio.sleep(0)
    carrying = ledger._appends._task
    assert carrying is not None
    carrying.cancel()
    await asyncio.wait({carrying})
    async with asyncio.timeout(5.0):
        assert await ledger.append([draft("later")]) == [3]
        assert await first == [2]


async def test_those_that_wait_share_a_commit_in_the_order_of_coming(
    ledger: Ledger, commits: list[int]
) -> None:
    names = [str(number) for number in range(200)]
    given = await asyncio.gather(*(ledger.append([draft(n), draft(n)]) for n in names))
    assert given == [[2 * i + 2, 2 * i + 3] for i in range(200)]
    assert await causes(ledger) == [name for name in names for _ in range(2)]
    assert len(commits) <= 3


async def test_a_storm_of_10_000_is_stored_in_order_within_10_s(
    ledger: Ledger, commits: list[int]
) -> None:
    asyncio.get_running_loop().set_debug(False)  # it remembers a stack for each of 50,000 futures
    async with asyncio.timeout(STORM_S):
        given = await asyncio.gather(*(ledger.append([draft(str(i))]) for i in range(STORM)))
    assert [seq for (seq,) in given] == list(range(2, STORM + 2))
    assert await causes(ledger) == [str(i) for i in range(STORM)]
    sizes = [after - before for before, after in zip([1, *commits], commits, strict=False)]
    assert max(sizes) <= appends.GROUP_MAX, "one transaction has its bound"


async def test_one_that_cannot_be_written_at_all_fails_alone(ledger: Ledger) -> None:
    calls = [draft("one"), draft("no text: \ud800"), draft("three")]
    found = await asyncio.gather(*(ledger.append([each]) for each in calls), return_exceptions=True)
    assert [found[0], found[2]] == [[2], [3]]
    assert isinstance(found[1], UnicodeEncodeError)
    assert await causes(ledger) == ["one", "three"]


async def test_records_of_a_journal_count_once_within_a_group_as_well(ledger: Ledger) -> None:
    batch = [draft(f"record {seq}", journal_seq=seq) for seq in (5, 6)]
    again = [*batch, draft("record 7", journal_seq=7)]
    first, second = await asyncio.gather(
        ledger.append(batch, journal=(JOURNAL, 7)),
        ledger.append(again, journal=(JOURNAL, 8), samples=(JOURNAL, 3)),
    )
    assert (first, second) == ([2, 3], [0, 0, 4])
    assert await ledger.journal_position(JOURNAL) == 8
    assert await ledger.sample_position(JOURNAL) == 3


async def test_raises_of_one_group_know_each_other(ledger: Ledger) -> None:
    def about(state: Any) -> AlertDraft:
        return AlertDraft(kind="alarm", state=state, source=Source("tag", "a"), subject="alarm:a")

    states = ("raised", "raised", "cleared", "raised")
    found = await asyncio.gather(*(ledger.append([about(state)]) for state in states))
    assert found == [[2], [0], [3], [4]]
    alerts = [json.loads(item.body) for item in await ledger.alerts(1, 10)]
    assert alerts[1]["ref"] == alerts[0]["id"]
    assert [item.id for item in ledger.active()] == [alerts[2]["id"]]


async def test_a_caller_that_goes_away_takes_nothing_back(ledger: Ledger) -> None:
    gone = asyncio.create_task(ledger.append([draft("gone")]))
    await asyncio.sleep(0)
    gone.cancel()
    assert await ledger.append([draft("next")]) == [3]
    assert await causes(ledger) == ["gone", "next"]


async def test_closing_finishes_what_waits_and_takes_no_more(ledger: Ledger) -> None:
    waiting = asyncio.gather(*(ledger.append([draft(str(i))]) for i in range(50)))
    await asyncio.sleep(0)
    await ledger.close()
    assert [seq for (seq,) in await waiting] == list(range(2, 52))
    with pytest.raises(StoreError, match="closed"):
        await ledger.append([draft("late")])
