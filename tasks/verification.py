"""An audit of everything that a configuration names. Runs outside a graph.

In: a configuration.
Out: its artifacts, what is wrong with them, and what is not there.
Promise: every key is computed and every artifact of the run is looked at, whatever is wrong with another one.
Never: sets anything aside while it looks, as a run does that meets damage.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpt_core.artifacts import RECORD_NAME, Artifact, folder_name, key_of, parse_record
from cpt_core.config import PipelineConfig, TrainingConfig
from cpt_core.errors import CptError
from cpt_core.evaluation.stage import STAGE as EVALUATION_STAGE
from cpt_core.evaluation.stage import evaluation_key_parts
from cpt_core.indexing import STAGE as INDEX_STAGE
from cpt_core.indexing import TokenizedShard, index_key_parts
from cpt_core.manifest import Manifest
from cpt_core.model_folder import resolve_model
from cpt_core.packing import PackGroup, pack_key_parts
from cpt_core.packing.stage import STAGE as PACKED_STAGE
from cpt_core.schemas import TRAIN
from cpt_core.storage import Store, sha256_of
from cpt_core.tokenization import load_tokenizer, token_key_parts
from cpt_core.tokenization.shard import STAGE as TOKENS_STAGE
from cpt_core.training import training_key_parts
from cpt_core.training.places import from_record
from cpt_core.training.plan import STAGE as TRAINING_STAGE
from cpt_core.training.stage import RESULT_ROLE, is_output
from cpt_core.verification import Finding, OnProgress, set_damaged_aside, verify_artifacts
from tasks.shards import find_shards, pack_groups


@dataclass
class Audit:
    """What an audit has found.

    Attributes:
        artifacts: everything that was read, once each.
        findings: what is wrong.
        not_in_store: artifacts that the configuration names and no run has made yet, by stage.
        not_checked: what could not be named, and why.
        set_aside: where damaged artifacts lie now.
    """

    artifacts: list[Artifact] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    not_in_store: dict[str, list[str]] = field(default_factory=dict)
    not_checked: list[str] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Nothing is damaged and every count adds up; a file that no record names does no harm."""
        return all(finding.problem == "unreferenced" for finding in self.findings)


def audit_run(config: PipelineConfig, *, repair: bool = False, on_progress: OnProgress | None = None) -> Audit:
    """Compare everything that a configuration names with its records, and its stages with each other.

    Args:
        config: of the run.
        repair: set what is damaged aside, so that the next run computes it again.
        on_progress: called with (bytes read, bytes to read) of artifacts.
    """
    store = Store(config.store_uri)
    named = _Named(store)
    _name_data(config, named)
    audit = named.audit
    if named.all_packed:
        audit.findings += verify_artifacts(store, audit.artifacts, on_progress)
    else:  # counts of all packed rows can only be held against the index when all are there
        packed = [artifact for artifact in audit.artifacts if artifact.stage == PACKED_STAGE]
        others = [artifact for artifact in audit.artifacts if artifact.stage != PACKED_STAGE]
        audit.findings += verify_artifacts(store, others, on_progress) + verify_artifacts(store, packed, on_progress)
    if config.training is not None:
        audit.findings += list(_model_findings(store, audit, config.training))
    if repair:
        audit.set_aside = set_damaged_aside(store, audit.findings)
    return audit


