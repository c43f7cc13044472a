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
import numpy as np
import torch
from numpy.typing import NDArray

from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.launching.job import follow
from cpt_core.launching.success import write_done
from cpt_core.packed_rows import PackedRows
from cpt_core.storage import Store
from cpt_core.training.attention import require_attention, segment_arguments
from cpt_core.training.batches import BatchesAhead, BatchSource
from cpt_core.training.checkpoint import CheckpointWriter
from cpt_core.training.engine import deepspeed_config
from cpt_core.training.export import export_checkpoint
from cpt_core.training.flops import ModelFlops
from cpt_core.training.job_file import TrainingJob, packed_artifacts
from cpt_core.training.loop import Run, mfu, train
from cpt_core.training.losses import install_loss
from cpt_core.training.metrics import MetricsWriter
from cpt_core.training.model import build_optimizer, load_model, weights_folder
from cpt_core.training.plan import plan_steps
from cpt_core.training.probe import require_borders, require_loss_scaling
from cpt_core.training.profiling import profiled
from cpt_core.training.ranks import Ranks, join_ranks, leave_ranks
from cpt_core.training.resuming import find_start, resume
from cpt_core.training.sealing import SealedCheckpoint, checkpoint_name, describe_files, drop_unsealed
from cpt_core.training.state import TrainingState


def run_training(own_job: TrainingJob, device: torch.device) -> None:
    """The whole life of a process."""
    ranks = join_ranks(device, own_job.config.launcher.timeout_seconds)
    job = _shared_job(own_job, ranks)
    lock = _claim(job) if ranks.is_first else None
    _require_global_batch(job, ranks)
    require_attention(job.config, device)
    settings = deepspeed_config(job.config)
    with weights_folder(job.model_folder, job.attempt_folder, job.config.seed, ranks) as folder:
        model, partitioning = load_model(folder, job.config, settings)
    install_loss(model, job.config, device)
    engine, *_ = deepspeed.initialize(model=model, optimizer=build_optimizer(model, job.config), config=settings)
    if job.config.zero_stage == 0:
        engine.basic_optimizer.state.clear()  # in bf16, DeepSpeed has taken and counted a step already, at rate 0
    if job.config.torch_compile:
        engine.compile()
    run = _run_of(job, engine, ranks)
    _probe(run)
    notes: list[str] = []
    start = ranks.from_first(find_start(job, notes.append) if ranks.is_first else None)
    report = _train_and_report(run, job, start, notes)
    _finish(own_job, job, report, ranks)
    del partitioning, lock  # they had to live until here


def _shared_job(own: TrainingJob, ranks: Ranks) -> TrainingJob:
    """Rank 0's job; with launcher kind env every node has written its own."""
    job = ranks.from_first(own)
    follow(own.attempt_folder, job.attempt_folder)
    num_others = ranks.sum(float((own.training_key, own.config) != (job.training_key, job.config)))
    if num_others:  # all ranks end here together, and none waits for the others
        raise ConfigError(
            f"{num_others:.0f} of {ranks.world_size} ranks were started with another configuration or other data than"
            " rank 0; start the same command with the same configuration on every node"
        )
    return job


def _require_global_batch(job: TrainingJob, ranks: Ranks) -> None:
    """The processes that met are those that the global batch was divided by."""
    config = job.config
    rows = ranks.world_size * config.micro_batch_rows * config.accumulation_steps
    if rows != config.global_batch_rows:
        raise ConfigError(
            f"{ranks.world_size} processes x {config.micro_batch_rows} rows x {config.accumulation_steps} accumulation"
            f" steps = {rows} rows a step, expected global_batch_rows = {config.global_batch_rows}; start"
            f" {config.launcher.num_nodes} x {config.launcher.processes_per_node} processes"
        )


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
    plan = plan_steps(len(rows), job.config)
    vocab_size = engine.module.config.get_text_config().vocab_size
    return Run(
        engine=engine,
        batches=BatchesAhead(BatchSource(rows, plan, job.config, ranks.rank, ranks.world_size, vocab_size)),
        plan=plan,
        config=job.config,
        ranks=ranks,
        vocab_size=vocab_size,
        flops=ModelFlops.of_model(engine.module),
    )


