"""Resuming: the training state out of a sealed checkpoint, into any number of ranks at any ZeRO stage.

In: the job, an engine that is fresh.
Out: the engine as it was, and the loop's state.
Promise: only a checkpoint that verifies is loaded; with the ranks that wrote it the run goes on as if nothing had
happened; each rank reads its own part alone.
Never: replays steps, or reads data to skip them: rows, learning rate and randomness are functions of the step.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cpt_core.errors import ConfigError
from cpt_core.training import sealing
from cpt_core.training.job_file import TrainingJob
from cpt_core.training.partitions import HeldSlice, HeldState, lasting_buffers, parameter_shapes
from cpt_core.training.ranks import Ranks
from cpt_core.training.slice_files import BUFFERS_NAME, KINDS, SliceFolder
from cpt_core.training.state import TrainingState


def find_start(job: TrainingJob, say: Callable[[str], None]) -> sealing.SealedCheckpoint | None:
    """From where to go on: the newest own checkpoint that verifies, else ``resume_from``, else the beginning.

    Raises:
        ConfigError: when ``resume_from`` does not verify.
        JobInterruptedError: when a checkpoint cannot be read now.
    """
    newest = sealing.newest_whole(job.checkpoints_folder, job.training_key, say)
    sealing.set_newer_aside(job.checkpoints_folder, newest.manifest.steps if newest else 0)
    if newest is not None:
        return newest
    if job.config.resume_from is None:
        return None
    folder = Path(job.config.resume_from)
    start = sealing.read_checkpoint(folder)
    problem = start.problem() if start else f"{sealing.MANIFEST_NAME} is missing or damaged"
    if problem:
        raise ConfigError(f"training.resume_from is {folder}, which is damaged: {problem}; choose another checkpoint")
    return start


def resume(engine: Any, start: sealing.SealedCheckpoint | None, job: TrainingJob, ranks: Ranks) -> TrainingState:
    """Load a checkpoint; called by all ranks.

    Raises:
        ConfigError: when it is of a model of another shape.
    """
    if start is None:
        return TrainingState()
    _require_same_shapes(start, parameter_shapes(engine))
    held_state, stored = HeldState(engine, job.config.zero_stage, ranks), SliceFolder(start.folder)
    for held in held_state.slices:
        for kind in KINDS:
            _fill(held_state.tensor(held, kind), stored, kind, held)
    held_state.set_adam_steps(start.manifest.adam_steps)
    held_state.publish()
    _load_buffers(engine, start)
    state = TrainingState(**start.manifest.state)
    engine.global_steps = state.steps
    engine.micro_steps = state.steps * job.config.accumulation_steps
    engine.global_samples = state.steps * job.config.global_batch_rows
    return state


def _fill(target: torch.Tensor, stored: SliceFolder, kind: str, held: HeldSlice) -> None:
    position = 0
    for tensor in stored.read(kind, held.name, held.start, held.num_elements):
        target.narrow(0, position, tensor.numel()).copy_(tensor)
        position += tensor.numel()


def _load_buffers(engine: Any, start: sealing.SealedCheckpoint) -> None:
    buffers = lasting_buffers(engine)
    if buffers:
        for name, tensor in load_file(start.folder / BUFFERS_NAME).items():
            buffers[name].copy_(tensor)


def _require_same_shapes(start: sealing.SealedCheckpoint, shapes: dict[str, list[int]]) -> None:
    saved = start.manifest.parameters
    for name in sorted(saved.keys() | shapes.keys()):
        if saved.get(name) != shapes.get(name):
            raise ConfigError(
                f"{start.folder} is of another model: {name} is {saved.get(name, 'absent')} there and"
                f" {shapes.get(name, 'absent')} here; use the model that was trained"
            )
