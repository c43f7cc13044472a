"""The evaluation stage: a model and held-out packed artifacts to losses, by a job of one process.

In: a model, packed artifacts of the held-out split, how many rows, how training sees rows.
Out: an artifact with the mean loss of every source.
Promise: the same model on the same rows is scored once.
Never: imports torch; the job's process does.
"""

import json
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpt_core.artifacts import Artifact, Draft, commit, find, folder_name, key_of
from cpt_core.config import EvaluationConfig, LauncherConfig, TrainingConfig
from cpt_core.errors import ConfigError
from cpt_core.evaluation.job_file import EvaluationJob, write_job
from cpt_core.launching.job import Job
from cpt_core.launching.launchers import launch
from cpt_core.launching.waiting import wait_for_job
from cpt_core.model_folder import model_digest, resolve_model, weight_files
from cpt_core.storage import Store

STAGE = "evaluation"
STAGE_VERSION = 1
OUTPUT_FOLDER = "evaluation_runs"


def evaluate_model(
    model_uri: str,
    packed: list[Artifact],
    config: EvaluationConfig,
    training: TrainingConfig,
    *,
    revision: str | None = None,
    store: Store,
    name: str,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> Artifact:
    """Score a model, or find its scores.

    Args:
        model_uri: a transformers folder, or a hub id together with ``revision``.
        packed: packed artifacts of the held-out split, in their order.
        config: how many rows.
        training: how rows pass through the model: borders, precision, micro-batch, device; eager attention or, for
            all that only training needs to be fast, sdpa, which every machine has.
        revision: commit of the hub repository.
        store: where the record goes.
        name: readable name of the artifact.
        on_progress: told how many of ``num_rows_scored`` are scored, after each batch.

    Returns:
        An artifact whose ``counts["sources"]`` holds ``loss`` (mean over trained tokens), ``tokens`` and ``rows``
        of every source.

    Raises:
        ConfigError: when there is nothing to score, or the model cannot be found.
        JobFailedError: when the process ended without its success record.
    """
    if not packed:
        raise ConfigError("evaluation has no held-out rows; set held_out_fraction of a source above 0")
    started = time.monotonic()
    model_folder = resolve_model(model_uri, revision)
    key_parts = evaluation_key_parts(model_folder, packed, config, training, store)
    found = find(store, STAGE, name, key_parts)
    if found is not None:
        return found
    folder = _output_folder(training, store, folder_name(OUTPUT_FOLDER, name, key_of(key_parts)))
    described = _describe_job(model_folder, packed, config, training, store, folder)
    report = _run_job(described, training, on_progress)
    return _commit(store, name, key_parts, report, time.monotonic() - started)


def num_rows_scored(packed: list[Artifact], config: EvaluationConfig) -> int:
    """How many rows an evaluation passes through the model."""
    rows: Counter[str] = Counter()
    for artifact in packed:
        rows[str(artifact.counts["source"])] += artifact.counts["rows"]
    return sum(min(of_source, config.max_rows_per_source) for of_source in rows.values())


def evaluation_key_parts(
    model_folder: Path,
    packed: list[Artifact],
    config: EvaluationConfig,
    training: TrainingConfig,
    store: Store | None = None,
) -> dict[str, Any]:
    """All that the losses depend on; a store remembers the digest of the model."""
    return {
        "stage": STAGE,
        "stage_version": STAGE_VERSION,
        "model": model_digest(model_folder, store),
        "initialised_from_seed": None if weight_files(model_folder) else training.seed,
        "packed": [artifact.key for artifact in packed],
        "options": {
            "max_rows_per_source": config.max_rows_per_source,
            "document_borders": training.document_borders,
            "precision": training.precision,
        },
    }


def _describe_job(
    model_folder: Path,
    packed: list[Artifact],
    config: EvaluationConfig,
    training: TrainingConfig,
    store: Store,
    folder: Path,
) -> EvaluationJob:
    attempt = uuid.uuid4().hex
    return EvaluationJob(
        attempt=attempt,
        attempt_folder=str(folder / attempt),
        model_folder=str(model_folder),
        store_uri=store.root_uri,
        packed_folders=[artifact.folder for artifact in packed],
        max_rows_per_source=config.max_rows_per_source,
        micro_batch_rows=training.micro_batch_rows,
        document_borders=training.document_borders,
        attention="eager" if training.attention == "eager" else "sdpa",
        precision=training.precision,
        device=training.device,
        seed=training.seed,
    )


def _run_job(described: EvaluationJob, training: TrainingConfig, on_progress: Callable[[int], None]) -> dict[str, Any]:
    folder = Path(described.attempt_folder)
    folder.mkdir(parents=True)
    job_file = folder / "job.json"
    write_job(job_file, described)
    launcher = LauncherConfig(environment=training.launcher.environment)
    job = Job("cpt_core.evaluation", job_file, folder, launcher, described.attempt)
    return wait_for_job(
        job,
        launch(job, num_cores=len(os.sched_getaffinity(0))),
        progress_file=described.progress_file,
        on_progress=lambda line: on_progress(line["rows"]),
    )


def _output_folder(training: TrainingConfig, store: Store, relative: str) -> Path:
    """For logs; one process needs no shared file system."""
    if training.output_dir is not None:
        return Path(training.output_dir).resolve() / relative
    folder = store.local_path(relative)
    return folder.resolve() if folder else Path(tempfile.mkdtemp(prefix="cpt-evaluation-"))


def _commit(store: Store, name: str, key_parts: dict[str, Any], report: dict[str, Any], seconds: float) -> Artifact:
    with store.staging() as folder:
        staged = folder / "losses.json"
        staged.write_text(json.dumps(report, indent=1, sort_keys=True), encoding="utf-8")
        return commit(store, Draft(STAGE, name, key_parts, {"losses": staged}, report, seconds))
