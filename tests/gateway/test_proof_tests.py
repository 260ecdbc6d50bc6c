"""Proof tests that are due: told once, and over when one has passed."""

from types import SimpleNamespace
from typing import Any, cast

from gateway.life.problems import Problems
from gateway.orders.proof_tests import ProofWatch, due_utc_ns
from gateway.site.model import Config, Duration, Interlock, Site
from gateway.store.audit import AuditEntry
from gateway.store.audit_memory import AuditMemory, ProofTest

DAY_NS = 86_400_000_000_000
NOW_NS = 1_800_000_000_000_000_000
CONFIG = Config(
    site=Site(id="shaft"),
    interlock=tuple(
        Interlock(
            id=ident, cause="x", effects=(), response=Duration(1), armed=True, test_every=every
        )
        for ident, every in (("cut", Duration(30 * DAY_NS)), ("other", None))
    ),
)


def proof(seq: int, utc_ns: int, *, passed: bool) -> AuditEntry:
    detail = '{"passed": true}' if passed else '{"passed": false}'
    return AuditEntry(seq, utc_ns, "proof", None, "uid:ann", "proof test", "cut", detail)


def test_a_test_that_did_not_pass_moves_nothing() -> None:
    assert due_utc_ns(None, DAY_NS) == 0
    assert due_utc_ns(ProofTest(9, False, 0, 1), DAY_NS) == 0
    assert due_utc_ns(ProofTest(9, False, 5, 2), DAY_NS) == 5 + DAY_NS


def test_overdue_is_told_once_until_a_test_has_passed() -> None:
    audit, problems = AuditMemory(), Problems()
    ledger = SimpleNamespace(ok=False, audit=audit)
    watch = ProofWatch(CONFIG, cast("Any", ledger), problems, utc_ns=lambda: NOW_NS)
    watch.look()
    assert problems.active() == []  # a ledger that is away says nothing
    ledger.ok = True
    watch.look()
    watch.look()
    (found,) = problems.active()
    assert (found.kind, found.ident) == ("proof test", "cut")
    assert "passed last never" in found.text
    assert problems.raised_total["proof test"] == 1
    audit.take(proof(1, NOW_NS - DAY_NS, passed=False))
    watch.look()
    assert problems.active()
    audit.take(proof(2, NOW_NS - 31 * DAY_NS, passed=True))
    watch.look()
    assert "31 d ago" in problems.active()[0].text
    audit.take(proof(3, NOW_NS - DAY_NS, passed=True))
    watch.look()
    assert problems.active() == []
