"""Tests that only the checked build can take, and what builds it: ``python -m tests.checked``."""
