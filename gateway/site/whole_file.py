"""A whole file that a person wrote or a spreadsheet saved: never more than such a file can be."""

import errno
from pathlib import Path
from typing import Final

BYTES_MAX: Final = 16 * 1024 * 1024


def whole_file(path: Path, bytes_max: int = BYTES_MAX) -> bytes:
    """Its bytes. Raises OSError, also where there are more of them: a device, a picture, a log."""
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise OSError(errno.EFBIG, f"more than {bytes_max >> 20} MiB")
    return data