class _Named:
    """Looks artifacts up by key, and keeps what it meets."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.audit = Audit()
        self.all_packed = False
        self._folders: set[str] = set()

    def seek(self, stage: str, name: str, key_parts: dict[str, Any]) -> Artifact:
        """The artifact with this key; one that cannot be read is represented by its key alone, without files."""
        key = key_of(key_parts)
        expected = folder_name(stage, name, key)
        others = [f"{stage}/{folder}" for folder in self.store.folders_ending(stage, expected.rpartition("-")[2])]
        for folder in dict.fromkeys([expected, *others]):
            artifact = self._read(folder)
            if artifact is not None and artifact.key == key:
                self._keep(artifact)
                return artifact
        if not any(finding.folder in (expected, *others) for finding in self.audit.findings):
            self.audit.not_in_store.setdefault(stage, []).append(name)
        return Artifact(stage, name, key, key_parts, {}, {}, 0.0, "", expected, self.store.root_uri)

    def _read(self, folder: str) -> Artifact | None:
        try:
            return parse_record(self.store, folder, self.store.read_bytes(f"{folder}/{RECORD_NAME}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            finding = Finding(self.store.uri(folder), folder, "record", f"{RECORD_NAME}: {error}")
            self.audit.findings += [finding] if finding not in self.audit.findings else []
            return None

    def _keep(self, artifact: Artifact) -> None:
        if artifact.folder not in self._folders:
            self._folders.add(artifact.folder)
            self.audit.artifacts.append(artifact)


def _name_data(config: PipelineConfig, named: _Named) -> None:
    tokenizer = load_tokenizer(config.tokenization)
    manifest = find_shards(config, named.store)
    tokens = [
        named.seek(TOKENS_STAGE, shard.name, token_key_parts(shard, config.tokenization, tokenizer))
        for shard in manifest.shards
    ]
    shards = [
        TokenizedShard(shard.source, shard.ordinal, artifact)
        for shard, artifact in zip(manifest.shards, tokens, strict=True)
    ]
    index = named.seek(INDEX_STAGE, config.name, index_key_parts(shards, config))
    groups = _groups(config, manifest, tokens, index, named)
    if groups is None:
        return
    packed = [
        (group, named.seek(PACKED_STAGE, group.name, pack_key_parts(group, config.packing, tokenizer.pad_id)))
        for group in groups
    ]
    named.all_packed = all(artifact.files for _, artifact in packed)
    if config.training is not None:
        _name_training(config, packed, named)


def _groups(
    config: PipelineConfig, manifest: Manifest, tokens: list[Artifact], index: Artifact, named: _Named
) -> list[PackGroup] | None:
    """The groups that the index tells, unless it cannot be trusted."""
    if _is_whole(index, "shards", named.store):
        return pack_groups(manifest, tokens, index, config, named.store)
    if INDEX_STAGE not in named.audit.not_in_store:
        named.audit.not_checked.append("packed rows and training: the damaged index does not tell which rows there are")
    return None


def _name_training(config: PipelineConfig, packed: list[tuple[PackGroup, Artifact]], named: _Named) -> None:
    training = config.require_training()
    train_rows = [artifact for group, artifact in packed if group.split == TRAIN]
    held_out_rows = [artifact for group, artifact in packed if group.split != TRAIN]
    try:
        base_folder = resolve_model(training.model, training.revision)
    except CptError as error:
        named.audit.not_checked.append(f"training and evaluation: {error}")
        return
    trained = named.seek(TRAINING_STAGE, config.name, training_key_parts(train_rows, training, base_folder))
    if not held_out_rows:
        return
    models = {"base": base_folder}
    if trained.files:
        model = Path(from_record(trained.counts, named.store)["hf_model_uri"])
        if _is_usable(model, training, named.store):
            models["trained"] = model
    for which, folder in models.items():
        key_parts = evaluation_key_parts(folder, held_out_rows, config.evaluation, training)
        named.seek(EVALUATION_STAGE, f"{config.name}-{which}", key_parts)


def _is_usable(folder: Path, training: TrainingConfig, store: Store) -> bool:
    return is_output(str(folder), training, store) and (folder / "config.json").is_file()


def _is_whole(artifact: Artifact, role: str, store: Store) -> bool:
    if role not in artifact.files:
        return False
    stored = artifact.files[role]
    return store.size_bytes(artifact.path(role)) == stored.size_bytes and (
        store.sha256(artifact.path(role)) == stored.sha256
    )


def _model_findings(store: Store, audit: Audit, training: TrainingConfig) -> Iterator[Finding]:
    """What is wrong with the exported model, which lies outside its artifact's folder."""
    for artifact in audit.artifacts:
        if artifact.stage != TRAINING_STAGE or not _is_whole(artifact, RESULT_ROLE, store):
            continue
        result = from_record(json.loads(store.read_bytes(artifact.path(RESULT_ROLE))), store)
        model = {Path(result["hf_model_uri"]) / name: described for name, described in result["model_files"].items()}
        elsewhere = [path for path in model if not is_output(str(path), training, store)]
        if elsewhere:
            audit.not_checked.append(f"{elsewhere[0]}: lies neither in the store nor in training.output_dir")
            continue
        for path, described in model.items():
            if not path.is_file():
                yield Finding(str(path), artifact.folder, "missing", "is gone")
                continue
            with path.open("rb") as stream:
                digest = sha256_of(stream)
            if digest != described["sha256"]:
                detail = f"has sha256 {digest[:12]}, expected {described['sha256'][:12]}"
                yield Finding(str(path), artifact.folder, "content", detail)
