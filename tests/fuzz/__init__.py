"""Hostile bytes against everything that reads them. `python -m tests.fuzz` runs it.

A target is a module with ``run(data) -> int`` (any exception is a find; the number says what became
of the input: a new one is worth keeping) and ``seeds()``. tests/fuzz/engine.py lets atheris drive
it, tests/fuzz/__main__.py starts that in a process of its own and keeps what it finds.
"""
