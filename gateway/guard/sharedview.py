"""The gateway's map of guard.shm: opened when there is one, opened anew when it is another file."""

import logging
import os
from pathlib import Path

from fastpath.journal import GuardView, JournalError
from gateway.life.descriptors import SPARE_ONES

_LOGGER = logging.getLogger(__name__)


class SharedView:
    """Call it for the current map; None while there is no file that can be read.

    Hold what it returns only within one step: after a guard's start it may be another file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._view: GuardView | None = None
        self._identity: tuple[int, int] | None = None
        self._refused = ""

    def __call__(self) -> GuardView | None:
        """The map of the file that is at the path now."""
        try:
            status = os.stat(self._path)
        except OSError:
            return self._view  # what was mapped stays readable after its name is gone
        identity = (status.st_dev, status.st_ino)
        if identity != self._identity:
            self._open(identity)
        return self._view

    def close(self) -> None:
        """Unmap."""
        view, self._view = self._view, None
        self._identity = None
        if view is not None:
            view.close()

    def _open(self, identity: tuple[int, int]) -> None:
        try:
            with SPARE_ONES.lent():
                opened = GuardView(os.fspath(self._path))
        except JournalError as error:
            if str(error) != self._refused:
                _LOGGER.warning("%s cannot be read: %s", self._path, error)
            self._refused = str(error)
            return
        self._refused = ""
        self.close()
        self._view, self._identity = opened, identity
