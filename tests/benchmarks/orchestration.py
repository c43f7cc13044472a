"""What the graph and the command cost beside the work: many tiny shards, cold and with nothing to do."""

from tests.benchmarks.measure import Contender, Subject

SHARDS, MANY_SHARDS, QUICK_SHARDS = 1_000, 20_000, 200

_NOTES = """
Every shard is a file of one short document under a tokenizer of 258 ids, so that there is next to no work to do. "Cold"
is `cpt prepare` from the shell on an empty store, "stages alone" the same stages called one after the other in one
process with the same number of threads. What orchestration adds is the difference, less the same difference for a
corpus of one shard (start of the process, of the Prefect server, and its end). "Nothing to do" is `cpt run` when all
shards are in the store and a tiny model has been trained on them. Task runs are counted in the server's
database after the run.
"""


def subject(quick: bool) -> Subject:
    """Ours alone."""
    sizes = (QUICK_SHARDS,) if quick else (SHARDS, MANY_SHARDS)
    return Subject(
        name="orchestration",
        title="Many tiny shards",
        unit="shards/s",
        contenders=[
            *(
                Contender(f"cold, {shards:,} shards", "prepare_cold", {"shards": shards}, starts_commands=True)
                for shards in sizes
            ),
            *(
                Contender(f"nothing to do, {shards:,} shards", "run_again", {"shards": shards}, starts_commands=True)
                for shards in sizes
            ),
        ],
        facts={
            "wall_s": "wall time, s",
            "fixed_s": "of it for one shard, s",
            "in_the_graph_s": "stages in the graph, s",
            "stages_alone_s": "stages alone, s",
            "added_ms_a_shard": "added by orchestration, ms a shard",
            "task_runs": "task runs",
            "unfinished_task_runs": "without a final state",
        },
        repeats=3,
        quick_repeats=1,
        notes=_NOTES.strip(),
    )
