"""Whether a guard still sees its job's folder.

In: the folder, looked at by the guard whenever it gives a sign of life.
Out: the end of the rank and of the guard, without a record, for nobody could read it.
Promise: a host that is cut off from the file system of the others ends its ranks by itself, also when that file system
makes whoever asks wait for ever.
Never: touches the folder in the thread that judges, or takes a short pause of a file system for its loss.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cpt_core.launching.record import is_started

SILENCES = 3
"""File systems pause longer than ranks do, and whoever can be reached is ended by the others long before."""
_LOOK_SECONDS = 1.0


class Sight:
    """When the folder was last seen."""

    def __init__(self, folder: Path, silence_seconds: float) -> None:
        self._folder = folder
        self._limit = SILENCES * silence_seconds
        self._seen = time.monotonic()

    def look(self) -> None:
        """Note whether the folder is there; may take as long as its file system pleases."""
        with suppress(OSError):
            if is_started(self._folder):
                self._seen = time.monotonic()

    def require_for(self, process_group: int) -> None:
        """From now on end this process group, and this process, once the folder was out of sight for too long."""
        threading.Thread(target=self._judge, args=(process_group,), name="cpt-sight", daemon=True).start()

    def _judge(self, process_group: int) -> NoReturn:
        while time.monotonic() - self._seen < self._limit:
            time.sleep(_LOOK_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process_group, signal.SIGKILL)
        print(f"{self._folder} could not be seen for {self._limit:g} seconds", file=sys.stderr, flush=True)
        os._exit(1)
