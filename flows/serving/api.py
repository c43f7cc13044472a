"""The few questions to a Prefect server that need no Prefect client: starting that takes seconds, these milliseconds.

In: the URL of the API; user and password in $PREFECT_API_AUTH_STRING, as for Prefect's own client.
Out: parsed JSON.
Promise: a server that does not answer is False or an ``httpx.HTTPError``, within seconds; a busy one is asked again.
Never: goes through a proxy.
"""

import os
import time
from typing import Any

import httpx

AUTH_VARIABLE = "PREFECT_API_AUTH_STRING"
SERVER_AUTH_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"

_TIMEOUT_SECONDS = 10.0
_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Prefect says 503 when its database is locked by another writer: this passes."""


def answers(api_url: str) -> bool:
    """Whether a Prefect API answers there; this needs no password."""
    try:
        reply = httpx.get(f"{api_url}/health", timeout=2.0, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return reply.status_code == httpx.codes.OK and reply.text == "true"


def ask(api_url: str, path: str, question: dict[str, Any], method: str = "POST") -> Any:
    """Send a filter, as Prefect's API wants its questions; None when it has nothing to say."""
    url, auth = f"{api_url}/{path}", _auth()
    for pause_seconds in (*_PAUSES_SECONDS, None):
        reply = httpx.request(method, url, json=question, auth=auth, timeout=_TIMEOUT_SECONDS, trust_env=False)
        if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE or pause_seconds is None:
            break
        time.sleep(pause_seconds)
    reply.raise_for_status()
    return reply.json() if reply.content else None


def _auth() -> tuple[str, str] | None:
    user, _, password = os.environ.get(AUTH_VARIABLE, "").partition(":")
    return (user, password) if user else None
