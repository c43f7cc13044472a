"""The training stage: packed artifacts to a trained model, by a job of its own.

In: packed artifacts of the train split, the configuration, the tokenizer's folder.
Out: an artifact whose record names the exported model, the last checkpoint and how it went.
Promise: the same data, model and options are trained once; a run that was cut off goes on from its newest sealed
checkpoint; success is the job's own record.
Never: imports torch; the job's processes do.
"""

import json
import logging
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpt_core.artifacts import Artifact, Draft, commit, find, folder_name, key_of
from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError, StoreError
from cpt_core.launching.compiler import extension_is_needed, require_compiler
from cpt_core.launching.environment import current_environment
from cpt_core.launching.waiting import Progress
from cpt_core.model_folder import resolve_model
from cpt_core.storage import Store
from cpt_core.training.attempts import Notice, run_job
from cpt_core.training.continuing import require_accepted, require_steps_left, start_of
from cpt_core.training.job_file import TrainingJob
from cpt_core.training.places import for_record, from_record
from cpt_core.training.plan import STAGE, plan_steps, training_key_parts

logger = logging.getLogger(__name__)

OUTPUT_FOLDER = "training_runs"
"""Beside the artifacts: a run's folder outlives a record that had to be set aside, so that it can be resumed."""
RESULT_ROLE = "result"


def train_model(
    packed: list[Artifact],
    config: TrainingConfig,
    *,
    store: Store,
    name: str,
    tokenizer_uri: str,
    on_progress: Progress | None = None,
    on_notice: Notice = logger.warning,
) -> Artifact:
    """Train, or find what was trained before.

    Args:
        packed: packed artifacts of the train split, in their order.
        config: how to train.
        store: where the record goes, and by default the model.
        name: readable name of the artifact.
        tokenizer_uri: the tokenizer's folder; its files go beside the exported model.
        on_progress: called with each step's line of metrics.
        on_notice: called with a line when the job is found running, or is started again, and before it is started when
            another training may have been meant.

    Raises:
        ConfigError: when something that no process could work with is wrong.
        JobFailedError: when the job ended without its success record.
    """
    plan = plan_steps(sum(artifact.counts["rows"] for artifact in packed), config)
    model_folder = resolve_model(config.model, config.revision)
    key_parts = training_key_parts(packed, config, model_folder, store)
    found = find_trained(store, name, key_parts, config)
    if found is not None:
        return found
    start = start_of(config)
    if start is not None:
        require_accepted(start, key_parts, config)
        require_steps_left(start, plan.steps_total)
    started = time.monotonic()
    job = _job_of(packed, config, store, name, key_parts, model_folder, _tokenizer_folder(tokenizer_uri))
    report = _run_job(job, on_progress, on_notice)
    return _commit(store, name, key_parts, report, time.monotonic() - started)


def find_trained(store: Store, name: str, key_parts: dict[str, Any], config: TrainingConfig) -> Artifact | None:
    """The committed artifact, if its model folder is still whole; a record without its model is set aside.

    Raises:
        StoreError: when its record names a model elsewhere than where training puts one.
    """
    found = find(store, STAGE, name, key_parts)
    if found is None:
        return None
    if not _model_is_whole(from_record(json.loads(store.read_bytes(found.path(RESULT_ROLE))), store)):
        store.set_aside(found.folder)
        return None
    found = replace(found, counts=from_record(found.counts, store))
    if not is_output(found.counts["hf_model_uri"], config, store):
        raise StoreError(
            f"{found.uri}: its record names the model {found.counts['hf_model_uri']}, which lies neither in the store "
            "nor in training.output_dir; set that to the folder in which it was trained, or delete the record's folder"
        )
    return found


def is_output(folder: str, config: TrainingConfig, store: Store) -> bool:
    """Whether a folder lies where training puts what it makes; records name folders, and others may write records."""
    roots = [store.local_path(""), Path(config.output_dir) if config.output_dir is not None else None]
    return any(Path(folder).resolve().is_relative_to(root.resolve()) for root in roots if root is not None)


def _model_is_whole(result: dict[str, Any]) -> bool:
    folder = Path(result["hf_model_uri"])
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == described["size_bytes"]
        for name, described in result["model_files"].items()
    )


def _job_of(
    packed: list[Artifact],
    config: TrainingConfig,
    store: Store,
    name: str,
    key_parts: dict[str, Any],
    model_folder: Path,
    tokenizer_folder: Path,
) -> TrainingJob:
    key = key_of(key_parts)
    output_folder = training_folder(config, store, name, key)
    attempt = uuid.uuid4().hex
    return TrainingJob(
        attempt=attempt,
        training_key=key,
        key_parts=key_parts,
        config=config,
        model_folder=model_folder,
        tokenizer_folder=tokenizer_folder,
        output_folder=output_folder,
        attempt_folder=output_folder / "attempts" / attempt,
        store_uri=store.root_uri,
        packed_folders=[artifact.folder for artifact in packed],
    )


def _run_job(described: TrainingJob, on_progress: Progress | None, on_notice: Notice) -> dict[str, Any]:
    """Start the job, or find it running, and wait for its success record."""
    config = described.config
    if extension_is_needed(config.device):
        require_compiler(config.launcher, current_environment())
    return run_job(described, on_progress, on_notice, _model_is_whole)


def training_folder(config: TrainingConfig, store: Store, name: str, key: str) -> Path:
    """Where a training puts its checkpoints, logs and model.

    Raises:
        ConfigError: when the store is no folder and there is no ``output_dir``.
    """
    relative = folder_name(OUTPUT_FOLDER, name, key)
    if config.output_dir is not None:
        return Path(config.output_dir).resolve() / relative
    folder = store.local_path(relative)
    if folder is None:
        raise ConfigError(
            f"training.output_dir is missing: store_uri {store.root_uri} is not a folder; set output_dir to a folder"
            " on a file system that all nodes share"
        )
    return folder.resolve()


def _tokenizer_folder(tokenizer_uri: str) -> Path:
    folder = Path(tokenizer_uri.removeprefix("file://"))
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"{tokenizer_uri}: no tokenizer.json there; expected the folder of the run's tokenizer")
    return folder.resolve()


def _commit(store: Store, name: str, key_parts: dict[str, Any], report: dict[str, Any], seconds: float) -> Artifact:
    """The record; the model itself is already in its place."""
    recorded = for_record(report, store)
    counts = {field: value for field, value in recorded.items() if field != "model_files"}
    with store.staging() as folder:
        staged = folder / "result.json"
        staged.write_text(json.dumps(recorded, indent=1, sort_keys=True), encoding="utf-8")
        committed = commit(store, Draft(STAGE, name, key_parts, {RESULT_ROLE: staged}, counts, seconds))
    return replace(committed, counts=from_record(committed.counts, store))