def _probe(run: Run) -> None:
    """Try the engine itself, with the call that training makes, before anything is trained."""
    engine, device, attention = run.engine, run.ranks.device, run.config.attention

    def logits(ids: torch.Tensor, positions: torch.Tensor, seq_lengths: NDArray[np.int32]) -> torch.Tensor:
        segments = segment_arguments(attention, seq_lengths, device)
        return engine(input_ids=ids, position_ids=positions, use_cache=False, **segments).logits

    def loss_of(tokens: float) -> float:
        torch.manual_seed(run.config.seed)
        ids = (torch.arange(4, device=device) % run.vocab_size)[None]
        segments = segment_arguments(attention, np.array([4], dtype=np.int32), device)
        return float(engine(input_ids=ids, labels=ids, use_cache=False, num_items_in_batch=tokens, **segments).loss)

    engine.eval()
    if run.config.document_borders:
        num_rows = min(2, run.config.micro_batch_rows)
        require_borders(logits, run.vocab_size, device, attention=attention, num_rows=num_rows)
    engine.train()  # some losses are computed in another way than in evaluation
    with torch.no_grad():
        require_loss_scaling(loss_of, engine.module.config.model_type)


def _train_and_report(run: Run, job: TrainingJob, start: SealedCheckpoint | None, notes: list[str]) -> dict[str, Any]:
    """Go on from the start, train, export what was sealed last, and say what came of it."""
    ranks = run.ranks
    state = before = resume(run.engine, start, job, ranks)
    started = time.perf_counter()
    metrics = (
        MetricsWriter(job.metrics_file, attempt=job.attempt, steps_done=state.steps, config=job.config)
        if ranks.is_first
        else None
    )
    profiler = profiled(job.config.profile_steps, job.attempt_folder, ranks.rank)
    with metrics or nullcontext(), run.batches, profiler as count_step:
        if metrics:
            metrics.say_all(notes)
        checkpoints = CheckpointWriter(run.engine, job, ranks, metrics, run.plan.steps_total, newest=start)

        def after_step(reached: TrainingState) -> None:
            checkpoints.after_step(reached)
            count_step()

        state, flops = train(run, state, metrics, after_step)
        checkpoints.finish()
    seconds = max(1e-9, time.perf_counter() - started)
    utilisation = mfu(run, flops, seconds)
    if ranks.is_first:
        print(f"{flops:.4g} {run.flops.line()}; MFU {_in_words(utilisation, job, seconds)}", flush=True)
        export_checkpoint(checkpoints.require_saved(state), run.engine.module, job.exported_folder)
    ranks.barrier()
    return {
        "steps": state.steps,
        "tokens_seen": state.tokens_seen,
        "world_size": ranks.world_size,
        "num_nodes": job.config.launcher.num_nodes,
        "first_loss": state.first_loss,
        "final_loss": state.final_loss,
        "tokens_per_second": round((state.tokens_seen - before.tokens_seen) / seconds, 1),
        "mfu": utilisation,
        "document_borders": job.config.document_borders,
        "resumed_from_step": before.steps,
        "save_seconds": round(checkpoints.save_seconds, 3),
        "checkpoints_failed": checkpoints.num_failed,
        "checkpoint_uri": str(job.checkpoints_folder / checkpoint_name(state.steps)),
        "hf_model_uri": str(job.exported_folder),
    }


def _in_words(utilisation: float | None, job: TrainingJob, seconds: float) -> str:
    if utilisation is None:
        return "unknown: set training.peak_tflops"
    devices, peak = job.config.launcher.world_size, job.config.peak_tflops
    return f"{utilisation:.2%} = model FLOPs / {seconds:.1f} s / ({devices} devices x {peak:g} TFLOP/s)"


def _finish(own_job: TrainingJob, job: TrainingJob, report: dict[str, Any], ranks: Ranks) -> None:
    """The success record: rank 0's; with kind env then one for each other node, which trusts only its own attempt."""
    if ranks.is_first:
        report["model_files"] = describe_files(job.exported_folder)
        write_done(job.attempt_folder, job.attempt, report)
    report = ranks.from_first(report)
    is_first_of_node = ranks.rank % job.config.launcher.processes_per_node == 0
    if is_first_of_node and own_job.attempt_folder != job.attempt_folder:
        write_done(own_job.attempt_folder, own_job.attempt, report)
    leave_ranks()
