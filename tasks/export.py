"""A checkpoint as a transformers folder, for ``cpt export``: no GPU, no other process, no Prefect.

In: a configuration, or the folder of a checkpoint; where the model is to go.
Out: the folder, and what it was made of.
Promise: only a checkpoint that verifies is exported; nothing that exists is overwritten.
Never: starts a training, or reads more of the store than records.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpt_core.artifacts import key_of
from cpt_core.config import PipelineConfig
from cpt_core.errors import ConfigError
from cpt_core.model_folder import resolve_model
from cpt_core.storage import Store
from cpt_core.training import training_folder, training_key_parts
from cpt_core.training.sealing import SealedCheckpoint, checkpoint_name, newest_first, newest_whole, read_checkpoint
from tasks.planning import plan_run


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        steps: optimizer steps of the checkpoint.
        checkpoint_uri: its folder.
        hf_model_uri: the new folder.
        size_bytes: of all its files.
        passed_over: one line for each newer checkpoint that is damaged.
    """

    steps: int
    checkpoint_uri: str
    hf_model_uri: str
    size_bytes: int
    passed_over: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self)


def checkpoints_of(config: PipelineConfig) -> Path:
    """The folder of all checkpoints of the training that a configuration describes.

    Raises:
        ConfigError: when its packed rows are not in the store, so that its key is not known.
    """
    training = config.require_training()
    prepared = plan_run(config, with_training=False).prepared
    if prepared is None:
        raise ConfigError(
            f"{config.store_uri}: the packed rows of {config.name} are not in the store, so its training is not known;"
            " give the folder of a checkpoint instead of the configuration"
        )
    store = Store(config.store_uri, config.verify)
    base_folder = resolve_model(training.model, training.revision)
    key = key_of(training_key_parts(prepared.train_rows, training, base_folder, store))
    return training_folder(training, store, config.name, key) / "checkpoints"


def export(folder: Path, step: int | None, target: Path) -> Exported:
    """Export a checkpoint.

    Args:
        folder: of a checkpoint; or of several, of which the newest whole one is taken.
        step: the checkpoint after this step and no other.
        target: a folder that does not exist yet, or is empty.

    Raises:
        ConfigError: when there is no whole checkpoint, or something in the target's place.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: exists already; export into a new folder")
    passed_over: list[str] = []
    folder = _checkpoints_in(folder)
    checkpoint = _find(folder, passed_over) if step is None else _whole(folder / checkpoint_name(step))
    os.environ["DS_ACCELERATOR"] = "cpu"  # or deepspeed, which transformers loads, prints that it found no GPU
    from cpt_core.training.export import export_checkpoint, model_of_shape  # imports torch, which takes seconds

    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    export_checkpoint(checkpoint, model_of_shape(checkpoint), target.absolute())
    size_bytes = sum(path.stat().st_size for path in target.iterdir())
    return Exported(
        checkpoint.manifest.steps, str(checkpoint.folder), str(target.absolute()), size_bytes, tuple(passed_over)
    )


def _checkpoints_in(folder: Path) -> Path:
    """The folder itself, or where it keeps its checkpoints if it is a training's."""
    return folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder


def _find(folder: Path, passed_over: list[str]) -> SealedCheckpoint:
    if read_checkpoint(folder) is not None:
        return _whole(folder)
    found = newest_whole(folder, say=passed_over.append)
    if found is None:
        damaged = f": {passed_over[0]}" if passed_over else ""
        raise ConfigError(f"{folder}: holds no whole checkpoint{damaged}; expected folders such as step-0000500")
    return found


def _whole(folder: Path) -> SealedCheckpoint:
    found = read_checkpoint(folder)
    if found is None:
        others = ", ".join(other.name for other in newest_first(folder.parent)) or "none"
        raise ConfigError(f"{folder}: is no sealed checkpoint; there: {others}")
    if problem := found.problem():
        raise ConfigError(f"{folder}: is damaged: {problem}; export another one")
    return found
