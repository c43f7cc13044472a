"""What a run will cost: disk from measured bytes a token, GPU-hours from the size of the model.

In: the configuration; artifacts that are in the store; tokens and steps of the plan.
Out: figures, each with what it rests on.
Promise: a figure that rests on a guess says so, and one that rests on nothing is absent.
Never: loads a model, or downloads one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cpt_core.artifacts import Artifact
from cpt_core.config import TrainingConfig
from cpt_core.model_folder import num_parameters

GUESSED_BYTES_PER_TOKEN = 2.0
"""Of compressed ids of a vocabulary of 128k; code takes less, text in many languages more."""
ASSUMED_MFU = 0.4


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes that token shards and packed shards of the whole corpus take.

    Attributes:
        tokens_bytes: of all token shards.
        packed_bytes: of all packed shards.
        measured: which of ``tokens`` and ``packed`` rest on artifacts in the store, and not on a guess.
    """

    tokens_bytes: int
    packed_bytes: int
    measured: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of both."""
        return self.tokens_bytes + self.packed_bytes

    def line(self) -> str:
        """For people."""
        return (
            f"about {readable_size(self.size_bytes)} on disk: {readable_size(self.tokens_bytes)} token shards, "
            f"{readable_size(self.packed_bytes)} packed shards{self._guess()}"
        )

    def _guess(self) -> str:
        guessed = [word for role, word in (("tokens", "token"), ("packed", "packed")) if role not in self.measured]
        if not guessed:
            return "; bytes a token as in this store"
        return f"; a guess for {' and '.join(guessed)} shards, {GUESSED_BYTES_PER_TOKEN:g} bytes a token"


@dataclass(frozen=True)
class GpuEstimate:
    """Hours of one device.

    Attributes:
        gpu_hours: of all steps.
        num_parameters: of the base model.
        peak_tflops: of one device.
    """

    gpu_hours: float
    num_parameters: int
    peak_tflops: float

    def line(self) -> str:
        """For people."""
        return (
            f"about {self.gpu_hours:,.1f} GPU-hours: 6 FLOPs a token for each of {self.num_parameters:,} parameters, "
            f"assuming {ASSUMED_MFU:.0%} of {self.peak_tflops:g} TFLOP/s"
        )


def estimate_disk(num_tokens: int, tokens: Iterable[Artifact], packed: Iterable[Artifact]) -> DiskEstimate:
    """Disk for a corpus of so many tokens, from what the store has of it."""
    of_tokens, of_packed = _bytes_per_token(tokens, "tokens"), _bytes_per_token(packed, "num_tokens")
    return DiskEstimate(
        round(num_tokens * (of_tokens or GUESSED_BYTES_PER_TOKEN)),
        round(num_tokens * (of_packed or GUESSED_BYTES_PER_TOKEN)),
        tuple(role for role, found in (("tokens", of_tokens), ("packed", of_packed)) if found is not None),
    )


def estimate_gpu_hours(training: TrainingConfig, steps: int, row_len_tokens: int) -> GpuEstimate | None:
    """GPU-hours of a training, or None where the model's size or ``peak_tflops`` is not known."""
    folder = Path(training.model)
    parameters = num_parameters(folder) if folder.is_dir() else None
    if parameters is None or training.peak_tflops is None:
        return None
    flops = 6.0 * parameters * steps * training.global_batch_rows * row_len_tokens
    seconds = flops / (training.peak_tflops * 1e12 * ASSUMED_MFU)
    return GpuEstimate(seconds / 3600, parameters, training.peak_tflops)


def readable_size(size_bytes: float) -> str:
    """Such as ``15.4 TB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} TB"


def _bytes_per_token(artifacts: Iterable[Artifact], count: str) -> float | None:
    size_bytes = num_tokens = 0
    for artifact in artifacts:
        size_bytes += sum(stored.size_bytes for stored in artifact.files.values())
        num_tokens += artifact.counts[count]
    return size_bytes / num_tokens if num_tokens else None
