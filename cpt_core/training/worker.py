"""What every process of a training job does, from meeting the others to leaving them.

In: the job, the device.
Out: checkpoints, metrics, the exported model, and at the very end the success record.
Promise: all ranks work on rank 0's job, or say in one line how theirs differs.
Never: returns success by its exit code.
"""

import fcntl
import time
from contextlib import nullcontext
from typing import IO, Any

import deepspeed
import torch

from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.launching.success import write_done
from cpt_core.packed_rows import PackedRows
from cpt_core.storage import Store
from cpt_core.training.checkpoint import resume, save_checkpoint
from cpt_core.training.engine import deepspeed_config
from cpt_core.training.export import export_model
from cpt_core.training.job_file import TrainingJob, packed_artifacts
from cpt_core.training.loop import Run, mfu, train
from cpt_core.training.metrics import MetricsWriter
from cpt_core.training.model import build_optimizer, flops_per_token, load_model, weights_folder
from cpt_core.training.plan import plan_steps
from cpt_core.training.probe import require_borders, require_loss_scaling
from cpt_core.training.ranks import Ranks, join_ranks, leave_ranks
from cpt_core.training.sealing import checkpoint_name, describe_files, drop_unsealed
from cpt_core.training.state import TrainingState


def run_training(own_job: TrainingJob, device: torch.device) -> None:
    """The whole life of a process."""
    ranks = join_ranks(device, own_job.config.launcher.timeout_seconds)
    job = _shared_job(own_job, ranks)
    lock = _claim(job) if ranks.is_first else None
    settings = deepspeed_config(job.config)
    with weights_folder(job.model_folder, job.attempt_folder, job.config.seed, ranks) as folder:
        model, partitioning = load_model(folder, job.config, settings)
    engine, *_ = deepspeed.initialize(model=model, optimizer=build_optimizer(model, job.config), config=settings)
    run = _run_of(job, engine, ranks)
    _probe(run)
    started_from = resume(engine, job, ranks)
    report = _train_and_report(run, job, started_from)
    export_model(
        engine.module,
        job.exported_folder,
        base_folder=job.model_folder,
        tokenizer_folder=job.tokenizer_folder,
        attempt=job.attempt,
        ranks=ranks,
    )
    _finish(own_job, job, report, ranks)
    del partitioning, lock  # they had to live until here


def _shared_job(own: TrainingJob, ranks: Ranks) -> TrainingJob:
    """Rank 0's job; with launcher kind env every node has written its own."""
    job = ranks.from_first(own)
    num_others = ranks.sum(float((own.training_key, own.config) != (job.training_key, job.config)))
    if num_others:  # all ranks end here together, and none waits for the others
        raise ConfigError(
            f"{num_others:.0f} of {ranks.world_size} ranks were started with another configuration or other data than"
            " rank 0; start the same command with the same configuration on every node"
        )
    return job


def _claim(job: TrainingJob) -> IO[bytes]:
    """Rank 0 is the only one that writes here, until its process ends."""
    lock = (job.output_folder / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise JobFailedError(f"{job.output_folder}: another process trains this model now; wait for it") from None
    job.checkpoints_folder.mkdir(exist_ok=True)
    drop_unsealed(job.checkpoints_folder)
    return lock


def _run_of(job: TrainingJob, engine: Any, ranks: Ranks) -> Run:
    store = Store(job.store_uri)
    rows = PackedRows(store, packed_artifacts(store, job.packed_folders))
    return Run(
        engine=engine,
        rows=rows,
        plan=plan_steps(len(rows), job.config),
        config=job.config,
        ranks=ranks,
        vocab_size=engine.module.config.get_text_config().vocab_size,
        flops_per_token=flops_per_token(engine.module, len(rows[0].input_ids)),
    )


def _probe(run: Run) -> None:
    """Try the engine itself, with the call that training makes, before anything is trained."""
    engine, device = run.engine, run.ranks.device
    engine.eval()
    if run.config.document_borders:
        require_borders(
            lambda ids, positions: engine(input_ids=ids, position_ids=positions, use_cache=False).logits,
            run.vocab_size,
            device,
            run.config.attention,
        )
    ids = torch.arange(4, device=device)[None] % run.vocab_size
    with torch.no_grad():
        require_loss_scaling(
            lambda tokens: float(engine(input_ids=ids, labels=ids, use_cache=False, num_items_in_batch=tokens).loss),
            engine.module.config.model_type,
        )


def _train_and_report(run: Run, job: TrainingJob, state: TrainingState) -> dict[str, Any]:
    """Train, and say what came of it."""
    ranks = run.ranks
    resumed_from_step, tokens_before, started = state.steps, state.tokens_seen, time.perf_counter()
    writer = (
        MetricsWriter(job.metrics_file, attempt=job.attempt, steps_done=state.steps, config=job.config)
        if ranks.is_first
        else None
    )
    with writer or nullcontext():
        state = train(run, state, writer, lambda reached: save_checkpoint(run.engine, reached, job, ranks))
    tokens_per_second = (state.tokens_seen - tokens_before) / max(1e-9, time.perf_counter() - started)
    return {
        "steps": state.steps,
        "tokens_seen": state.tokens_seen,
        "world_size": ranks.world_size,
        "num_nodes": job.config.launcher.num_nodes,
        "first_loss": state.first_loss,
        "final_loss": state.final_loss,
        "tokens_per_second": round(tokens_per_second, 1),
        "mfu": mfu(run, tokens_per_second),
        "resumed_from_step": resumed_from_step,
        "checkpoint_uri": str(job.checkpoints_folder / checkpoint_name(state.steps)),
        "hf_model_uri": str(job.exported_folder),
    }


def _finish(own_job: TrainingJob, job: TrainingJob, report: dict[str, Any], ranks: Ranks) -> None:
    """The success record: first rank 0's, then one for each other node, whose launcher trusts only its own attempt."""
    if ranks.is_first:
        report["model_files"] = describe_files(job.exported_folder)
        write_done(job.attempt_folder, job.attempt, report)
    report = ranks.from_first(report)
    if ranks.rank and ranks.rank % job.config.launcher.processes_per_node == 0:
        write_done(own_job.attempt_folder, own_job.attempt, report)
    leave_ranks()
