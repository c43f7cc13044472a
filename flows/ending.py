"""How a run ends: a user's mistake becomes a Failed state with one line, our own mistake stays loud."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from prefect import State
from prefect.logging import get_run_logger
from prefect.states import Failed

from cpt_core.errors import CptError
from tasks.run_log import library_log_in_run

Params = ParamSpec("Params")


def failing_in_one_line(
    function: Callable[Params, dict[str, Any]],
) -> Callable[Params, dict[str, Any] | State[Any]]:
    """A flow function whose ``CptError`` ends the run as Failed, carrying the error for the command."""

    @functools.wraps(function)
    def wrapped(*args: Params.args, **kwargs: Params.kwargs) -> dict[str, Any] | State[Any]:
        try:
            with library_log_in_run():
                return function(*args, **kwargs)
        except CptError as error:
            get_run_logger().error("%s", error)
            return Failed(message=str(error), data=error)

    return wrapped
