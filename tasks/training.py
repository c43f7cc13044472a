"""Task: train on packed rows as a job of its own."""

from typing import Any, cast

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.storage import Store
from cpt_core.training import plan_steps, train_model
from tasks.prepared import Prepared
from tasks.progress import StageProgress

STAGE = "training"
STEPS_BETWEEN_LOG_LINES = 10


@task(name="train", task_run_name="train {config.name}", cache_policy=NO_CACHE, persist_result=False)
def train_on_rows(prepared: Prepared, config: PipelineConfig) -> State[Any] | Artifact:
    """Packed rows and a base model -> a further-trained model. The state is named Cached when the store had it."""
    training = config.require_training()
    steps = plan_steps(sum(artifact.counts["rows"] for artifact in prepared.train_rows), training).steps_total
    progress = StageProgress(STAGE, steps, "steps")
    log = get_run_logger()

    def follow(metrics: dict[str, Any]) -> None:
        line = describe_step(metrics)
        progress.reach(metrics["step"], line)
        if metrics["step"] % STEPS_BETWEEN_LOG_LINES == 0 or metrics["step"] == steps:
            log.info("step %d of %d: %s", metrics["step"], steps, line)

    trained = train_model(
        prepared.train_rows,
        training,
        store=Store(config.store_uri),
        name=config.name,
        tokenizer_uri=str(prepared.tokenizer.folder),
        on_progress=follow,
    )
    progress.finish(describe_training(trained))
    return Completed(name="Cached", message="served from the store", data=trained) if trained.is_cached else trained


def train_corpus(prepared: Prepared, config: PipelineConfig) -> Artifact:
    """The trained model."""
    return cast(Artifact, train_on_rows(prepared, config, return_state=True).result())


def describe_step(metrics: dict[str, Any]) -> str:
    """One step in words."""
    mfu = f", MFU {metrics['mfu']:.1%}" if metrics.get("mfu") is not None else ""
    return (
        f"loss {metrics['loss']:.4f}, learning rate {metrics['learning_rate']:.2e}, "
        f"{metrics['tokens_per_second']:,.0f} tokens/s{mfu}"
    )


def describe_training(trained: Artifact) -> str:
    """The stage in one line."""
    counts = trained.counts
    how = "cached" if trained.is_cached else f"{counts['steps']:,} steps by {counts['world_size']} processes"
    return f"{how}; loss {counts['first_loss']:.4f} -> {counts['final_loss']:.4f}, {counts['tokens_seen']:,} tokens"
