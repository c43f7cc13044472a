"""Artifacts: the committed outputs of stages, and the records that make them exist.

In: key parts (what a result depends on), staged files, counts.
Out: a folder ``<stage>/<name>-<first 8 of the key>/`` with data files named by their digest, and ``artifact.json``.
Promise: the record is written last and never replaced, so an artifact without a record does not exist; equal
keys mean equal content; a lookup finds the same key under any readable name; a record with any byte changed is none.
Never: puts a path, a time, a host or a worker count into a key.

Words: *source* a named set of URIs; *shard* one input file or one range of a large one; *document* one line;
*token shard* the parquet of a shard's tokenized documents; *row* one packed sequence; *packed shard* the parquet
of rows; *store* where artifacts live; *run* one execution of the flow.
"""

import itertools
import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from cpt_core.errors import NondeterminismError, StoreError
from cpt_core.fingerprint import differing_fields, fingerprint, sealed_json, unsealed_json
from cpt_core.storage import DAMAGED_FOLDER, Store, sha256_of

logger = logging.getLogger(__name__)

RECORD_NAME = "artifact.json"
RECORD_VERSION = 2
KEY_DIGITS_IN_NAME = 8
_RECORDED = ("stage", "name", "key", "key_parts", "counts", "seconds", "code_version")

_read_whole: set[tuple[str, str]] = set()
"""(URI, key) of artifacts whose every byte this process has compared with the record: with ``verify: full`` each is
read once in the life of a process, however many stores it opens."""


@dataclass(frozen=True)
class StoredFile:
    """One data file of an artifact."""

    name: str
    size_bytes: int
    sha256: str
    """Physical digest: of the bytes."""
    logical_sha256: str | None = None
    """Logical digest: of the rows, whatever the parquet writer; None for what is no table."""


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
    logical_sha256: dict[str, str] = field(default_factory=dict)
    """Role to logical digest, of every file that is a table; see ``table_digest``."""


def key_of(key_parts: dict[str, Any]) -> str:
    """The artifact key: sha256 of the canonical JSON of what the result depends on."""
    return fingerprint(key_parts)


def find(store: Store, stage: str, name: str, key_parts: dict[str, Any]) -> Artifact | None:
    """The committed artifact with this key, under this or any other readable name; None when there is none.

    A damaged one is set aside and counts as none: the record changed, a file missing or of another size, or, when
    the store verifies in full, of another content.
    """
    return find_key(store, stage, name, key_of(key_parts))


def find_key(store: Store, stage: str, name: str, key: str) -> Artifact | None:
    """The same for whoever has the key already."""
    expected = folder_name(stage, name, key)
    for folder in itertools.chain([expected], _folders_with(store, stage, key)):
        artifact = _undamaged(store, folder)
        if artifact is not None and artifact.key == key:
            return replace(artifact, is_cached=True)
    return None


def commit(store: Store, draft: Draft) -> Artifact:
    """Publish the staged files, then the record; the first writer of a key wins.

    A second writer of the same rows succeeds, whatever its parquet writer made of them; what the first wrote is kept.

    Raises:
        NondeterminismError: when the key is already committed with other content; the other is kept under damaged/.
        StoreError: when the store cannot be written.
    """
    key = key_of(draft.key_parts)
    artifact = Artifact(
        stage=draft.stage,
        name=draft.name,
        key=key,
        key_parts=draft.key_parts,
        files={role: _describe(role, draft) for role in sorted(draft.staged)},
        counts=draft.counts,
        seconds=round(draft.seconds, 3),
        code_version=_code_version(),
        folder=folder_name(draft.stage, draft.name, key),
        store_uri=store.root_uri,
    )
    first = _first_writer(store, artifact)
    if first is None:
        for role, stored in artifact.files.items():
            store.publish(draft.staged[role], artifact.path(role), stored.sha256)
        if store.create(f"{artifact.folder}/{RECORD_NAME}", _record_bytes(artifact)):
            return artifact
        first = _first_writer(store, artifact)
    if first is None:
        raise StoreError(f"{artifact.uri}: its record was there and is damaged or gone again; run again")
    _require_agreement(store, first, artifact, draft)
    return replace(first, is_cached=True)


def folder_name(stage: str, name: str, key: str) -> str:
    """Store-relative folder of an artifact."""
    return f"{stage}/{name}-{key[:KEY_DIGITS_IN_NAME]}"


