"""Sealed checkpoints: folders whose every byte is vouched for by a manifest that was written last.

In: a folder that all ranks have finished writing, with size and sha256 of every file.
Out: ``step-0000100/`` with ``manifest.json``; the newest one that verifies.
Promise: a name without a leading dot is complete and durable; an older checkpoint goes only after a newer one
verified; a damaged one is passed over and set aside, never loaded; one that cannot be read now is not called damaged.
Never: imports torch, or knows what is inside the files; asks a ``latest`` file, which can name what is not whole.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpt_core.errors import JobInterruptedError
from cpt_core.fingerprint import sealed_json, unsealed_json
from cpt_core.storage import sha256_of
from cpt_core.storage.durable import fsync_folder, write_new

MANIFEST_NAME = "manifest.json"
HASHING_THREADS = 8
_NAME = re.compile(r"step-\d{7,}")
_UNSEALED_PREFIX = ".tmp-"
_DAMAGED_PREFIX = ".damaged-"

Files = dict[str, dict[str, Any]]
"""Size and sha256 by relative name."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is, beside its files."""

    training_key: str
    key_parts: dict[str, Any]
    """Fingerprints of dataset and base model, and the recipe, field by field."""
    world_size: int
    zero_stage: int
    state: dict[str, Any]
    """The loop's own state: steps, tokens seen, losses."""
    adam_steps: int
    parameters: dict[str, list[int]]
    """The shape of every trained parameter."""

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return int(self.state["steps"])


@dataclass(frozen=True)
class SealedCheckpoint:
    """A folder and what its manifest says."""

    folder: Path
    manifest: Manifest
    files: Files
    record_sha256: str
    """Of the manifest, and so of the whole checkpoint."""

    def problem(self) -> str:
        """What does not match the manifest, every byte read; empty when nothing.

        Raises:
            JobInterruptedError: when a file is there and cannot be read now.
        """
        try:
            with _readable(self.folder):
                return self._problem_of_sizes() or self._problem_of_content()
        except (FileNotFoundError, NotADirectoryError) as error:
            return f"{error.filename} is missing"

    @property
    def is_complete(self) -> bool:
        """Whether every file has its size: a look, not a proof.

        Raises:
            OSError: when the folder cannot be read now.
        """
        return not self._problem_of_sizes()

    def _problem_of_sizes(self) -> str:
        wanted = {name: described["size_bytes"] for name, described in self.files.items()}
        found = {str(path.relative_to(self.folder)): path.stat().st_size for path in _files_below(self.folder)}
        for name in sorted(wanted | found):
            if wanted.get(name) != found.get(name):
                return f"{name} has {found.get(name, 'no')} bytes, expected {wanted.get(name, 'no such file')}"
        return ""

    def _problem_of_content(self) -> str:
        found = describe_files(self.folder)
        changed = [name for name in sorted(found) if found[name] != self.files[name]]
        return f"the bytes of {changed[0]} are not those of its sha256" if changed else ""


def unsealed_name(steps: int, attempt: str) -> str:
    """Name of a checkpoint that is being written."""
    return f"{_UNSEALED_PREFIX}{attempt}-{checkpoint_name(steps)}"


def checkpoint_name(steps: int) -> str:
    """Name of the checkpoint after so many steps."""
    return f"step-{steps:07}"


def seal(unsealed: Path, final: Path, manifest: Manifest, files: Files) -> SealedCheckpoint:
    """Write the manifest last, and give the folder its final name.

    Args:
        unsealed: a folder of files that are durable and were read back.
        final: the name it is to have.
        manifest: what it is.
        files: what was read back.

    Raises:
        OSError: when it cannot be written, or files that other nodes wrote are not to be seen here.
    """
    record = sealed_json(asdict(manifest) | {"files": files})
    write_new(unsealed / MANIFEST_NAME, record)
    with (unsealed / MANIFEST_NAME).open("rb") as stream:
        os.fsync(stream.fileno())
    sealed = SealedCheckpoint(unsealed, manifest, files, _digest_of(record))
    if not sealed.is_complete:
        raise FileNotFoundError(f"{sealed.problem()}; do all nodes share {final.parent}?")
    fsync_folder(unsealed)
    if final.exists():  # it did not verify, or this step would not have been trained again
        shutil.rmtree(final)
    unsealed.rename(final)
    fsync_folder(final.parent)
    return SealedCheckpoint(final, manifest, files, sealed.record_sha256)


