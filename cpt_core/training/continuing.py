"""Going on from a checkpoint of another training: which one, and what may differ.

In: ``resume_from`` and ``accept_changes`` of the configuration, the key parts of the training that is to be.
Out: what the key says of the checkpoint; nothing, or one line with every field that differs and was not accepted.
Promise: no field of recipe, dataset or base model changes in the middle of a run unless it was named.
Never: imports torch, or reads more of a checkpoint than its manifest.
"""

from pathlib import Path
from typing import Any

from cpt_core.config import TrainingConfig
from cpt_core.errors import ConfigError, JobInterruptedError
from cpt_core.training.sealing import SealedCheckpoint, newest_first, read_checkpoint

_WORDS = {"packed": "dataset", "model": "model", "stage_version": "stage_version"}
"""Key parts beside the recipe, as ``accept_changes`` names them."""


def start_of(config: TrainingConfig) -> SealedCheckpoint | None:
    """The checkpoint that the configuration names, its files unread.

    Raises:
        ConfigError: when there is none in that folder.
    """
    if config.resume_from is None:
        return None
    folder = Path(config.resume_from)
    found = read_checkpoint(folder)
    if found is None:
        inside = [*newest_first(folder), *newest_first(folder / "checkpoints")]
        hint = f"; expected one of its checkpoints, such as {inside[0]}" if inside else ", or its manifest is damaged"
        raise ConfigError(f"training.resume_from is {config.resume_from}: is no sealed checkpoint{hint}")
    return found


def origin_parts(start: SealedCheckpoint) -> dict[str, Any]:
    """What identifies a checkpoint in the key of the training that goes on from it."""
    return {"steps": start.manifest.steps, "manifest_sha256": start.record_sha256}


def require_accepted(start: SealedCheckpoint, key_parts: dict[str, Any], config: TrainingConfig) -> None:
    """See that only accepted fields differ between the checkpoint's training and this one.

    Raises:
        ConfigError: naming all others with both values.
    """
    there, here = _fields(start.manifest.key_parts), _fields(key_parts)
    unknown = [name for name in config.accept_changes if name not in here]
    if unknown:
        raise ConfigError(f"training.accept_changes names {unknown[0]!r}, expected some of {', '.join(sorted(here))}")
    refused = [name for name in _differing(start, key_parts) if name not in config.accept_changes]
    if refused:
        listed = "; ".join(f"{name} was {_short(there.get(name))}, is {_short(here[name])}" for name in refused)
        raise ConfigError(
            f"training.resume_from is {start.folder}, which was trained otherwise: {listed}. Set these back, or accept"
            f" them by name with accept_changes: [{', '.join(refused)}]"
        )


def require_steps_left(start: SealedCheckpoint, steps_total: int) -> None:
    """See that there is something left to train.

    Raises:
        ConfigError: when the run would end before it began.
    """
    if start.manifest.steps >= steps_total:
        raise ConfigError(
            f"training.resume_from is {start.folder}, after step {start.manifest.steps}, but this run has"
            f" {steps_total} steps in all; raise num_train_epochs or max_steps, or export it with `cpt export`"
        )


def others_unfinished(output_folder: Path, key_parts: dict[str, Any]) -> list[str]:
    """One line for each unfinished training of the same name beside this one, with what is other about it."""
    lines = []
    for folder in sorted(output_folder.parent.glob(f"{output_folder.name.rpartition('-')[0]}-*")):
        found = _newest_of(folder)
        if folder == output_folder or found is None or (folder / "model").exists():
            continue
        names = _differing(found, key_parts)
        lines.append(
            f"this training begins anew; an unfinished one of the same name stands at step {found.manifest.steps} with"
            f" another {', '.join(names)}. To go on from there: training.resume_from: {found.folder} and"
            f" accept_changes: [{', '.join(names)}]"
        )
    return lines


def _newest_of(folder: Path) -> SealedCheckpoint | None:
    try:
        return next(filter(None, map(read_checkpoint, newest_first(folder / "checkpoints"))), None)
    except JobInterruptedError:
        return None  # another training's, which is only pointed out


def _differing(start: SealedCheckpoint, key_parts: dict[str, Any]) -> list[str]:
    there, here = _fields(start.manifest.key_parts), _fields(key_parts)
    return [name for name in sorted(here) if there.get(name) != here[name]]


def _fields(key_parts: dict[str, Any]) -> dict[str, Any]:
    return {word: key_parts[part] for part, word in _WORDS.items()} | key_parts["options"]


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], str):
        return f"{len(value)} packed shards from {value[0][:8]} on"
    return f"{value[:8]}…" if isinstance(value, str) and len(value) == 64 else str(value)
