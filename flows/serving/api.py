"""The few questions to a Prefect server that need no Prefect client: starting that takes seconds, these milliseconds.

In: the URL of the API.
Out: parsed JSON.
Promise: a server that does not answer is False or an ``httpx.HTTPError``, within seconds.
Never: goes through a proxy.
"""

from typing import Any

import httpx

_TIMEOUT_SECONDS = 10.0


def answers(api_url: str) -> bool:
    """Whether a Prefect API answers there."""
    try:
        reply = httpx.get(f"{api_url}/health", timeout=2.0, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return reply.status_code == httpx.codes.OK and reply.text == "true"


def ask(api_url: str, path: str, question: dict[str, Any]) -> Any:
    """POST a filter, as Prefect's API wants its questions."""
    reply = httpx.post(f"{api_url}/{path}", json=question, timeout=_TIMEOUT_SECONDS, trust_env=False)
    reply.raise_for_status()
    return reply.json()