def read_checkpoint(folder: Path) -> SealedCheckpoint | None:
    """What a folder's manifest says, its files unread; None when it has no whole manifest.

    Raises:
        JobInterruptedError: when its manifest is there and cannot be read now.
    """
    try:
        with _readable(folder):
            content = (folder / MANIFEST_NAME).read_bytes()
        values = unsealed_json(content)
        files = values.pop("files")
        return SealedCheckpoint(folder, Manifest(**values), files, _digest_of(content))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def newest_whole(
    checkpoints: Path, training_key: str | None = None, say: Callable[[str], None] = lambda _: None
) -> SealedCheckpoint | None:
    """The newest checkpoint whose bytes are those of its manifest.

    Args:
        checkpoints: the folder of all checkpoints of a training.
        training_key: passes over those of another training.
        say: told in one line of each that is passed over because it is damaged.

    Raises:
        JobInterruptedError: when one is there and cannot be read now, so that nobody knows whether it is damaged.
    """
    for folder in newest_first(checkpoints):
        found = read_checkpoint(folder)
        if found and training_key not in (None, found.manifest.training_key):
            continue
        problem = found.problem() if found else f"{MANIFEST_NAME} is missing or damaged"
        if found and not problem:
            return found
        say(f"{folder} is damaged and is passed over for the one before it: {problem}")
    return None


def set_newer_aside(checkpoints: Path, steps: int) -> None:
    """Take their names from checkpoints beyond this step: they did not verify, or would have been taken."""
    for folder in newest_first(checkpoints):
        if int(folder.name.removeprefix("step-")) > steps:
            aside = folder.with_name(_DAMAGED_PREFIX + folder.name)
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)


def drop_older(checkpoints: Path, newest: SealedCheckpoint, keep_last: int, keep_every: int | None = None) -> None:
    """Remove what is no longer needed, if the newest one is whole: damaged ones when enough complete ones are there.

    Args:
        checkpoints: the folder of all checkpoints.
        newest: the one that was sealed last.
        keep_last: how many complete ones stay.
        keep_every: those after a multiple of so many steps stay as well.

    Raises:
        OSError: when one cannot be looked at or removed.
        JobInterruptedError: when a manifest cannot be read now.
    """
    if not newest.is_complete:
        return
    kept = 0
    for folder in list(newest_first(checkpoints)):
        found = read_checkpoint(folder)
        kept += bool(found and found.is_complete)
        is_milestone = keep_every and int(folder.name.removeprefix("step-")) % keep_every == 0
        if kept > keep_last and not is_milestone:
            shutil.rmtree(folder)
    if kept >= keep_last:
        for folder in checkpoints.glob(f"{_DAMAGED_PREFIX}*"):
            shutil.rmtree(folder)


def drop_unsealed(checkpoints: Path) -> None:
    """Remove what earlier attempts left unfinished."""
    for folder in checkpoints.glob(f"{_UNSEALED_PREFIX}*"):
        shutil.rmtree(folder)


def describe_files(folder: Path) -> Files:
    """Size and sha256 of every file below a folder but the manifest, by relative name."""
    paths = sorted(_files_below(folder))
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return {
            str(path.relative_to(folder)): described
            for path, described in zip(paths, pool.map(describe_file, paths), strict=True)
        }


def newest_first(checkpoints: Path) -> Iterator[Path]:
    """Folders with a checkpoint's final name; none where there is no such folder.

    Raises:
        JobInterruptedError: when the folder is there and cannot be read now.
    """
    try:
        with _readable(checkpoints):
            inside = list(checkpoints.iterdir())  # glob gives nothing where it may not read
    except (FileNotFoundError, NotADirectoryError):
        return
    named = [folder for folder in inside if _NAME.fullmatch(folder.name)]
    yield from sorted(named, key=lambda folder: int(folder.name.removeprefix("step-")), reverse=True)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """A file that cannot be read may be whole: only what is not there is missing, and only other bytes are damage."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise JobInterruptedError(
            f"{error.filename or folder}: cannot be read: {error.strerror or error}; no checkpoint was changed. Run the"
            f" same command again when it can be read; if it never can, move {folder} away by hand",
            is_transient=True,
        ) from error


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder, onerror=_raise):  # rglob passes over folders that it may not read
        yield from (Path(parent, name) for name in names if Path(parent, name) != folder / MANIFEST_NAME)


def _raise(error: OSError) -> None:
    raise error


def describe_file(path: Path) -> dict[str, Any]:
    """Size and sha256 of one file."""
    with path.open("rb") as stream:
        return {"size_bytes": os.fstat(stream.fileno()).st_size, "sha256": sha256_of(stream)}


def _digest_of(record: bytes) -> str:
    return record[-67:-3].decode()
