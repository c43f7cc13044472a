"""A server that serves, and the processes of its runs."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows.serving.processes import marked_processes

Until = Callable[[Callable[[], bool], float], None]


def ask(api_url: str, path: str, question: dict[str, Any], method: str = "POST") -> Any:
    """A question to the server, which may take its time while all the runs start, or have its database locked."""
    while True:
        reply = httpx.request(method, f"{api_url}/{path}", json=question, timeout=120, trust_env=False)
        if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            return reply.raise_for_status().json()
        time.sleep(0.5)


def process_of_run(home: Path, run: str) -> psutil.Process | None:
    """The process in which a flow run executes, or is about to; None when there is none."""
    for process in marked_processes(home):
        with suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run and "cpt_core" not in str(process.cmdline()):
                return process
    return None