def read_record(store: Store, folder: str) -> Artifact | None:
    """The artifact in a folder, or None when the folder has no record that can be read.

    Raises:
        StoreError: when the record is of another release.
    """
    try:
        return parse_record(store, folder, store.read_bytes(f"{folder}/{RECORD_NAME}"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def parse_record(store: Store, folder: str, content: bytes) -> Artifact:
    """The artifact that a record describes.

    Raises:
        ValueError: when the record is damaged.
        StoreError: when it is of another release.
    """
    record = _unsealed(content)
    try:
        if record["record_version"] != RECORD_VERSION:
            raise StoreError(
                f"{store.uri(folder)}: record version {record['record_version']}, expected {RECORD_VERSION}; "
                "use the release that wrote it, or another store_uri"
            )
        files = {role: StoredFile(**described) for role, described in record["files"].items()}
        known = {name: record[name] for name in _RECORDED}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the record is no record: {error!r}") from error
    for stored in files.values():
        if stored.name in ("", ".", "..") or "/" in stored.name or "\0" in stored.name:
            raise ValueError(f"the record names a file outside of its folder: {stored.name!r}")
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
        for folder in store.folders_beginning(stage, name)
        if (artifact := read_record(store, f"{stage}/{folder}")) is not None
    ]
    return min(candidates, key=len, default=[])


def _undamaged(store: Store, folder: str) -> Artifact | None:
    """The artifact in a folder, or None when there is none any more: what is damaged is set aside."""
    try:
        # Read once: a record that is absent now may be there a moment later, and is not damaged for that.
        content = store.read_bytes(f"{folder}/{RECORD_NAME}")
        artifact = parse_record(store, folder, content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return _set_aside(store, folder, content, [], "its record cannot be read or was changed")
    damaged = missing_files(store, artifact)
    if not damaged and store.verify == "full" and (artifact.uri, artifact.key) not in _read_whole:
        damaged = damaged_files(store, artifact)
        if not damaged:
            _read_whole.add((artifact.uri, artifact.key))
    if damaged:
        return _set_aside(store, folder, content, damaged, f"{', '.join(damaged)} is not as recorded")
    return artifact


def _set_aside(store: Store, folder: str, record: bytes, damaged: list[str], why: str) -> Artifact | None:
    """Move the damaged files and then the record, unless another process has done so and committed it again."""
    try:
        is_repaired = store.read_bytes(f"{folder}/{RECORD_NAME}") != record
    except FileNotFoundError:
        return None
    if is_repaired:
        return _undamaged(store, folder)
    target = store.set_aside(folder, [*damaged, RECORD_NAME])
    logger.warning("%s: damaged: %s; set aside as %s and computed again", store.uri(folder), why, target)
    return None


def _folders_with(store: Store, stage: str, key: str) -> Iterator[str]:
    """Folders under any name; the store is listed only when the first is asked for."""
    for folder in store.folders_ending(stage, key[:KEY_DIGITS_IN_NAME]):
        yield f"{stage}/{folder}"


@cache
def _code_version() -> str:
    return version("cpt")  # parses the package's metadata: more than a millisecond, for every commit


def _describe(role: str, draft: Draft) -> StoredFile:
    staged = draft.staged[role]
    with staged.open("rb") as stream:
        digest = sha256_of(stream)
    name = f"{role}-{digest[:12]}{''.join(PurePosixPath(staged.name).suffixes)}"
    return StoredFile(name, staged.stat().st_size, digest, draft.logical_sha256.get(role))


def _record_bytes(artifact: Artifact) -> bytes:
    record = asdict(artifact)
    for volatile in ("folder", "store_uri", "is_cached"):
        del record[volatile]
    return sealed_json({"record_version": RECORD_VERSION, **record})


def _unsealed(content: bytes) -> dict[str, Any]:
    """The fields of a record; one of a release whose records had no seal yet is read as it is."""
    try:
        return unsealed_json(content)
    except ValueError:
        record = json.loads(content)
        is_of_old = isinstance(record, dict) and {"key", "record_version"} <= record.keys()
        if not is_of_old or record["record_version"] == RECORD_VERSION or "record_sha256" in record:
            raise
        return record


def _first_writer(store: Store, artifact: Artifact) -> Artifact | None:
    """Who committed this key before, if that is undamaged."""
    first = _undamaged(store, artifact.folder)
    if first is not None and first.key != artifact.key:
        raise StoreError(f"{artifact.uri}: holds a record of another key; two keys share their first digits")
    return first


def _require_agreement(store: Store, first: Artifact, second: Artifact, draft: Draft) -> None:
    roles = sorted(first.files.keys() | second.files.keys())
    differing = [role for role in roles if not _says_the_same(first.files.get(role), second.files.get(role))]
    if not differing:
        return
    target = f"{DAMAGED_FOLDER}/{second.folder.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
    for role, stored in second.files.items():
        store.publish(draft.staged[role], f"{target}/{stored.name}", stored.sha256)
    store.create(f"{target}/{RECORD_NAME}", _record_bytes(second))
    raise NondeterminismError(
        f"{second.uri}: computed again with other content in {', '.join(differing)}; the first is kept, the other is "
        f"in {store.uri(target)}. Please report this with both: equal keys must give equal content"
    )


def _says_the_same(first: StoredFile | None, second: StoredFile | None) -> bool:
    """Whether two files are equal, or tables of equal rows."""
    if first is None or second is None:
        return False
    if first.logical_sha256 and second.logical_sha256:
        return first.logical_sha256 == second.logical_sha256
    return first.sha256 == second.sha256
