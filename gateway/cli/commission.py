"""The first day at a plant: ``read``, ``watch``, ``write``, ``scan``, ``browse``, ``serial``."""

from typing import TYPE_CHECKING

from gateway.cli import browse, points, scan, serial, write

if TYPE_CHECKING:
    import argparse


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these families to the parser."""
    for family in (points, write, scan, browse, serial):
        family.register(commands)
