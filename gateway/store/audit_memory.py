"""What of the audit people are shown again: who ordered what, proof tests, values by hand."""

from collections import OrderedDict
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec
from aiosqlite import Connection

from gateway.store.audit import COMMAND, PROOF, AuditEntry

SUBSTITUTE: Final = "substitute"  # a command: a tag's value by hand
SUBSTITUTE_END: Final = "substitute_end"
ORDERS_MAX: Final = 4_096  # commands whose words are kept at hand, the newest

_PROOFS: Final = "SELECT body FROM audit WHERE kind = ? ORDER BY seq"
_ORDERS: Final = (
    "SELECT body FROM (SELECT seq, body FROM audit WHERE kind = ? ORDER BY seq DESC LIMIT ?) "
    "ORDER BY seq"
)
_SUBSTITUTIONS: Final = "SELECT body FROM audit WHERE kind = ? AND action IN (?, ?) ORDER BY seq"


class Order(NamedTuple):
    """A command as somebody gave it; ``ident`` is its id in the mailbox, hexadecimal."""

    seq: int
    utc_ns: int
    who: str
    action: str
    target: str
    reason: str
    ident: str


class ProofTest(NamedTuple):
    """The newest proof test of an interlock; ``passed_utc_ns`` 0: none has ever passed."""

    utc_ns: int
    passed: bool
    passed_utc_ns: int
    made: int  # how many ever


class AuditMemory:
    """Fed with every entry, in order."""

    def __init__(self) -> None:
        self._orders: OrderedDict[int, Order] = OrderedDict()  # by seq, oldest first
        self._by_ident: dict[str, int] = {}
        self._proofs: dict[str, ProofTest] = {}
        self._substitutions: dict[str, AuditEntry] = {}  # the newest word by tag

    async def load(self, connection: Connection) -> None:
        """Read what is at hand again after a start."""
        queries: tuple[tuple[str, tuple[Any, ...]], ...] = (
            (_PROOFS, (PROOF,)),
            (_ORDERS, (COMMAND, ORDERS_MAX)),
        )
        for query, arguments in queries:
            for (body,) in await connection.execute_fetchall(query, arguments):
                with suppress(ValueError):  # what is no entry any more, the chain tells
                    self.take(AuditEntry.of(body))
        words = (COMMAND, SUBSTITUTE, SUBSTITUTE_END)
        for (body,) in await connection.execute_fetchall(_SUBSTITUTIONS, words):
            with suppress(ValueError):
                self._take_substitution(AuditEntry.of(body))

    def take(self, entry: AuditEntry) -> None:
        """One entry that is durable now."""
        if entry.kind == COMMAND:
            self._take_order(entry)
            self._take_substitution(entry)
        elif entry.kind == PROOF:
            before = self._proofs.get(entry.target, ProofTest(0, False, 0, 0))
            passed = bool(_detail(entry).get("passed"))
            passed_ns = entry.utc_ns if passed else before.passed_utc_ns
            self._proofs[entry.target] = ProofTest(entry.utc_ns, passed, passed_ns, before.made + 1)

    def order(self, ident: bytes) -> Order | None:
        """The command with this id in the mailbox, None where it is not at hand."""
        seq = self._by_ident.get(ident.hex())
        return self._orders.get(seq) if seq is not None else None

    def order_at(self, seq: int) -> Order | None:
        """The command that is this entry of the audit, None where it is not at hand."""
        return self._orders.get(seq)

    def proofs(self) -> dict[str, ProofTest]:
        """By interlock; those that were never tested are left out."""
        return dict(self._proofs)

    def substitutions(self) -> list[tuple[str, dict[str, Any], str]]:
        """(tag, detail, who) of those that nobody has ended; their time may be over."""
        return [
            (target, _detail(entry), entry.who)
            for target, entry in self._substitutions.items()
            if entry.action == SUBSTITUTE
        ]

    def _take_substitution(self, entry: AuditEntry) -> None:
        if entry.action in (SUBSTITUTE, SUBSTITUTE_END):
            self._substitutions[entry.target] = entry

    def _take_order(self, entry: AuditEntry) -> None:
        detail = _detail(entry)
        ident = str(detail.get("id", ""))
        self._orders[entry.seq] = Order(
            entry.seq, entry.utc_ns, entry.who, entry.action, entry.target,
            str(detail.get("reason", "")), ident,
        )  # fmt: skip
        if ident:
            self._by_ident[ident] = entry.seq
        while len(self._orders) > ORDERS_MAX:
            _, oldest = self._orders.popitem(last=False)
            self._by_ident.pop(oldest.ident, None)


def _detail(entry: AuditEntry) -> dict[str, Any]:
    """The JSON of an entry; empty where it is none of ours."""
    try:
        found = msgspec.json.decode(entry.detail)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
