"""Many units of work as few task runs, without losing sight of the one that fails.

In: units, a Prefect task that computes a batch of them.
Out: the results by unit, and the failures by unit.
Promise: at most MAX_TASK_RUNS task runs for each of two passes. A unit that failed in a batch of several runs again
alone, so that it fails under its own name; of more than fit, the first, and the others keep their first reason. Units
whose batch was lost with its worker, and those that failed for what passes by itself, all run again. No batch mixes
what the store has with what is computed, so that each is shown as what it is.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx
from prefect import State, Task
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture, as_completed
from prefect.logging import get_run_logger
from prefect.states import Completed, Crashed
from prefect.task_runners import TaskRunner

from cpt_core.artifacts import Artifact
from cpt_core.errors import CptError

MAX_TASK_RUNS = 200

Unit = TypeVar("Unit")


@dataclass
class Outcome(Generic[Unit]):
    """What became of some units.

    Attributes:
        results: by name of the unit.
        failures: one line by name of the unit.
        passing: names of units that may succeed a little later.
    """

    results: dict[str, Artifact] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    passing: set[str] = field(default_factory=set)


def plan_batches(num_units: int, max_batches: int) -> list[tuple[int, int]]:
    """Contiguous ranges (first, end) of units, sizes differing by at most one, one unit each while that fits."""
    batches = min(num_units, max_batches)
    cuts = [num_units * batch // batches for batch in range(batches + 1)] if batches else [0]
    return list(itertools.pairwise(cuts))


def batched(units: list[Unit], is_cached: Callable[[Unit], bool], max_batches: int) -> list[list[Unit]]:
    """One unit each while that fits; otherwise what the store has in few batches, and the rest in as many as are left.

    Args:
        units: in order.
        is_cached: whether the store has one.
        max_batches: at least 2.
    """
    if len(units) <= max_batches:
        return [[unit] for unit in units]
    cached = [unit for unit in units if is_cached(unit)]
    missing = [unit for unit in units if not is_cached(unit)]
    for_missing = min(len(missing), max_batches - 1 if cached else max_batches)
    return [
        part[first:end]
        for part, batches in ((cached, max_batches - for_missing), (missing, for_missing))
        for first, end in plan_batches(len(part), batches)
    ]


def compute_units(
    units: list[Unit], name_of: Callable[[Unit], str], compute: Callable[[Unit], Artifact]
) -> State[Any] | Outcome[Unit]:
    """The body of a batch task: compute each unit, keep failures apart.

    Returns:
        the outcome; as a state named Cached when the store had every unit.

    Raises:
        CptError: of the unit, when there is only one, so that its task run fails under its name.
    """
    outcome: Outcome[Unit] = Outcome()
    for unit in units:
        try:
            artifact = compute(unit)
        except CptError as error:
            if len(units) == 1:
                raise
            outcome.failures[name_of(unit)] = str(error)
            outcome.passing |= {name_of(unit)} if error.is_transient else set()
            continue
        outcome.results[name_of(unit)] = artifact
    _log(outcome, len(units))
    if outcome.results and not outcome.failures and all(artifact.is_cached for artifact in outcome.results.values()):
        return Completed(name="Cached", message="served from the store", data=outcome)
    return outcome


def run_in_batches(
    task: Task[..., Any],
    units: list[Unit],
    name_of: Callable[[Unit], str],
    parameters: dict[str, Any],
    runner: TaskRunner[Any],
    is_cached: Callable[[Unit], bool],
    on_result: Callable[[Unit, Artifact], None] = lambda unit, artifact: None,
) -> Outcome[Unit]:
    """Run ``task(units=…, label=…, **parameters)`` over all units, in at most 2 * MAX_TASK_RUNS task runs.

    Args:
        task: returns an ``Outcome`` of its units; raises only when it was given a single unit.
        units: what to compute.
        name_of: readable name of a unit.
        parameters: the same for every batch.
        runner: started; computes the batches.
        is_cached: whether the store has a unit.
        on_result: told what became of each unit when its batch has ended.
    """
    outcome: Outcome[Unit] = Outcome()
    batches = batched(units, is_cached, MAX_TASK_RUNS)
    lost = _run(task, batches, name_of, parameters, runner, outcome, on_result)
    shared = {name_of(unit) for batch in batches if len(batch) > 1 for unit in batch}
    failed = [unit for unit in units if name_of(unit) in outcome.failures]
    again = _second_batches(
        [unit for unit in failed if name_of(unit) in lost],
        [unit for unit in failed if name_of(unit) in shared and name_of(unit) not in lost],
    )
    for unit in itertools.chain.from_iterable(again):
        del outcome.failures[name_of(unit)]
    if again:
        _run(task, again, name_of, parameters, runner, outcome, on_result)
    return outcome


def _second_batches(lost: list[Unit], failed: list[Unit]) -> list[list[Unit]]:
    """Lost units first, as they may well succeed; one each while that fits. The others alone, while they fit."""
    batches = [lost[first:end] for first, end in plan_batches(len(lost), MAX_TASK_RUNS)]
    return batches + [[unit] for unit in failed[: MAX_TASK_RUNS - len(batches)]]


def _run(
    task: Task[..., Any],
    batches: list[list[Unit]],
    name_of: Callable[[Unit], str],
    parameters: dict[str, Any],
    runner: TaskRunner[Any],
    outcome: Outcome[Unit],
    on_result: Callable[[Unit, Artifact], None],
) -> set[str]:
    """Add to the outcome; the names of units that may not fail again: for all that is known, it was not their fault."""
    batch_of = {
        runner.submit(task, {"units": batch, "label": _label(batch, name_of), **parameters}): batch for batch in batches
    }
    lost: set[str] = set()
    for future in as_completed(list(batch_of)):
        state, batch = _ended(future), batch_of[future]
        if not state.is_completed():
            names = [name_of(unit) for unit in batch]
            outcome.failures |= dict.fromkeys(names, _reason(state))
            lost |= set(names) if state.is_crashed() or len(batch) > 1 else set()
            continue
        part: Outcome[Unit] = state.result()
        outcome.results |= part.results
        outcome.failures |= part.failures
        lost |= part.passing
        for unit in batch:
            if (artifact := part.results.get(name_of(unit))) is not None:
                on_result(unit, artifact)
    return lost


def _ended(future: PrefectFuture[Any]) -> State[Any]:
    """How a task run ended; Crashed when its worker was lost so often that the cluster gave it up."""
    future.wait()
    state = future.state
    if not state.is_final():
        try:
            future.result(raise_on_failure=False)
        except Exception as error:
            state = Crashed(message=f"its worker was lost ({type(error).__name__})")
    if state.is_crashed():
        _record(future, state)
    return state


def _record(future: PrefectFuture[Any], state: State[Any]) -> None:
    """Nobody else may be left to tell the server, which may not have heard of the task run at all."""
    try:
        with get_client(sync_client=True) as client:
            client.set_task_run_state(future.task_run_id, state, force=True)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.NOT_FOUND:
            raise


def _reason(state: State[Any]) -> str:
    """Why a task run failed; without Prefect's own words where the error has its own."""
    error = state.result(raise_on_failure=False)
    return str(error) if isinstance(error, CptError) else state.message or state.name or "failed"


def _log(outcome: Outcome[Unit], units: int) -> None:
    """What a task run has done, in one line of its log."""
    cached = sum(artifact.is_cached for artifact in outcome.results.values())
    seconds = sum(artifact.seconds for artifact in outcome.results.values() if not artifact.is_cached)
    failed = f", {', '.join(sorted(outcome.failures))} failed" if outcome.failures else ""
    get_run_logger().info(
        "%d of %d computed in %.1f s on %s, %d cached%s",
        len(outcome.results) - cached,
        units,
        seconds,
        os.uname().nodename,
        cached,
        failed,
    )


def _label(batch: list[Unit], name_of: Callable[[Unit], str]) -> str:
    first = name_of(batch[0])
    return first if len(batch) == 1 else f"{first} and {len(batch) - 1} more"
