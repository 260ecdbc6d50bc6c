"""Placeholder, written next."""

from gateway.store.alert import AlertDraft, Source

__all__ = ["AlertDraft", "Source"]
