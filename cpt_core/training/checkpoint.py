"""Saving and resuming: what all ranks do together around a sealed checkpoint.

In: the engine, the loop's state, the job.
Out: a sealed checkpoint; the state from which to go on.
Promise: only a checkpoint that verifies, of this very training, is loaded; at the same world size the run goes on
as if nothing had happened.
Never: uses DeepSpeed's ``latest`` file, which names checkpoints that are not complete.
"""

from dataclasses import asdict
from typing import Any

from cpt_core.errors import ConfigError, JobFailedError
from cpt_core.training import sealing
from cpt_core.training.job_file import TrainingJob
from cpt_core.training.ranks import Ranks
from cpt_core.training.state import TrainingState


def save_checkpoint(engine: Any, state: TrainingState, job: TrainingJob, ranks: Ranks) -> None:
    """Write and seal a checkpoint; called by all ranks."""
    checkpoints = job.checkpoints_folder
    unsealed = sealing.unsealed_name(state.steps, job.attempt)
    final = checkpoints / sealing.checkpoint_name(state.steps)
    engine.save_checkpoint(str(checkpoints), tag=unsealed, save_latest=False)
    ranks.barrier()
    if ranks.is_first:
        sealing.seal(checkpoints / unsealed, final, _manifest(state, job))
        sealing.drop_older(checkpoints, final, job.config.keep_last)
    ranks.barrier()


def resume(engine: Any, job: TrainingJob, ranks: Ranks) -> TrainingState:
    """Load the newest checkpoint that verifies; the beginning when there is none.

    Raises:
        ConfigError: when it was written by another number of processes or at another ZeRO stage.
    """
    newest = sealing.newest_whole(job.checkpoints_folder, job.training_key) if ranks.is_first else None
    newest = ranks.from_first(newest)
    if newest is None:
        return TrainingState()
    _require_same_layout(newest, job)
    loaded, _ = engine.load_checkpoint(str(job.checkpoints_folder), tag=newest.folder.name)
    if loaded is None:
        raise JobFailedError(f"{newest.folder}: DeepSpeed did not load it; delete it to resume from the one before")
    return TrainingState(**newest.manifest.state)


def _manifest(state: TrainingState, job: TrainingJob) -> sealing.Manifest:
    config = job.config
    return sealing.Manifest(job.training_key, config.launcher.world_size, config.zero_stage, asdict(state))


def _require_same_layout(newest: sealing.SealedCheckpoint, job: TrainingJob) -> None:
    written, wanted = newest.manifest, _manifest(TrainingState(), job)
    if written.world_size != wanted.world_size:
        raise ConfigError(
            f"{newest.folder} was written by {written.world_size} processes, but this job has {wanted.world_size};"
            f" resume with {written.world_size} processes, or delete {job.checkpoints_folder} to start over"
        )
    if written.zero_stage != wanted.zero_stage:
        raise ConfigError(
            f"{newest.folder} was written with zero_stage {written.zero_stage}, but this job has {wanted.zero_stage};"
            f" resume with zero_stage {written.zero_stage}, or delete {job.checkpoints_folder} to start over"
        )
