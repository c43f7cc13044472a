"""The server of one run, as its own process: `python -m flows.serving.server_process PORT PARENT_PID`.

In: a port, the pid of the run, and Prefect's settings in the environment.
Out: a Prefect server on 127.0.0.1.
Promise: it ends when the run ends, however that ends.
Never: listens to other machines.
"""

import ctypes
import gc
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(port: int, parent: int) -> None:
    """Serve until told to stop, or until the parent is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    gc.disable()  # Prefect's imports make garbage collection scan in vain: 0.7 of 6 seconds
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(final=True)
    gc.freeze()
    gc.enable()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=3)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
