"""Many units of work as few task runs, without losing sight of the one that fails.

In: units, a Prefect task that computes a batch of them.
Out: the results by unit, and the failures by unit.
Promise: at most MAX_TASK_RUNS task runs for the first pass; a unit that failed in a batch runs again alone, so
that it fails under its own name.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from prefect import State, Task
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from cpt_core.artifacts import Artifact
from cpt_core.errors import CptError
from tasks.progress import StageProgress

MAX_TASK_RUNS = 200

Unit = TypeVar("Unit")


@dataclass
class Outcome(Generic[Unit]):
    """What became of some units.

    Attributes:
        results: by name of the unit.
        failures: one line by name of the unit.
    """

    results: dict[str, Artifact] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def plan_batches(num_units: int, max_batches: int) -> list[tuple[int, int]]:
    """Contiguous ranges (first, end) of units, sizes differing by at most one, one unit each while that fits."""
    batches = min(num_units, max_batches)
    cuts = [num_units * batch // batches for batch in range(batches + 1)] if batches else [0]
    return list(itertools.pairwise(cuts))


def compute_units(
    units: list[Unit], name_of: Callable[[Unit], str], compute: Callable[[Unit], Artifact], progress: StageProgress
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
            continue
        outcome.results[name_of(unit)] = artifact
        progress.advance(1, f"{name_of(unit)} {'cached' if artifact.is_cached else 'computed'}")
    if outcome.results and all(artifact.is_cached for artifact in outcome.results.values()):
        return Completed(name="Cached", message="served from the store", data=outcome)
    return outcome


def run_in_batches(
    task: Task[..., Any],
    units: list[Unit],
    name_of: Callable[[Unit], str],
    parameters: dict[str, Any],
    workers: int,
) -> Outcome[Unit]:
    """Run ``task(units=…, label=…, **parameters)`` over all units.

    Args:
        task: returns an ``Outcome`` of its units; raises only when it was given a single unit.
        units: what to compute.
        name_of: readable name of a unit.
        parameters: the same for every batch.
        workers: batches computed at the same time.
    """
    outcome: Outcome[Unit] = Outcome()
    batches = [units[first:end] for first, end in plan_batches(len(units), MAX_TASK_RUNS)]
    _run(task, batches, name_of, parameters, workers, outcome)
    again = [[unit] for unit in units if name_of(unit) in outcome.failures]
    if len(batches) < len(units) and again:
        outcome.failures.clear()
        _run(task, again, name_of, parameters, workers, outcome)
    return outcome


def _run(
    task: Task[..., Any],
    batches: list[list[Unit]],
    name_of: Callable[[Unit], str],
    parameters: dict[str, Any],
    workers: int,
    outcome: Outcome[Unit],
) -> None:
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
    with runner:
        futures = [
            (batch, runner.submit(task, {"units": batch, "label": _label(batch, name_of), **parameters}))
            for batch in batches
        ]
        for batch, future in futures:
            future.wait()
            if future.state.is_completed():
                part: Outcome[Unit] = future.state.result()
                outcome.results |= part.results
                outcome.failures |= part.failures
            else:
                reason = future.state.message or future.state.name or "failed"
                outcome.failures |= {name_of(unit): reason for unit in batch}


def _label(batch: list[Unit], name_of: Callable[[Unit], str]) -> str:
    first = name_of(batch[0])
    return first if len(batch) == 1 else f"{first} and {len(batch) - 1} more"
