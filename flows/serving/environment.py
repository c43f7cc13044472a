"""The environment variables of every process that serves.

In: the home folder and a port.
Out: complete environments for server and worker; the home folder itself.
Promise: nothing is sent outside; whoever inherits these variables is found by `cpt down`.
Never: starts anything.
"""

import os
from pathlib import Path

HOME_MARK = "CPT_SERVED_FROM"
"""Names the home folder in the environment of everything that `up` started, flow runs included."""

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its pages ask a host outside
}

# Prefect's defaults record about 35 task runs a second and drop events behind a queue of 10,000.
_RECORDING = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
}

_RUNS = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}

_NOT_FOR_ONE_RUN = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)

_PACKAGE_ROOT = Path(__file__).parents[2]


def cpt_home() -> Path:
    """The folder that holds state, databases and logs: $CPT_HOME, by default ~/.cpt."""
    return Path(os.environ.get("CPT_HOME") or Path.home() / ".cpt").absolute()


def api_url_of(port: int) -> str:
    """Where the API of a local server is."""
    return f"http://127.0.0.1:{port}/api"


def ui_url_of(api_url: str) -> str:
    """The page to open in a browser."""
    return api_url.removesuffix("/api")


def serving_environment(home: Path, port: int) -> dict[str, str]:
    """For supervisor, server, worker and their flow runs. A database that the user's environment names is kept."""
    return _RECORDING | _RUNS | _base(home / "prefect", port) | {HOME_MARK: str(home)}


def embedded_environment(folder: Path, port: int) -> dict[str, str]:
    """For a server that lives as long as one run, with its own database in `folder`."""
    services = {f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in _NOT_FOR_ONE_RUN}
    own = {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
    }
    return _RECORDING | _base(folder, port) | services | own


def _base(prefect_home: Path, port: int) -> dict[str, str]:
    inherited = os.environ.get("PYTHONPATH")
    python_path = [str(_PACKAGE_ROOT), *([inherited] if inherited else [])]
    place = {
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_API_URL": api_url_of(port),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(python_path),
        "PYTHONUNBUFFERED": "1",
    }
    return dict(os.environ) | QUIET | place
