"""The first day at a plant: ``read``, ``watch``, ``write``, ``scan``."""

import argparse

from gateway.cli import points, scan, write


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these families to the parser."""
    for family in (points, write, scan):
        family.register(commands)
