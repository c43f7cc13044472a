"""What a run would do, without doing it: which artifacts exist, which would be computed, and why.

In: a configuration.
Out: the plan, unit by unit; and everything already there, so that a run with nothing to do need not start.
Promise: asks the store with the very keys that the stages use.
Never: computes an artifact. Inputs are read only as far as they are not identified yet.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cpt_core.artifacts import Artifact, find, find_key, key_of, why_missing
from cpt_core.config import PipelineConfig
from cpt_core.discovery import OnProgress
from cpt_core.errors import InputError
from cpt_core.evaluation.stage import STAGE as EVALUATION_STAGE
from cpt_core.evaluation.stage import evaluation_key_parts
from cpt_core.indexing import STAGE as INDEX_STAGE
from cpt_core.indexing import index_key_parts
from cpt_core.manifest import Manifest
from cpt_core.model_folder import resolve_model
from cpt_core.packing import pack_key_parts
from cpt_core.packing.stage import STAGE as PACKED_STAGE
from cpt_core.storage import Store
from cpt_core.tokenization import TextTokenizer, recall_tokenizer, require_few_bad_lines, token_key_parts
from cpt_core.tokenization.shard import STAGE as TOKENS_STAGE
from cpt_core.training import find_trained, plan_steps, training_key_parts
from cpt_core.training.plan import STAGE as TRAINING_STAGE
from tasks.estimates import DiskEstimate, GpuEstimate, estimate_disk, estimate_gpu_hours
from tasks.prepared import Prepared
from tasks.shards import find_shards, first_of_each_key, pack_groups, token_keys, tokenized_shards
from tasks.stage_lines import describe_index, describe_losses, describe_packed, describe_tokens, describe_training
from tasks.trained import Trained

BYTES_PER_TOKEN = 3.5
"""Guess for text that is not tokenized yet, as measured on English text and code with a vocabulary of 128k."""


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """One artifact of a run.

    Attributes:
        stage: such as ``tokenization``.
        name: readable name of the artifact.
        status: ``cached``, ``compute``, or ``waits`` while its key depends on something to be computed.
        why: for ``compute``, the key fields that changed since the nearest artifact of that name.
    """

    stage: str
    name: str
    status: str
    why: str = ""


@dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes:
        units: every artifact that can be named already.
        tokens: of the corpus; a guess from its size while ``tokens_are_exact`` is False.
        disk: bytes of token shards and packed shards.
        gpu: of the training; None where the model's size or the device's peak is not known.
        prepared: the data stages' artifacts, when all exist.
        trained: the trained model and its scores, when all exist.
        too_many_bad_lines: why the run will end after tokenization; None when it will not.
        repeated_files: input files that have the content of another.
    """

    units: list[PlannedUnit]
    tokens: int
    tokens_are_exact: bool
    rows: int
    steps: int | None
    disk: DiskEstimate
    gpu: GpuEstimate | None
    prepared: Prepared | None
    trained: Trained | None
    too_many_bad_lines: str | None
    repeated_files: list[dict[str, str]]

    def require_few_bad_lines(self) -> None:
        """Refuse what the run would refuse at the end of tokenization.

        Raises:
            InputError: when more lines are quarantined than the configuration allows.
        """
        if self.too_many_bad_lines is not None:
            raise InputError(self.too_many_bad_lines)

    def to_do(self) -> list[PlannedUnit]:
        """Everything that is not cached."""
        return [unit for unit in self.units if unit.status != "cached"]

    def stage_lines(self) -> list[tuple[str, str]]:
        """(stage, what is there) of every stage that is complete."""
        lines = []
        if self.prepared is not None:
            lines.append(("tokenization", describe_tokens(self.prepared.tokens)))
            lines.append(("indexing", describe_index(self.prepared.index)))
            lines.append(("packing", describe_packed(self.prepared.packed)))
        if self.trained is not None:
            lines.append(("training", describe_training(self.trained.model)))
            for which, losses in (("base", self.trained.base_losses), ("trained", self.trained.trained_losses)):
                lines += [("evaluation", describe_losses(losses, which))] if losses else []
        return lines

    def summary(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "tokens": self.tokens,
            "tokens_are_exact": self.tokens_are_exact,
            "rows": self.rows,
            "steps": self.steps,
            "too_many_bad_lines": self.too_many_bad_lines,
            "repeated_files": self.repeated_files,
            "disk_bytes": self.disk.size_bytes,
            "disk_measured": list(self.disk.measured),
            "gpu_hours": self.gpu.gpu_hours if self.gpu else None,
            "units": [asdict(unit) for unit in self.units],
        }


