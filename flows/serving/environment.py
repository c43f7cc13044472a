"""The environment variables of every process that serves.

In: the home folder and a port.
Out: complete environments for server and worker; the home folder itself.
Promise: nothing is sent outside; whoever inherits these variables is found by `cpt down`.
Never: starts anything, or hands on what authenticates against another server.
"""

import os
from pathlib import Path

from flows.serving.address import Address
from flows.serving.api import AUTH_VARIABLE, SERVER_AUTH_VARIABLE
from flows.serving.database import FOR_THE_SERVER_ALONE, VARIABLES

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
    # Leases of concurrency slots that a server keeps in its memory are lost when it is started again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # flows.serving.automations counts on it
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

_FOR_ANOTHER_SERVER = (*VARIABLES, AUTH_VARIABLE, SERVER_AUTH_VARIABLE, "PREFECT_API_KEY")

_LOGS_OF_LIBRARIES = "PREFECT_LOGGING_ROOT_LEVEL"
"""At debug level the libraries that talk to the server log what they authenticate with."""

_PACKAGE_ROOT = Path(__file__).parents[2]


def cpt_home() -> Path:
    """The folder that holds state, databases and logs: $CPT_HOME, by default ~/.cpt."""
    return Path(os.environ.get("CPT_HOME") or Path.home() / ".cpt").absolute()


def ui_url_of(api_url: str) -> str:
    """The page to open in a browser."""
    return api_url.removesuffix("/api")


def serving_environment(home: Path, address: Address, auth: str | None, database_url: str | None) -> dict[str, str]:
    """For the supervisor and the server.

    Args:
        home: the home folder.
        address: where the server listens.
        auth: user and password that it asks for.
        database_url: as Prefect wants it; None for SQLite in the home.
    """
    secrets = {SERVER_AUTH_VARIABLE: auth, AUTH_VARIABLE: auth} if auth else {}
    database = {VARIABLES[0]: database_url} if database_url else {}
    variables = _RECORDING | _RUNS | _base(home / "prefect", address) | secrets | database | {HOME_MARK: str(home)}
    if auth:
        variables.pop(_LOGS_OF_LIBRARIES, None)
    return variables


def worker_environment(environment: dict[str, str]) -> dict[str, str]:
    """What is left of the supervisor's for the worker and its flow runs: they need not know the database."""
    hidden = {*FOR_THE_SERVER_ALONE, SERVER_AUTH_VARIABLE}
    return {name: value for name, value in environment.items() if name not in hidden}


def embedded_environment(folder: Path, port: int) -> dict[str, str]:
    """For a server that lives as long as one run, with its own database in `folder`."""
    services = {f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in _NOT_FOR_ONE_RUN}
    own = {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
    }
    return _RECORDING | _base(folder, Address(port)) | services | own


def _base(prefect_home: Path, address: Address) -> dict[str, str]:
    own_path = os.environ.get("PYTHONPATH")
    python_path = [str(_PACKAGE_ROOT), *([own_path] if own_path else [])]
    place = {
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_API_URL": address.api_url,
        "PREFECT_SERVER_API_HOST": address.host,
        "PREFECT_SERVER_API_PORT": str(address.port),
        "PREFECT_SERVER_UI_API_URL": "/api",  # whatever name a browser knows this machine by
        "PYTHONPATH": os.pathsep.join(python_path),
        "PYTHONUNBUFFERED": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if name not in _FOR_ANOTHER_SERVER}
    return inherited | QUIET | place
