"""Certificates of uplinks that end soon: told at each step, once, until one lives longer."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from gateway.life import certificate_watch
from gateway.life.certificate_watch import CertificateWatch
from gateway.life.problems import Problems
from gateway.site.model import Uplink
from gateway.store.ledger import Ledger
from gateway.uplink.certificates import client_not_after_utc_ns
from tests.helpers.certificates import issue, make_authority
from tests.helpers.uplinks import until

DAY_NS = 86_400_000_000_000
END_NS = 1_900_000_000_000_000_000


class Clock:
    """UTC as the test sets it: so many days before the end."""

    def __init__(self) -> None:
        self.days = 0.0

    def __call__(self) -> int:
        return END_NS - int(self.days * DAY_NS)


def watching(problems: Problems, clock: Clock) -> CertificateWatch:
    return CertificateWatch((), (), None, problems, utc_ns=clock)


def raised(problems: Problems) -> list[str]:
    return [problem.ident for problem in problems.active()]


def test_each_step_is_told_once_and_cleared_by_a_longer_life() -> None:
    problems, clock = Problems(), Clock()
    watch = watching(problems, clock)
    told = []
    for clock.days in (31, 30, 29.9, 8, 7, 6.5, 1.5, 1, 0.5, 0, -3):
        watch.look({"a": END_NS}, {"a": 0})
        told.append(len(raised(problems)))
    assert told == [0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert raised(problems) == ["a/client/30d", "a/client/7d", "a/client/1d", "a/client/ended"]
    assert problems.raised_total["uplink_certificate"] == 4
    texts = {problem.ident: problem.text for problem in problems.active()}
    assert texts["a/client/1d"] == "our own certificate ends within a day, on 2030-03-17 17:46 UTC"
    assert texts["a/client/ended"].startswith("our own certificate has ended on 2030-03-17")
    watch.look({"a": END_NS + 20 * DAY_NS}, {"a": 0})  # renewed, but not for long
    assert raised(problems) == ["a/client/30d"]
    watch.look({"a": END_NS + 90 * DAY_NS}, {"a": 0})
    assert raised(problems) == []


def test_both_ends_and_every_uplink_have_their_own() -> None:
    problems, clock = Problems(), Clock()
    clock.days = 5
    watching(problems, clock).look({"a": END_NS, "b": 0}, {"a": 0, "b": END_NS})
    assert raised(problems) == ["a/client/7d", "b/server/7d"]


def test_a_clock_that_was_never_set_clears_nothing() -> None:
    problems, clock = Problems(), Clock()
    watch = watching(problems, clock)
    clock.days = 5
    watch.look({"a": END_NS}, {})
    clock.days = END_NS / DAY_NS - 1  # the second of January 1970
    watch.look({"a": END_NS}, {})
    watch.look({}, {"a": 0})
    assert raised(problems) == ["a/client/7d"]


async def test_a_restart_tells_nothing_twice(tmp_path: Path) -> None:
    clock = Clock()
    clock.days = 5
    for _ in range(2):
        ledger = await Ledger.open(tmp_path / "ledger.db", "gw", site="s", uplinks=[])
        problems = Problems()
        problems.follow(item.subject for item in ledger.active())
        watching(problems, clock).look({"a": END_NS}, {})
        await problems.flush(ledger)
        alerts = [msgspec.json.decode(item.body) for item in await ledger.alerts(0, 100)]
        await ledger.close()
    about = [alert for alert in alerts if alert["source"]["kind"] == "uplink_certificate"]
    assert [(alert["state"], alert["priority"]) for alert in about] == [("raised", "high")]


async def test_our_own_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate_watch, "LOOK_S", 0.02)
    folder = make_authority(tmp_path / "platform")
    issue(folder, "cert", until=timedelta(days=6))
    (folder / "cert-key.pem").rename(folder / "key.pem")
    for path in folder.iterdir():
        path.chmod(0o600)
    uplink = Uplink(id="a", kind="http", url="https://127.0.0.1:1", credentials="platform")
    problems = Problems()
    watch = CertificateWatch((uplink,), (), tmp_path, problems)
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: raised(problems) == ["a/client/7d"])
        issue(folder, "cert", until=timedelta(days=365))
        await until(lambda: raised(problems) == [])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_credentials_in_one_file_tell_the_end_that_a_folder_tells(tmp_path: Path) -> None:
    folder = make_authority(tmp_path / "folder")
    (folder / "client.pem").rename(folder / "cert.pem")
    single = tmp_path / "single"
    single.write_text(json.dumps({"cert.pem": (folder / "cert.pem").read_text()}))
    single.chmod(0o600)
    ends = [
        client_not_after_utc_ns(
            Uplink(id="a", kind="http", url="https://127.0.0.1:1", credentials=name), tmp_path
        )
        for name in ("folder", "single")
    ]
    assert ends[0] == ends[1] > 0
