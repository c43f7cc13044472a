"""An audit of the store: every byte against its record, every count against its neighbours.

In: artifacts of a run, or the whole store.
Out: findings, none when all is well.
Promise: reads every byte once, at the speed of sha256 (more than 500 MB/s); any changed byte of a record or a data
file is a finding; a repair removes nothing, it sets aside, and the next run computes again.
Never: changes anything while it looks, or calls a count wrong that it cannot know.

Conservation: documents in = out + quarantined; documents and tokens of the index = those of its token shards; tokens
of a split = tokens that packing took in = tokens in rows + tokens dropped by policy; rows x row length = tokens +
padding.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cpt_core.artifacts import RECORD_NAME, Artifact, StoredFile, parse_record
from cpt_core.errors import StoreError
from cpt_core.storage import CHUNK_BYTES, DAMAGED_FOLDER, Store

Problem = Literal["record", "missing", "size", "content", "unreferenced", "conservation"]
_DATA_OR_RECORD = re.compile(rf"-[0-9a-f]{{12}}\.|^{re.escape(RECORD_NAME)}$")
OnProgress = Callable[[int, int], None]
"""Called with (bytes read, bytes to read)."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        uri: the artifact, or the file.
        folder: of the artifact, relative to the store.
        problem: ``record`` unreadable, changed or gone; a data file ``missing``, of another ``size`` or ``content``;
            a file that no record names (harmless: ``unreferenced``); ``conservation`` violated.
        detail: what was seen and what was expected.
    """

    uri: str
    folder: str
    problem: Problem
    detail: str

    @property
    def is_damage(self) -> bool:
        """Whether setting the artifact aside makes the next run compute it again."""
        return self.problem in ("record", "missing", "size", "content")


def verify_artifacts(store: Store, artifacts: list[Artifact], on_progress: OnProgress | None = None) -> list[Finding]:
    """Audit the artifacts of one run: records, files, and the counts between its stages.

    Args:
        store: where they lie.
        artifacts: as a lookup found them; all packed shards of the run, or none.
        on_progress: told how many of all bytes are read.
    """
    progress = _Progress(on_progress, artifacts)
    findings: list[Finding] = []
    for artifact in artifacts:
        found = _record_of(store, artifact.folder)
        if found != artifact:
            detail = found.detail if isinstance(found, Finding) else "describes another artifact"
            findings.append(_finding(store, artifact.folder, "record", detail))
        findings += _file_findings(store, artifact, progress)
    return [*findings, *_count_findings(store, artifacts), *_packing_findings(store, artifacts)]


def verify_store(store: Store, on_progress: OnProgress | None = None) -> list[Finding]:
    """Audit every artifact of a store, whichever run made it.

    Raises:
        StoreError: when a record is of another release, or the disk refuses it.
    """
    findings: list[Finding] = []
    artifacts: list[Artifact] = []
    for folder in _artifact_folders(store):
        found = _record_of(store, folder)
        if isinstance(found, Finding):
            findings.append(found)
        else:
            artifacts.append(found)
    progress = _Progress(on_progress, artifacts)
    for artifact in artifacts:
        findings += _file_findings(store, artifact, progress)
    return [*findings, *_count_findings(store, artifacts)]


def set_damaged_aside(store: Store, findings: list[Finding]) -> list[str]:
    """Move damaged files and their records below ``damaged/``: the next run computes these artifacts again.

    Returns:
        The new URIs, one for each artifact.
    """
    damaged: dict[str, list[str]] = {}
    for finding in findings:
        if finding.is_damage:
            names = damaged.setdefault(finding.folder, [])
            names += [] if finding.problem == "record" else [finding.uri.rpartition("/")[2]]
    return [store.uri(store.set_aside(folder, [*names, RECORD_NAME])) for folder, names in sorted(damaged.items())]


class _Progress:
    """Adds up what was read."""

    def __init__(self, on_progress: OnProgress | None, artifacts: list[Artifact]) -> None:
        self._on_progress = on_progress
        self._total = sum(stored.size_bytes for artifact in artifacts for stored in artifact.files.values())
        self._read = 0

    def add(self, size_bytes: int) -> None:
        self._read += size_bytes
        if self._on_progress:
            self._on_progress(self._read, self._total)


def _artifact_folders(store: Store) -> list[str]:
    """Every folder two levels below the root that holds a record, or a data file named by its digest."""
    stages = [stage for stage in store.folders("") if not stage.startswith(".") and stage != DAMAGED_FOLDER]
    folders = [f"{stage}/{folder}" for stage in stages for folder in store.folders(stage)]
    return [folder for folder in folders if any(_DATA_OR_RECORD.search(name) for name in store.files(folder))]


def _record_of(store: Store, folder: str) -> Artifact | Finding:
    try:
        # Read once: a record that a run writes meanwhile is absent or there, but never damaged for that.
        return parse_record(store, folder, store.read_bytes(f"{folder}/{RECORD_NAME}"))
    except FileNotFoundError:
        return _finding(store, folder, "unreferenced", "has no record, so that it does not exist")
    except ValueError as error:
        return _finding(store, folder, "record", f"{RECORD_NAME}: {error}")


def _file_findings(store: Store, artifact: Artifact, progress: _Progress) -> Iterator[Finding]:
    for stored in artifact.files.values():
        problem, detail = _file_problem(store, f"{artifact.folder}/{stored.name}", stored, progress)
        if problem is not None:
            yield Finding(f"{artifact.uri}/{stored.name}", artifact.folder, problem, detail)
    named = {stored.name for stored in artifact.files.values()} | {RECORD_NAME}
    for name in sorted(set(store.files(artifact.folder)) - named):
        yield Finding(f"{artifact.uri}/{name}", artifact.folder, "unreferenced", "the record does not name this file")


def _file_problem(store: Store, name: str, stored: StoredFile, progress: _Progress) -> tuple[Problem | None, str]:
    size_bytes = store.size_bytes(name)
    if size_bytes is None:
        return "missing", f"is gone; expected {stored.size_bytes:,} bytes"
    if size_bytes != stored.size_bytes:
        return "size", f"has {size_bytes:,} bytes, expected {stored.size_bytes:,}"
    digest = hashlib.sha256()
    try:
        with store.open(name) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                progress.add(len(chunk))
    except StoreError as error:
        return "content", str(error)
    if digest.hexdigest() != stored.sha256:
        return "content", f"has sha256 {digest.hexdigest()[:12]}, expected {stored.sha256[:12]}"
    return None, ""


def _count_findings(store: Store, artifacts: list[Artifact]) -> Iterator[Finding]:
    """What each artifact says of itself, and an index of its token shards."""
    tokens = {artifact.key: artifact.counts for artifact in artifacts if artifact.stage == "tokens"}
    for artifact in artifacts:
        sums = []
        if artifact.stage == "tokens":
            sums = [("documents_in", ("documents_out", "documents_quarantined"))]
        elif artifact.stage == "packed":
            sums = [("tokens_in", ("num_tokens", "tokens_dropped"))]
            yield from _row_findings(store, artifact)
        elif artifact.stage == "index":
            yield from _index_findings(store, artifact, tokens)
        for whole, parts in sums:
            added = sum(artifact.counts[part] for part in parts)
            if artifact.counts[whole] != added:
                yield _unequal(store, artifact, f"{whole} {artifact.counts[whole]:,}", f"{' + '.join(parts)} {added:,}")


def _row_findings(store: Store, packed: Artifact) -> Iterator[Finding]:
    counts = packed.counts
    in_rows, ids = counts["rows"] * counts["row_len_tokens"], counts["num_tokens"] + counts["padding_tokens"]
    if in_rows != ids:
        yield _unequal(store, packed, f"rows x row_len_tokens {in_rows:,}", f"num_tokens + padding_tokens {ids:,}")


def _index_findings(store: Store, index: Artifact, tokens: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    listed = [key for source in index.key_parts["sources"] for key in source["token_shards"]]
    if any(key not in tokens for key in listed):
        return  # of an earlier run, whose token shards are not all here any more
    for unit, of_shards in (("documents", "documents_out"), ("tokens", "tokens")):
        total = sum(tokens[key][of_shards] for key in listed)
        if index.counts[unit] != total:
            yield _unequal(store, index, f"{unit} {index.counts[unit]:,}", f"{unit} of the token shards {total:,}")


def _packing_findings(store: Store, artifacts: list[Artifact]) -> Iterator[Finding]:
    """Whether the packed shards of a run took in all that its index lists, by source and split."""
    packed = [artifact for artifact in artifacts if artifact.stage == "packed"]
    indexes = [artifact for artifact in artifacts if artifact.stage == "index"]
    if not packed or len(indexes) != 1:
        return
    taken: Counter[tuple[str, str]] = Counter()
    for artifact in packed:
        taken[artifact.counts["source"], artifact.counts["split"]] += artifact.counts["tokens_in"]
    for part in indexes[0].counts["sources"]:
        in_rows = taken[part["source"], part["split"]]
        if in_rows != part["tokens"]:
            what = f"tokens of {part['source']} {part['split']} {part['tokens']:,}"
            yield _unequal(store, indexes[0], what, f"tokens_in of its packed shards {in_rows:,}")


def _unequal(store: Store, artifact: Artifact, left: str, right: str) -> Finding:
    return _finding(store, artifact.folder, "conservation", f"{left}, but {right}")


def _finding(store: Store, folder: str, problem: Problem, detail: str) -> Finding:
    return Finding(store.uri(folder), folder, problem, detail)
