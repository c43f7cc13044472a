"""``python -m cpt_core.launching.sweep JOB_FOLDER``: end what a job has left on this host.

In: the signs of life that the job's ranks have given.
Out: their guards and they are gone.
Promise: only the very processes that the job has noted are met.
Never: looks for processes by their names.
"""

import signal
import socket
import sys
from pathlib import Path

from cpt_core.launching.status import Status


def main() -> None:
    """Sweep this host."""
    for sign in Status.newest(Path(sys.argv[1])).alive().values():
        if sign.host == socket.gethostname():
            sign.guard.send(signal.SIGKILL)
            sign.worker.send_group(signal.SIGKILL)


if __name__ == "__main__":
    main()
