"""Saving: what all ranks do together to write a sealed checkpoint while training goes on.

In: the engine, the loop's state, the job.
Out: sealed checkpoints.
Promise: training stands still only while each rank copies its part of the state; a save that fails is told in one
line and costs nothing but itself.
Never: seals what was not read back from the disk; pickles.
"""

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cpt_core.errors import CptError, JobFailedError
from cpt_core.storage.durable import fsync_folder, require_on_disk
from cpt_core.training import sealing
from cpt_core.training.job_file import TrainingJob
from cpt_core.training.metrics import MetricsWriter
from cpt_core.training.model_files import MODEL_FOLDER, copy_model_files
from cpt_core.training.partitions import HeldState, lasting_buffers, parameter_shapes
from cpt_core.training.ranks import Ranks
from cpt_core.training.slice_files import BUFFERS_NAME, KINDS, SliceName, file_name, write_buffers, write_slices
from cpt_core.training.state import TrainingState


@dataclass(frozen=True)
class _Pending:
    """A save whose files are being written."""

    state: TrainingState
    adam_steps: int
    folder: Path
    written: Future[sealing.Files]
    copy_seconds: float
    copied_at: float


class CheckpointWriter:
    """Saves the state of all ranks; every public method is called by all of them."""

    def __init__(
        self,
        engine: Any,
        job: TrainingJob,
        ranks: Ranks,
        metrics: MetricsWriter | None,
        steps_total: int,
        *,
        newest: sealing.SealedCheckpoint | None,
    ) -> None:
        self._engine = engine
        self._job = job
        self._ranks = ranks
        self._metrics = metrics
        self._steps_total = steps_total
        self._held = HeldState(engine, job.config.zero_stage, ranks)
        self._pending: _Pending | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._newest = newest
        self._failure = ""
        self.num_failed = 0
        self.save_seconds = 0.0
        """Training stood still for so long in all."""

    def after_step(self, state: TrainingState) -> None:
        """Begin a save when one is due, and seal an earlier one as soon as all ranks have written it."""
        if state.steps % self._job.config.save_steps == 0 or state.steps == self._steps_total:
            self._begin(state)
        elif self._pending and self._ranks.sum(float(self._pending.written.done())) == self._ranks.world_size:
            self.finish()

    def finish(self) -> None:
        """Wait for what was begun, and seal it."""
        if self._pending is None:
            return
        started = time.perf_counter()
        pending, self._pending = self._pending, None
        outcomes = self._ranks.all_of(_outcome(pending.written, self._job.checkpoints_folder))
        if self._ranks.is_first:
            self._seal_or_tell(pending, outcomes)
        self._ranks.barrier()
        self._stood_still(time.perf_counter() - started)

    def require_saved(self, state: TrainingState) -> sealing.SealedCheckpoint:
        """On rank 0: the sealed checkpoint of this state.

        Raises:
            JobFailedError: when saving it failed.
        """
        if self._newest is None or self._newest.manifest.steps != state.steps:
            raise JobFailedError(f"the last {self._failure}; run the same command again when that is mended")
        return self._newest

    def _begin(self, state: TrainingState) -> None:
        self.finish()
        started = time.perf_counter()
        copies = {
            SliceName(kind, held.name, held.start): self._held.tensor(held, kind).to("cpu", copy=True)
            for held in self._held.own_slices()
            for kind in KINDS
        }
        buffers = {name: buffer.detach().to("cpu", copy=True) for name, buffer in lasting_buffers(self._engine).items()}
        folder = self._job.checkpoints_folder / sealing.unsealed_name(state.steps, self._job.attempt)
        copied_at = time.perf_counter()
        written = self._thread.submit(self._write, folder, copies, buffers)
        self._pending = _Pending(state, self._held.adam_steps(), folder, written, copied_at - started, copied_at)
        self._stood_still(copied_at - started)

    def _write(
        self, folder: Path, copies: dict[SliceName, torch.Tensor], buffers: dict[str, torch.Tensor]
    ) -> sealing.Files:
        """This rank's files; each is read back from the disk before it counts."""
        folder.mkdir(exist_ok=True)
        path = folder / file_name(self._ranks.rank)
        sizes = {name: tensor.numel() for name, tensor in copies.items()}
        digest = write_slices(path, sizes, copies.pop)
        files: sealing.Files = {path.name: {"size_bytes": path.stat().st_size, "sha256": digest}}
        if self._ranks.is_first:
            if buffers:
                write_buffers(folder / BUFFERS_NAME, buffers)
                files[BUFFERS_NAME] = sealing.describe_file(folder / BUFFERS_NAME)
            copy_model_files(self._job.model_folder, self._job.tokenizer_folder, folder / MODEL_FOLDER)
            small = sealing.describe_files(folder / MODEL_FOLDER)
            files |= {f"{MODEL_FOLDER}/{name}": described for name, described in small.items()}
            fsync_folder(folder / MODEL_FOLDER)
        for name, described in files.items():
            require_on_disk(folder / name, described["sha256"])
        fsync_folder(folder)
        return files

    def _seal_or_tell(self, pending: _Pending, outcomes: list[sealing.Files | str]) -> None:
        """On rank 0, when all ranks have written or failed."""
        problems = [outcome for outcome in outcomes if isinstance(outcome, str)]
        files = {
            name: described
            for outcome in outcomes
            if not isinstance(outcome, str)
            for name, described in outcome.items()
        }
        problem = problems[0] if problems else self._seal(pending, files)
        name = sealing.checkpoint_name(pending.state.steps)
        if problem:
            self.num_failed += 1
            shutil.rmtree(pending.folder, ignore_errors=True)
            safe = f"{self._newest.folder.name} is safe" if self._newest else "there is no older one"
            self._failure = f"checkpoint {name} could not be saved: {problem}; {safe}"
            self._say(f"{self._failure}; training goes on", is_warning=True)
        else:
            size_bytes = sum(described["size_bytes"] for described in files.values())
            self._say(
                f"checkpoint {name} sealed: {size_bytes:,} bytes, copied in {pending.copy_seconds:.3f} s,"
                f" sealed {time.perf_counter() - pending.copied_at:.3f} s later"
            )
            self._drop_older(name)

    def _seal(self, pending: _Pending, files: sealing.Files) -> str:
        """Why it could not be done, or nothing."""
        manifest = sealing.Manifest(
            training_key=self._job.training_key,
            key_parts=self._job.key_parts,
            world_size=self._ranks.world_size,
            zero_stage=self._job.config.zero_stage,
            state=asdict(pending.state),
            adam_steps=pending.adam_steps,
            parameters=parameter_shapes(self._engine),
        )
        final = self._job.checkpoints_folder / sealing.checkpoint_name(pending.state.steps)
        try:
            if self._metrics:
                self._metrics.make_durable()
            self._newest = sealing.seal(pending.folder, final, manifest, files)
        except OSError as error:
            return _reason(error, self._job.checkpoints_folder)
        return ""

    def _drop_older(self, name: str) -> None:
        """An older one that cannot be removed takes space, but costs neither the new one nor the training."""
        folder, config = self._job.checkpoints_folder, self._job.config
        assert self._newest is not None
        try:
            sealing.drop_older(folder, self._newest, config.keep_last, config.keep_every)
        except OSError as error:
            problem = error.strerror or str(error)
        except CptError as error:
            problem = str(error)
        else:
            return
        self._say(
            f"checkpoint {name} is sealed, but older ones in {folder} could not be removed: {problem}; training goes"
            " on, and the next save tries again",
            is_warning=True,
        )

    def _say(self, text: str, *, is_warning: bool = False) -> None:
        if self._metrics:
            self._metrics.say(text, is_warning=is_warning)

    def _stood_still(self, seconds: float) -> None:
        self.save_seconds += seconds
        if self._metrics:
            self._metrics.save_seconds += seconds


def _outcome(written: Future[sealing.Files], checkpoints: Path) -> sealing.Files | str:
    """The files, or in one line why there are none."""
    try:
        return written.result()
    except OSError as error:
        return _reason(error, checkpoints)  # of a failed write nobody knows the file
    except CptError as error:
        return str(error)


def _reason(error: OSError, folder: Path) -> str:
    existing = next(parent for parent in (folder, *folder.parents, Path("/")) if parent.is_dir())
    return f"{error.strerror or error}; {shutil.disk_usage(existing).free:,} bytes are free at {existing}"
