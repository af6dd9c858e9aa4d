"""One writer at a time: a lock that the operating system takes back when its process dies, however it dies."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from memprof.errors import MemprofError

_log = logging.getLogger(__name__)


class FileLock:
    """Held from the start until `release`, or until nobody holds this object. Makes the file if it is not there."""

    def __init__(self, file: Path) -> None:
        self._descriptor = -1  # so that a file that cannot be opened leaves nothing to release
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise MemprofError(
                f"another memprof is writing to {file.parent}; wait for it, or use another folder"
            ) from None
        except OSError as error:  # some network file systems lock nothing
            _log.warning("%s cannot be locked (%s): see that nobody else writes there", file, error.strerror)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.release()
