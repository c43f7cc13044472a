"""Task: train on packed rows as a job of its own."""

from typing import Any, cast

from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed

from cpt_core.artifacts import Artifact, key_of
from cpt_core.claims import Claims
from cpt_core.config import PipelineConfig
from cpt_core.model_folder import resolve_model
from cpt_core.storage import Store
from cpt_core.training import find_trained, plan_steps, train_model, training_folder, training_key_parts
from tasks.prepared import Prepared
from tasks.process_log import process_log_told
from tasks.progress import StageProgress
from tasks.repeating import REPEATED
from tasks.stage_lines import describe_step, describe_training
from tasks.training_page import TrainingPage

STAGE = "training"
STEPS_BETWEEN_LOG_LINES = 10


@task(
    name="train",
    task_run_name="train {config.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **REPEATED,  # a job that was started before is found again; one that failed is no error that passes by itself
)
def train_on_rows(prepared: Prepared, config: PipelineConfig) -> State[Any] | Artifact:
    """Packed rows and a base model -> a further-trained model. The state is named Cached when the store had it."""
    training = config.require_training()
    steps = plan_steps(sum(artifact.counts["rows"] for artifact in prepared.train_rows), training).steps_total
    progress, page = StageProgress(STAGE, steps, "steps"), TrainingPage(config.name)
    log = get_run_logger()

    def follow(metrics: dict[str, Any]) -> None:
        line = describe_step(metrics)
        for note in metrics.get("notes", ()):
            log.warning("%s", note)
        progress.reach(metrics["step"], line)
        page.add(metrics)
        if metrics["step"] % STEPS_BETWEEN_LOG_LINES == 0 or metrics["step"] == steps:
            log.info("step %d of %d: %s", metrics["step"], steps, line)

    def notify(notice: str) -> None:
        log.warning("%s", notice)
        progress.advance(0, notice.splitlines()[0])

    store = Store(config.store_uri, config.verify)
    key_parts = training_key_parts(
        prepared.train_rows, training, resolve_model(training.model, training.revision), store
    )

    def compute() -> Artifact:
        return train_model(
            prepared.train_rows,
            training,
            store=store,
            name=config.name,
            tokenizer_uri=str(prepared.tokenizer.folder),
            on_progress=follow,
            on_notice=notify,
        )

    attempts = training_folder(training, store, config.name, key_of(key_parts)) / "attempts"
    with Claims(store) as claims, process_log_told(attempts, log.info):
        if training.launcher.kind == "env":
            trained = compute()  # every node starts its part
        else:
            trained = claims.compute_once(
                key_of(key_parts),
                f"the model of {config.name}",
                lambda: find_trained(store, config.name, key_parts, training),
                compute,
            )
    progress.finish(describe_training(trained))
    page.finish(trained)
    return Completed(name="Cached", message="served from the store", data=trained) if trained.is_cached else trained


def train_corpus(prepared: Prepared, config: PipelineConfig) -> Artifact:
    """The trained model."""
    return cast(Artifact, train_on_rows(prepared, config, return_state=True).result())
