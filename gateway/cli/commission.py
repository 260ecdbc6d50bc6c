"""The first day at a plant: ``read``, ``watch``, ``write``, ``scan``, ``serial``."""

from typing import TYPE_CHECKING

from gateway.cli import points, scan, serial, write

if TYPE_CHECKING:
    import argparse


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these families to the parser."""
    for family in (points, write, scan, serial):
        family.register(commands)
