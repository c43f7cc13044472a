"""Task: score a model on held-out rows."""

from typing import Any, cast

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.evaluation import evaluate_model, num_rows_scored
from cpt_core.storage import Store
from tasks.prepared import Prepared
from tasks.progress import StageProgress
from tasks.repeating import REPEATED
from tasks.stage_lines import describe_losses

STAGE = "evaluation"


@task(
    name="evaluate",
    task_run_name="evaluate {which}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **REPEATED,
)
def score_held_out_rows(
    model_uri: str, revision: str | None, which: str, prepared: Prepared, config: PipelineConfig
) -> State[Any] | Artifact:
    """A model and held-out rows -> losses. The state is named Cached when the store had them."""
    progress = StageProgress(STAGE, num_rows_scored(prepared.held_out_rows, config.evaluation), "rows")
    losses = evaluate_model(
        model_uri,
        prepared.held_out_rows,
        config.evaluation,
        config.require_training(),
        revision=revision,
        store=Store(config.store_uri, config.verify),
        name=f"{config.name}-{which}",
        on_progress=lambda rows: progress.reach(rows, f"{which} model"),
    )
    progress.finish(describe_losses(losses, which))
    return Completed(name="Cached", message="served from the store", data=losses) if losses.is_cached else losses


def evaluate_base(prepared: Prepared, config: PipelineConfig) -> Artifact | None:
    """Losses of the base model, or None when nothing is held out."""
    training = config.require_training()
    return _evaluate(training.model, training.revision, "base", prepared, config)


def evaluate_trained(trained: Artifact, prepared: Prepared, config: PipelineConfig) -> Artifact | None:
    """Losses of the trained model, or None when nothing is held out."""
    return _evaluate(trained.counts["hf_model_uri"], None, "trained", prepared, config)


def _evaluate(
    model_uri: str, revision: str | None, which: str, prepared: Prepared, config: PipelineConfig
) -> Artifact | None:
    if not prepared.held_out_rows:
        return None
    scored = score_held_out_rows(model_uri, revision, which, prepared, config, return_state=True)
    return cast(Artifact, scored.result())
