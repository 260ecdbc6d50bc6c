"""Without the checked build nothing here can be tried."""

import os

if os.environ.get("SITEWARDEN_CHECKED") != "1":
    collect_ignore_glob = ["test_*.py"]
