"""The audit of an open ledger, verified as ``sitewarden audit verify`` does: from outside."""

from gateway.cli.audit import LeftHead, verdict_of
from gateway.errors import StoreError
from gateway.store.ledger import Ledger
from gateway.store.ledger_reader import LedgerReader


def audit_entries(ledger: Ledger) -> int:
    """How many there are. Raises StoreError where the chain does not hold, or ends elsewhere."""
    with LedgerReader(ledger._db.path) as reader:
        verdict = verdict_of(reader, [LeftHead(head=ledger.audit_head)])
        if not verdict.ok or verdict.heads[0].entry != verdict.entries:
            raise StoreError(verdict.text)
        return verdict.entries
