"""The store: artifacts by name, on a folder or on objects.

In: a root URI; names relative to it, with ``/``.
Out: files read, listed, published, created and set aside.
Promise: the same on every file system; a failed write is one line and leaves nothing visible.
Never: interprets what it stores.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from cpt_core.errors import StoreError
from cpt_core.storage.failures import failed_read, size_of
from cpt_core.storage.filesystem import filesystem_of, is_local, sha256_of
from cpt_core.storage.local_folder import LocalFolder
from cpt_core.storage.object_store import ObjectStore

DAMAGED_FOLDER = "damaged"


class Store:
    """A folder of artifacts on any file system; all names are relative to its root, with ``/``."""

    def __init__(self, root_uri: str, verify: Literal["size", "full"] = "size") -> None:
        self.root_uri = root_uri.rstrip("/")
        self.verify = verify
        """What a lookup compares with the record: the size of each file, or its sha256 as well."""
        self._system, self._root = filesystem_of(self.root_uri)
        self._backend = LocalFolder(self._root) if is_local(self._system) else ObjectStore(self._system, self._root)
        self._listings: dict[str, _Listing] = {}

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        """In another process: the one store of this root there, which keeps its listings from call to call."""
        return _store_of, (self.root_uri, self.verify)

    def uri(self, name: str) -> str:
        """The full URI of a name."""
        return f"{self.root_uri}/{name}"

    def local_path(self, name: str) -> Path | None:
        """The name as a path of this machine's file systems, or None on an object store."""
        self._require_inside(name)
        return self._backend.path(name) if isinstance(self._backend, LocalFolder) else None

    def read_bytes(self, name: str) -> bytes:
        """Content of a small file.

        Raises:
            FileNotFoundError: when there is none.
            StoreError: when it cannot be read.
        """
        local = self.local_path(name)
        with self.reading(name):
            return cast(bytes, self._system.cat_file(self._path(name))) if local is None else local.read_bytes()

    def size_bytes(self, name: str) -> int | None:
        """Size of a file, or None when there is none."""
        local = self.local_path(name)
        try:
            with self.reading(name):
                return cast(int, self._system.info(self._path(name))["size"]) if local is None else local.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A seekable binary stream of a stored file; in the ``with`` block nothing is done but reading it."""
        with self.reading(name), self._system.open(self._path(name), "rb") as stream:
            yield stream

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A stored parquet file, or some of its columns, as a table."""
        with self.open(name) as stream:
            # Arrow's own threads can still be starting when the interpreter ends, which then aborts.
            parquet = pq.ParquetFile(stream, page_checksum_verification=True)
            return parquet.read(columns=columns, use_threads=False)

    @contextmanager
    def open_parquet(self, name: str) -> Iterator[pq.ParquetFile]:
        """A stored parquet file, to be read in parts."""
        with self.reading(name):
            if local := self.local_path(name):
                with pq.ParquetFile(local, page_checksum_verification=True) as parquet:
                    yield parquet
            else:
                with self._system.open(self._path(name), "rb") as stream:
                    yield pq.ParquetFile(stream, page_checksum_verification=True)

    def open_seekable(self, name: str) -> Any:
        """A seekable binary file that the caller, or the garbage collector, closes: for readers that keep it.

        Nothing is fetched ahead: who keeps a file reads here and there in it.
        """
        with self.reading(name):
            stream = self._system.open(self._path(name), "rb")
            if (cache := getattr(stream, "cache", None)) is not None:
                cache.blocksize = 0
            return stream

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Around what reads a stored file: a failure is one line that names it.

        Raises:
            FileNotFoundError: when there is none.
            StoreError: when it cannot be read, or its content is damaged.
        """
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (OSError, pa.ArrowException) as error:
            raise failed_read(self.uri(name), error) from error

    def sha256(self, name: str) -> str:
        """sha256 of a stored file, in hexadecimal."""
        with self.open(name) as stream:
            return sha256_of(stream)

    def folders(self, parent: str) -> list[str]:
        """Names of the folders directly below ``parent``, sorted; listed once in the life of this object."""
        return list(self._listing(parent).names)

    def folders_ending(self, parent: str, suffix: str) -> list[str]:
        """Of these, the ones whose name ends with ``-`` and the suffix."""
        return self._listing(parent).by_suffix.get(suffix, [])

    def folders_beginning(self, parent: str, prefix: str) -> list[str]:
        """Of these, the ones whose name is the prefix, then ``-`` and something without that sign."""
        return self._listing(parent).by_prefix.get(prefix, [])

    def files(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted; none when there is no such folder."""
        try:
            with self.reading(folder):
                entries = self._system.ls(self._path(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "file")

    def _listing(self, parent: str) -> "_Listing":
        if parent not in self._listings:
            try:
                with self.reading(parent):
                    self._listings[parent] = _Listing(self._folder_names(parent))
            except (FileNotFoundError, NotADirectoryError):
                self._listings[parent] = _Listing([])
        return self._listings[parent]

    def _folder_names(self, parent: str) -> list[str]:
        if (local := self.local_path(parent)) is not None:
            with os.scandir(local) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        entries = self._system.ls(self._path(parent), detail=True)
        return sorted(PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "directory")

    @contextmanager
    def staging(self, estimate_bytes: int = 0) -> Iterator[Path]:
        """A private folder for files under construction; gone afterwards, whatever happens.

        For a local store it lies in the store's own file system, so that publishing is a link and not a copy.

        Args:
            estimate_bytes: about how much will be written, for the message of a full disk; 0 when nobody knows.

        Raises:
            StoreError: when a file in it cannot be written, as on a full disk.
        """
        try:
            folder = self._backend.new_staging_folder()
        except OSError as error:
            raise self._backend.failure(self.root_uri, error, estimate_bytes) from error
        try:
            yield folder
        except OSError as error:
            if not self._backend.is_write_error(error):
                raise
            raise self._backend.failure(self.root_uri, error, max(estimate_bytes, size_of(folder))) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, name: str, sha256: str) -> None:
        """Make a staged file visible under a final name that contains its content's digest.

        A file that already has the name and this content is a success; one with another content is damaged and
        is replaced.

        Args:
            staged: the file.
            name: its final name.
            sha256: of its content.

        Raises:
            StoreError: when the store cannot be written, or does not hold what was written; nothing is visible then.
        """
        try:
            self._backend.publish(staged, name, sha256)
        except OSError as error:
            raise self._backend.failure(self.uri(name), error, size_of(staged)) from error

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file unless the name exists: True when this call created it, False when it was there.

        Raises:
            StoreError: when the store cannot be written, or would let a second writer replace the first.
        """
        self.require_first_writer_wins()
        try:
            return self._backend.create(name, content)
        except OSError as error:
            raise self._backend.failure(self.uri(name), error, len(content)) from error

    def require_first_writer_wins(self) -> None:
        """Refuse a store on which two runs could replace each other's records; asks it once in a process.

        Raises:
            StoreError: when it is one, or cannot be written.
        """
        try:
            keeps_first_writer = self._backend.keeps_first_writer()
        except OSError as error:
            raise self._backend.failure(self.root_uri, error) from error
        if not keeps_first_writer:
            raise StoreError(
                f"{self.root_uri}: its service ignores the condition `If-None-Match: *` and let a second writer "
                "replace an object, so that two runs could replace each other's records; put store_uri on a service "
                "that supports conditional writes, or on a folder"
            )

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file whole, over an older one. Only for what may be lost: hints and memories."""
        try:
            self._backend.replace(name, content)
        except OSError as error:
            raise self._backend.failure(self.uri(name), error, len(content)) from error

    def note(self, name: str, content: bytes) -> bool:
        """Write a small file unless the name exists: whether this call did. For what a crash may lose or leave.

        Raises:
            StoreError: when the store cannot be written.
        """
        try:
            return self._backend.note(name, content)
        except OSError as error:
            raise self._backend.failure(self.uri(name), error, len(content)) from error

    def forget(self, name: str) -> None:
        """Remove what was noted, if it is there.

        Raises:
            StoreError: when the store cannot be written.
        """
        try:
            self._backend.forget(name)
        except OSError as error:
            raise self._backend.failure(self.uri(name), error) from error

    def set_aside(self, folder: str, names: list[str] | None = None) -> str:
        """Move a damaged artifact out of the way.

        Args:
            folder: of the artifact.
            names: of the files to move, in this order; by default all, the record last: who looks meanwhile still
                finds it damaged, and who commits it again never loses what it has just published.

        Returns:
            The new folder, below ``damaged/``.

        Raises:
            StoreError: when the store cannot be written.
        """
        target = f"{DAMAGED_FOLDER}/{folder.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        for name in names or sorted(self.files(folder), key=lambda name: name.endswith(".json")):
            try:
                self._backend.move(f"{folder}/{name}", f"{target}/{name}")
            except FileNotFoundError:
                continue  # another process sets the same artifact aside
            except OSError as error:
                raise self._backend.failure(self.uri(folder), error) from error
        self._listings.pop(PurePosixPath(folder).parts[0], None)
        return target

    def collect_garbage(self) -> int:
        """Remove the staging folders of processes that are gone from this machine; returns how many."""
        with self.reading(""):
            return self._backend.collect_garbage()

    def _require_inside(self, name: str) -> None:
        if ".." in name.split("/"):  # names may come from records, which others may have written
            raise StoreError(f"{self.uri(name)}: leads out of the store")

    def _path(self, name: str) -> str:
        self._require_inside(name)
        return f"{self._root}/{name}".rstrip("/")


class _Listing:
    """Names of folders, found by either side of their last hyphen."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.by_prefix: dict[str, list[str]] = {}
        self.by_suffix: dict[str, list[str]] = {}
        for name in names:
            prefix, _, suffix = name.rpartition("-")
            self.by_prefix.setdefault(prefix, []).append(name)
            self.by_suffix.setdefault(suffix, []).append(name)


@lru_cache(maxsize=8)
def _store_of(root_uri: str, verify: Literal["size", "full"]) -> Store:
    return Store(root_uri, verify)
