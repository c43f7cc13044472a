"""A Prefect server as its own process: `python -m flows.serving.server_process HOST PORT [PARENT_PID]`.

In: an address, Prefect's settings in the environment; the pid of the run that the server belongs to, if it does.
Out: API and UI.
Promise: a server of one run ends when the run ends, however that ends; no page of the UI reaches another host.
Never: listens to other machines, unless the address says so.
"""

import ctypes
import gc
import os
import signal
import sys

from flows.serving.api import SERVER_AUTH_VARIABLE
from flows.serving.own_pages import OwnPages

_PR_SET_PDEATHSIG = 1


def main(host: str, port: int, parent: int | None) -> None:
    """Serve until told to stop, or until the parent is gone."""
    if parent is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
    gc.disable()  # Prefect's imports make garbage collection scan in vain: 0.7 of 6 seconds
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(final=True)
    gc.freeze()
    gc.enable()
    site = OwnPages(app, refuse_foreign=SERVER_AUTH_VARIABLE not in os.environ)
    uvicorn.run(site, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
