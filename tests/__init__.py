"""Tests; the helpers are in ``tests.helpers``."""
