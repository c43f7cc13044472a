"""When a task that failed is tried again: with growing, random pauses, and only after what passes by itself.

In: the state of a task run that failed.
Out: whether it is repeated.
Promise: a user's mistake is told at once.
"""

from typing import Any

from prefect import State
from prefect.client.schemas.objects import TaskRun
from prefect.tasks import Task, exponential_backoff

from cpt_core.errors import CptError


def passes_by_itself(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether the failure is of the kind that a little later is gone: a network, a file server, a busy service."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, CptError):
        return error.is_transient
    return isinstance(error, ConnectionError | TimeoutError)


REPEATED: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": passes_by_itself,
}
"""Options of every task that computes."""