def plan_run(
    config: PipelineConfig, *, with_training: bool, on_progress: OnProgress = lambda progress: None
) -> RunPlan:
    """Ask the store for every artifact of a run.

    Args:
        config: of the run.
        with_training: False for the data stages alone.
        on_progress: told how far discovery is, which reads what is not identified yet.
    """
    planner = _Planner(config)
    return planner.plan(find_shards(config, planner.store, on_progress), with_training=with_training)


def plan_manifest(config: PipelineConfig, manifest: Manifest, *, with_training: bool) -> RunPlan:
    """The same for a manifest that is known already, whether or not its files are at hand."""
    return _Planner(config).plan(manifest, with_training=with_training)


class _Planner:
    """Walks the stages in order and stops where a key cannot be known yet."""

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self.store = Store(config.store_uri, config.verify)
        self._units: list[PlannedUnit] = []
        self._packed: list[Artifact] = []
        self._too_many_bad_lines: str | None = None
        self._started = time.perf_counter()

    def plan(self, manifest: Manifest, *, with_training: bool) -> RunPlan:
        """Every unit of these shards."""
        tokenizer = recall_tokenizer(self._config.tokenization, self.store)
        tokens = self._tokens(manifest, tokenizer)
        prepared = self._prepared(manifest, tokenizer, tokens)
        trained = self._trained(prepared) if with_training else None
        num_tokens = sum(
            artifact.counts["tokens"] if artifact else round(shard.size_bytes / BYTES_PER_TOKEN)
            for shard, artifact in zip(manifest.shards, tokens, strict=True)
        )
        rows = self._rows(prepared, num_tokens)
        training = self._config.training
        steps = plan_steps(rows, training).steps_total if training and rows else None
        return RunPlan(
            units=self._units,
            tokens=num_tokens,
            tokens_are_exact=None not in tokens,
            rows=rows,
            steps=steps,
            disk=estimate_disk(num_tokens, filter(None, tokens), self._packed),
            gpu=estimate_gpu_hours(training, steps, self._config.packing.row_len_tokens)
            if training and steps
            else None,
            prepared=prepared,
            trained=trained,
            too_many_bad_lines=self._too_many_bad_lines,
            repeated_files=manifest.repeated_files(),
        )

    def _tokens(self, manifest: Manifest, tokenizer: TextTokenizer) -> list[Artifact | None]:
        keys = token_keys(manifest, self._config, tokenizer)
        found: list[Artifact | None] = []
        for shard, key, first in zip(manifest.shards, keys, first_of_each_key(keys), strict=True):
            if first == len(found):
                key_parts = token_key_parts(shard, self._config.tokenization, tokenizer)
                found.append(self._find("tokenization", TOKENS_STAGE, shard.name, key_parts, key, shard.problem))
            else:
                found.append(found[first])
                status = "cached" if found[first] else "waits"
                why = f"same content as {manifest.shards[first].name}"
                self._units.append(PlannedUnit("tokenization", shard.name, status, why))
        return found

    def _prepared(self, manifest: Manifest, tokenizer: TextTokenizer, found: list[Artifact | None]) -> Prepared | None:
        tokens = [artifact for artifact in found if artifact is not None]
        if len(tokens) < len(found):
            self._wait("indexing", self._config.name, "for the token shards")
            self._wait("packing", "all groups", "for the index")
            return None
        try:
            require_few_bad_lines(manifest.shards, tokens, self._config.tokenization.max_bad_fraction)
        except InputError as error:
            self._too_many_bad_lines = str(error)
        key_parts = index_key_parts(tokenized_shards(manifest, tokens), self._config)
        index = self._find("indexing", INDEX_STAGE, self._config.name, key_parts)
        if index is None:
            self._wait("packing", "all groups", "for the index")
            return None
        groups = pack_groups(manifest, tokens, index, self._config, self.store)
        packed = [
            self._find(
                "packing", PACKED_STAGE, group.name, pack_key_parts(group, self._config.packing, tokenizer.pad_id)
            )
            for group in groups
        ]
        self._packed = [artifact for artifact in packed if artifact is not None]
        if len(self._packed) < len(packed):
            return None
        seconds = dict.fromkeys(("tokenization", "indexing", "packing"), 0.0)
        seconds = {"discovery": time.perf_counter() - self._started, **seconds}
        return Prepared(manifest, tokenizer, tokens, index, self._packed, seconds)

    def _trained(self, prepared: Prepared | None) -> Trained | None:
        if prepared is None or self._config.training is None:
            self._wait("training", self._config.name, "for the packed rows")
            return None
        training = self._config.training
        base_folder = resolve_model(training.model, training.revision)
        base_losses = find_losses(base_folder, "base", prepared, self._config)
        key_parts = training_key_parts(prepared.train_rows, training, base_folder, self.store)
        model = find_trained(self.store, self._config.name, key_parts, training)
        changes = [] if model else why_missing(self.store, TRAINING_STAGE, self._config.name, key_parts)
        self._note("training", self._config.name, model is not None, describe_change(changes))
        trained_losses = None
        if model is not None:
            trained_losses = find_losses(Path(model.counts["hf_model_uri"]), "trained", prepared, self._config)
        if prepared.held_out_rows:
            self._note("evaluation", "base", base_losses is not None)
            self._note("evaluation", "trained", trained_losses is not None)
        complete = model is not None and (bool(base_losses and trained_losses) or not prepared.held_out_rows)
        return Trained(model, base_losses, trained_losses) if model and complete else None

    def _find(
        self,
        stage: str,
        folder: str,
        name: str,
        key_parts: dict[str, Any],
        key: str | None = None,
        problem: str | None = None,
    ) -> Artifact | None:
        artifact = None if problem else find_key(self.store, folder, name, key or key_of(key_parts))
        if artifact is not None:
            self._units.append(PlannedUnit(stage, name, "cached"))
        else:
            why = problem or describe_change(why_missing(self.store, folder, name, key_parts))
            self._units.append(PlannedUnit(stage, name, "compute", why))
        return artifact

    def _note(self, stage: str, name: str, is_cached: bool, why: str = "") -> None:
        unit = PlannedUnit(stage, name, "cached") if is_cached else PlannedUnit(stage, name, "compute", why)
        self._units.append(unit)

    def _wait(self, stage: str, name: str, why: str) -> None:
        self._units.append(PlannedUnit(stage, name, "waits", why))

    def _rows(self, prepared: Prepared | None, num_tokens: int) -> int:
        if prepared is not None:
            return sum(artifact.counts["rows"] for artifact in prepared.train_rows)
        return -(-num_tokens // self._config.packing.row_len_tokens)


def find_losses(model_folder: Path, which: str, prepared: Prepared, config: PipelineConfig) -> Artifact | None:
    """Losses that are in the store already; None also when nothing is held out."""
    if not prepared.held_out_rows:
        return None
    store, training = Store(config.store_uri, config.verify), config.require_training()
    key_parts = evaluation_key_parts(model_folder, prepared.held_out_rows, config.evaluation, training, store)
    return find(store, EVALUATION_STAGE, f"{config.name}-{which}", key_parts)


def describe_change(changes: list[tuple[str, Any, Any]]) -> str:
    """Changed key fields in words; nothing of that name means it is new."""
    if not changes:
        return "new"
    return "; ".join(f"{field}: {_short(old)} -> {_short(new)}" for field, old, new in changes)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text
