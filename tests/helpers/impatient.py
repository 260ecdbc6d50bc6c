"""Starts the gateway with waits of its own shortened, which a test would sit through.

``python -m tests.helpers.impatient gateway.uplink.mqtt_codes.DENIED_RETRY_S=1 ... -- run ...``
"""

import importlib
import sys


def main() -> None:
    """Set the constants, each of which must be there, then be the gateway."""
    place = sys.argv.index("--")
    for word in sys.argv[1:place]:
        name, _, seconds = word.partition("=")
        module, _, constant = name.rpartition(".")
        found = vars(importlib.import_module(module))
        if not isinstance(found[constant], float):
            raise TypeError(f"{name} is no time in seconds")
        found[constant] = float(seconds)
    sys.argv = ["sitewarden", *sys.argv[place + 1 :]]
    from gateway.__main__ import main as product  # as the product would start

    sys.exit(product())


if __name__ == "__main__":
    main()
