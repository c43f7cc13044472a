"""``cpt prepare`` on an empty store, beside its stages alone."""

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.many_shards import seconds_of_command, seconds_of_stages, task_runs, write_many_shards
from tests.benchmarks.measure import tell

MANY = 5_000
"""From so many shards on, once is enough: the run takes minutes."""


def main(arguments: dict[str, Any]) -> None:
    """The whole and its parts in turn, as often as asked."""
    shards = arguments["shards"]
    repeats = 1 if shards >= MANY else arguments["repeats"]
    with tempfile.TemporaryDirectory(dir=arguments["scratch"]) as folder:
        home = Path(folder) / "home"
        _measure(Path(folder) / "schema", home, 1)  # the schema of a home's first database takes 15 s
        fixed = [_measure(Path(folder) / f"one-{n}", home, 1) for n in range(repeats)]
        before, _ = task_runs(home)
        runs = [_measure(Path(folder) / f"many-{n}", home, shards) for n in range(repeats)]
        rows, unfinished = task_runs(home)
    fixed_s = statistics.median(run.wall_s - run.alone_s for run in fixed)
    tell(
        [shards / run.wall_s for run in runs],
        wall_s=round(statistics.median(run.wall_s for run in runs), 1),
        fixed_s=round(fixed_s, 1),
        in_the_graph_s=round(statistics.median(run.in_the_graph_s for run in runs), 1),
        stages_alone_s=round(statistics.median(run.alone_s for run in runs), 1),
        added_ms_a_shard=round(1e3 * statistics.median(run.wall_s - run.alone_s - fixed_s for run in runs) / shards, 1),
        task_runs=(rows - before) // repeats,
        unfinished_task_runs=unfinished,
    )


@dataclass(frozen=True)
class Run:
    """Seconds of the command, of the stages in it, and of the stages alone."""

    wall_s: float
    in_the_graph_s: float
    alone_s: float


def _measure(folder: Path, home: Path, shards: int) -> Run:
    config = write_many_shards(folder, shards)
    alone_s = seconds_of_stages(config, folder / "alone")
    return Run(*seconds_of_command(config, home), alone_s)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
