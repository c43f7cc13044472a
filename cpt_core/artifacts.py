"""Artifacts: the committed outputs of stages, and the records that make them exist.

In: key parts (what a result depends on), staged files, counts.
Out: a folder ``<stage>/<name>-<first 8 of the key>/`` with data files named by their digest, and ``artifact.json``.
Promise: the record is written last and never replaced, so an artifact without a record does not exist; equal
keys mean equal content; a lookup finds the same key under any readable name.
Never: puts a path, a time, a host or a worker count into a key.

Words: *source* a named set of URIs; *shard* one input file or one range of a large one; *document* one line;
*token shard* the parquet of a shard's tokenized documents; *row* one packed sequence; *packed shard* the parquet
of rows; *store* where artifacts live; *run* one execution of the flow.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from cpt_core.errors import NondeterminismError, StoreError
from cpt_core.fingerprint import differing_fields, fingerprint
from cpt_core.storage import Store, sha256_of

RECORD_NAME = "artifact.json"
RECORD_VERSION = 1
KEY_DIGITS_IN_NAME = 8
_RECORDED = ("stage", "name", "key", "key_parts", "counts", "seconds", "code_version")


@dataclass(frozen=True)
class StoredFile:
    """One data file of an artifact."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A committed output of a stage, as its record describes it."""

    stage: str
    name: str
    key: str
    key_parts: dict[str, Any]
    files: dict[str, StoredFile]
    """Role (such as ``tokens``) to file."""
    counts: dict[str, Any]
    seconds: float
    """How long the computation took; not part of the key."""
    code_version: str
    folder: str
    """Relative to the store's root."""
    store_uri: str
    is_cached: bool = field(default=False, compare=False)
    """True when this run found it instead of computing it."""

    @property
    def uri(self) -> str:
        """Full URI of the folder."""
        return f"{self.store_uri}/{self.folder}"

    def path(self, role: str) -> str:
        """Store-relative name of the file with this role."""
        return f"{self.folder}/{self.files[role].name}"


@dataclass(frozen=True)
class Draft:
    """What a stage has computed and wants to commit."""

    stage: str
    name: str
    key_parts: dict[str, Any]
    staged: dict[str, Path]
    """Role to staged file; the final name is role, digest and the staged file's suffix."""
    counts: dict[str, Any]
    seconds: float


def key_of(key_parts: dict[str, Any]) -> str:
    """The artifact key: sha256 of the canonical JSON of what the result depends on."""
    return fingerprint(key_parts)


def find(store: Store, stage: str, name: str, key_parts: dict[str, Any]) -> Artifact | None:
    """The committed artifact with this key, under this or any other readable name; None when there is none.

    A damaged one (a file missing or of another size) is set aside and counts as none.
    """
    key = key_of(key_parts)
    expected = folder_name(stage, name, key)
    for folder in [expected, *_folders_with(store, stage, key)]:
        artifact = read_record(store, folder)
        if artifact is None and store.size_bytes(f"{folder}/{RECORD_NAME}") is not None:
            store.set_aside(folder)
        if artifact is None or artifact.key != key:
            continue
        if not missing_files(store, artifact):
            return replace(artifact, is_cached=True)
        store.set_aside(folder)
    return None


def commit(store: Store, draft: Draft) -> Artifact:
    """Publish the staged files, then the record; the first writer of a key wins.

    Raises:
        NondeterminismError: when the key is already committed with other content.
        StoreError: when the store cannot be written.
    """
    key = key_of(draft.key_parts)
    artifact = Artifact(
        stage=draft.stage,
        name=draft.name,
        key=key,
        key_parts=draft.key_parts,
        files={role: _describe(role, staged) for role, staged in sorted(draft.staged.items())},
        counts=draft.counts,
        seconds=round(draft.seconds, 3),
        code_version=version("cpt"),
        folder=folder_name(draft.stage, draft.name, key),
        store_uri=store.root_uri,
    )
    for role, staged in sorted(draft.staged.items()):
        store.publish(staged, artifact.path(role))
    if store.create(f"{artifact.folder}/{RECORD_NAME}", _record_bytes(artifact)):
        return artifact
    return _first_writer(store, artifact)


def folder_name(stage: str, name: str, key: str) -> str:
    """Store-relative folder of an artifact."""
    return f"{stage}/{name}-{key[:KEY_DIGITS_IN_NAME]}"


def read_record(store: Store, folder: str) -> Artifact | None:
    """The artifact in a folder, or None when the folder has no record that can be read.

    Raises:
        StoreError: when the record is of another release.
    """
    try:
        record = json.loads(store.read_bytes(f"{folder}/{RECORD_NAME}"))
        record_version = record["record_version"]
        files = {role: StoredFile(**described) for role, described in record["files"].items()}
        known = {name: record[name] for name in _RECORDED}
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if record_version != RECORD_VERSION:
        raise StoreError(
            f"{store.uri(folder)}: record version {record_version}, expected {RECORD_VERSION}; "
            "use the release that wrote it, or another store_uri"
        )
    return Artifact(**known, files=files, folder=folder, store_uri=store.root_uri)


def missing_files(store: Store, artifact: Artifact) -> list[str]:
    """Data files that are gone or have another size than recorded."""
    return [
        stored.name
        for stored in artifact.files.values()
        if store.size_bytes(f"{artifact.folder}/{stored.name}") != stored.size_bytes
    ]


def damaged_files(store: Store, artifact: Artifact) -> list[str]:
    """Data files whose content is not what the record says; reads every byte."""
    missing = missing_files(store, artifact)
    return missing + [
        stored.name
        for stored in artifact.files.values()
        if stored.name not in missing and store.sha256(f"{artifact.folder}/{stored.name}") != stored.sha256
    ]


def why_missing(store: Store, stage: str, name: str, key_parts: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """For a key that is not committed: the fields in which it differs from the nearest artifact of that name.

    Returns:
        (dotted field, committed value, wanted value) of the committed artifact with the fewest differences;
        empty when no artifact of that name exists.
    """
    candidates = [
        list(differing_fields(artifact.key_parts, key_parts))
        for folder in store.folders(stage)
        if folder.rpartition("-")[0] == name and (artifact := read_record(store, f"{stage}/{folder}")) is not None
    ]
    return min(candidates, key=len, default=[])


def _folders_with(store: Store, stage: str, key: str) -> list[str]:
    return [f"{stage}/{folder}" for folder in store.folders_ending(stage, key[:KEY_DIGITS_IN_NAME])]


def _describe(role: str, staged: Path) -> StoredFile:
    with staged.open("rb") as stream:
        digest = sha256_of(stream)
    name = f"{role}-{digest[:12]}{''.join(PurePosixPath(staged.name).suffixes)}"
    return StoredFile(name=name, size_bytes=staged.stat().st_size, sha256=digest)


def _record_bytes(artifact: Artifact) -> bytes:
    record = asdict(artifact)
    for volatile in ("folder", "store_uri", "is_cached"):
        del record[volatile]
    return json.dumps({"record_version": RECORD_VERSION, **record}, indent=1, ensure_ascii=False).encode()


def _first_writer(store: Store, artifact: Artifact) -> Artifact:
    first = read_record(store, artifact.folder)
    if first is None or first.key != artifact.key:
        raise StoreError(f"{artifact.uri}: holds a record of another key; two keys share their first digits")
    differing = sorted(role for role in first.files if first.files[role] != artifact.files.get(role))
    if differing:
        raise NondeterminismError(
            f"{artifact.uri}: computed again with other content in {', '.join(differing)}; "
            "the first is kept. Please report this: equal keys must give equal bytes"
        )
    return replace(first, is_cached=True)
