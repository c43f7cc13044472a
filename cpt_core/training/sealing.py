"""Sealed checkpoints: folders whose every byte is vouched for by a manifest that was written last.

In: a folder that all ranks have finished writing.
Out: ``step-0000100/`` with ``manifest.json``; the newest one that verifies.
Promise: a name without a leading dot is complete and durable; an older checkpoint goes only after a newer one
verified; a damaged one is passed over, never loaded.
Never: imports torch, or knows what is inside the files.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpt_core.storage import sha256_of

MANIFEST_NAME = "manifest.json"
HASHING_THREADS = 8
_NAME = re.compile(r"step-\d{7,}")
_UNSEALED_PREFIX = ".tmp-"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is, beside its files."""

    training_key: str
    world_size: int
    zero_stage: int
    state: dict[str, Any]
    """The loop's own state: steps, tokens seen, losses."""


@dataclass(frozen=True)
class SealedCheckpoint:
    """A checkpoint that verified."""

    folder: Path
    manifest: Manifest


def unsealed_name(steps: int, attempt: str) -> str:
    """Name of a checkpoint that is being written."""
    return f"{_UNSEALED_PREFIX}{attempt}-{checkpoint_name(steps)}"


def checkpoint_name(steps: int) -> str:
    """Name of the checkpoint after so many steps."""
    return f"step-{steps:07}"


def seal(unsealed: Path, final: Path, manifest: Manifest) -> None:
    """Describe every file, write the manifest last, and give the folder its final name."""
    record = asdict(manifest) | {"files": describe_files(unsealed)}
    with (unsealed / MANIFEST_NAME).open("w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    if final.exists():  # it did not verify, or this step would not have been trained again
        shutil.rmtree(final)
    unsealed.rename(final)
    _fsync_folder(final)
    _fsync_folder(final.parent)


def newest_whole(checkpoints: Path, training_key: str) -> SealedCheckpoint | None:
    """The newest checkpoint of this training whose bytes are those of its manifest."""
    for folder in _newest_first(checkpoints):
        record = _read_manifest(folder)
        if record is None or record["training_key"] != training_key:
            continue
        files = record.pop("files")
        if _matches(folder, files):
            return SealedCheckpoint(folder, Manifest(**record))
        print(f"{folder}: does not match its manifest; trying the one before it", flush=True)
    return None


def drop_older(checkpoints: Path, newest: Path, keep_last: int) -> None:
    """Remove all but the newest ``keep_last`` checkpoints, if the newest one verifies."""
    record = _read_manifest(newest)
    if record is None or not _matches(newest, record["files"]):
        return
    for folder in list(_newest_first(checkpoints))[keep_last:]:
        shutil.rmtree(folder)


def drop_unsealed(checkpoints: Path) -> None:
    """Remove what earlier attempts left unfinished."""
    for folder in checkpoints.glob(f"{_UNSEALED_PREFIX}*"):
        shutil.rmtree(folder)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below a folder, by relative name; each is durable afterwards."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return {
            str(path.relative_to(folder)): described
            for path, described in zip(paths, pool.map(_describe, paths), strict=True)
        }


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = sha256_of(stream)
        os.fsync(stream.fileno())
        return {"size_bytes": os.fstat(stream.fileno()).st_size, "sha256": digest}


def _matches(folder: Path, files: dict[str, dict[str, Any]]) -> bool:
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    sizes.pop(MANIFEST_NAME, None)
    if sizes != {name: described["size_bytes"] for name, described in files.items()}:
        return False
    return describe_files(folder) == files


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / MANIFEST_NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _newest_first(checkpoints: Path) -> Iterator[Path]:
    named = [folder for folder in checkpoints.glob("step-*") if _NAME.fullmatch(folder.name)]
    yield from sorted(named, key=lambda folder: int(folder.name.removeprefix("step-")), reverse=True)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
