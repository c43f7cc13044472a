"""The only door to file systems: input files to read, and the store to commit to.

In: URIs (``/a/b``, ``s3://bucket/key``, ``memory://x``) and, for the store, names relative to its root.
Out: listings sorted bytewise, byte streams, files published whole.
Promise: a published file is complete, durable and never replaced; two writers of one name cannot both win.
Never: renames a folder to publish it, trusts a clock, or leaves a half-written file under a final name.
"""

import errno
import hashlib
import os
import shutil
import socket
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from cpt_core.errors import InputError, StoreError

STAGING_FOLDER = ".tmp"
CHUNK_BYTES = 1 << 20
_GLOB_CHARACTERS = "*?["
_VERSION_FIELDS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}


@dataclass(frozen=True)
class FileStat:
    """An input file as its file system describes it."""

    uri: str
    size_bytes: int
    version: str
    """Changes whenever the file does: modification and change time and inode, or the object's ETag; empty when
    the file system tells nothing of the kind."""


def expand(uri: str, suffixes: tuple[str, ...]) -> list[FileStat]:
    """All files that a directory, file or glob stands for, sorted bytewise by URI.

    Args:
        uri: a file (any name), a directory (searched at every depth for ``suffixes``) or a glob.
        suffixes: endings that a file must have to be found in a directory.

    Raises:
        InputError: when the file system refuses to answer.
    """
    system, path = _filesystem(uri)
    try:
        if any(character in path for character in _GLOB_CHARACTERS) and not system.exists(path):
            paths = [name for name, info in system.glob(path, detail=True).items() if info["type"] != "directory"]
        elif system.isdir(path):
            paths = _walk(path, suffixes) if _is_local(system) else _find(system, path, suffixes)
        else:
            paths = [path]
        stats = [_file_stat(system, os.path.normpath(name) if _is_local(system) else name) for name in paths]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{uri}: cannot be listed: {error}; check the path and its permissions") from error
    return sorted(stats, key=lambda file: os.fsencode(file.uri))


def stat_input(uri: str) -> FileStat:
    """The current description of one input file.

    Raises:
        InputError: when it cannot be reached.
    """
    system, path = _filesystem(uri)
    try:
        return _file_stat(system, path)
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {_reason(error)}") from error


@contextmanager
def open_input(uri: str, start_byte: int = 0) -> Iterator[IO[bytes]]:
    """A binary stream of an input file, positioned at ``start_byte``.

    Raises:
        InputError: when it cannot be opened or read.
    """
    system, path = _filesystem(uri)
    try:
        with system.open(path, "rb") as stream:
            stream.seek(start_byte)
            yield stream
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {_reason(error)}") from error


class Store:
    """A folder of artifacts on any file system; all names are relative to its root, with ``/``."""

    def __init__(self, root_uri: str) -> None:
        self.root_uri = root_uri.rstrip("/")
        self._system, self._root = _filesystem(self.root_uri)
        self._is_local = _is_local(self._system)
        self._listings: dict[str, dict[str, list[str]]] = {}

    def uri(self, name: str) -> str:
        """The full URI of a name."""
        return f"{self.root_uri}/{name}"

    def local_path(self, name: str) -> Path | None:
        """The name as a path of this machine's file systems, or None on an object store."""
        return Path(self._root, name) if self._is_local else None

    def read_bytes(self, name: str) -> bytes:
        """Content of a small file.

        Raises:
            FileNotFoundError: when there is none.
        """
        return cast(bytes, self._system.cat_file(self._path(name)))

    def size_bytes(self, name: str) -> int | None:
        """Size of a file, or None when there is none."""
        try:
            return cast(int, self._system.info(self._path(name))["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A seekable binary stream of a stored file."""
        with self._system.open(self._path(name), "rb") as stream:
            yield stream

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A stored parquet file, or some of its columns, as a table."""
        with self.open(name) as stream:
            # Arrow's own threads can still be starting when the interpreter ends, which then aborts.
            return pq.ParquetFile(stream).read(columns=columns, use_threads=False)

    def open_seekable(self, name: str) -> Any:
        """A seekable binary file that the caller, or the garbage collector, closes: for readers that keep it."""
        return self._system.open(self._path(name), "rb")

    def sha256(self, name: str) -> str:
        """sha256 of a stored file, in hexadecimal."""
        with self.open(name) as stream:
            return sha256_of(stream)

    def folders(self, parent: str) -> list[str]:
        """Names of the folders directly below ``parent``, sorted; listed once in the life of this object."""
        return sorted(name for names in self._listing(parent).values() for name in names)

    def folders_ending(self, parent: str, suffix: str) -> list[str]:
        """Of these, the ones whose name ends with ``-`` and the suffix."""
        return self._listing(parent).get(suffix, [])

    def _listing(self, parent: str) -> dict[str, list[str]]:
        if parent not in self._listings:
            try:
                entries = self._system.ls(self._path(parent), detail=True)
            except (FileNotFoundError, NotADirectoryError):
                entries = []
            by_suffix: dict[str, list[str]] = {}
            for name in sorted(PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "directory"):
                by_suffix.setdefault(name.rpartition("-")[2], []).append(name)
            self._listings[parent] = by_suffix
        return self._listings[parent]

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A private folder for files under construction; gone afterwards, whatever happens.

        For a local store it lies in the store's own file system, so that publishing is a link and not a copy.

        Raises:
            StoreError: when a file in it cannot be written, as on a full disk.
        """
        folder = self._new_staging_folder()
        try:
            yield folder
        except OSError as error:
            if error.errno not in _WRITE_ERRORS:
                raise
            raise StoreError(self._write_failure(STAGING_FOLDER, error)) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, name: str) -> None:
        """Make a staged file visible under a final name that contains its content's digest.

        A file that already has the name has the same content, so meeting one is a success.

        Raises:
            StoreError: when the store cannot be written; nothing is visible then.
        """
        try:
            if self._is_local:
                final = Path(self._root, name)
                is_new = self._link_durably(staged, final)
                if not is_new and final.stat().st_size != staged.stat().st_size:
                    staged.replace(final)  # what a crash or a bad disk left under the name is not its content
                    _fsync(final.parent)
            elif self.size_bytes(name) != staged.stat().st_size:
                self._system.put_file(str(staged), self._path(name))
        except OSError as error:
            raise StoreError(self._write_failure(name, error)) from error

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file unless the name exists: True when this call created it, False when it was there.

        Raises:
            StoreError: when the store cannot be written.
        """
        try:
            if not self._is_local:
                self._system.pipe_file(self._path(name), content, mode="create")
                return True
            with self.staging() as folder:
                staged = folder / "record"
                staged.write_bytes(content)
                return self._link_durably(staged, Path(self._root, name))
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(self._write_failure(name, error)) from error

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file whole, over an older one. Only for what may be lost: hints and memories."""
        try:
            if not self._is_local:
                self._system.pipe_file(self._path(name), content)
                return
            with self.staging() as folder:
                staged = folder / "content"
                staged.write_bytes(content)
                _fsync(staged)
                final = Path(self._root, name)
                final.parent.mkdir(parents=True, exist_ok=True)
                staged.replace(final)
        except OSError as error:
            raise StoreError(self._write_failure(name, error)) from error

    def set_aside(self, folder: str) -> str:
        """Move a damaged artifact out of the way, its record first so that it stops existing; returns its new name."""
        target = f"damaged/{folder.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        record_first = sorted(
            self._system.find(self._path(folder)), key=lambda path: (not path.endswith(".json"), path)
        )
        for path in record_first:
            final = f"{self._path(target)}/{PurePosixPath(path).name}"
            self._system.makedirs(self._path(target), exist_ok=True)
            with suppress(FileNotFoundError):  # another process sets the same artifact aside
                self._system.mv(path, final)
        self._listings.pop(PurePosixPath(folder).parts[0], None)
        return target

    def collect_garbage(self) -> int:
        """Remove the staging folders of processes that are gone from this machine; returns how many."""
        if not self._is_local:
            return 0
        removed = 0
        with suppress(FileNotFoundError):
            for folder in Path(self._root, STAGING_FOLDER).iterdir():
                if _owner_is_gone(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
        return removed

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _new_staging_folder(self) -> Path:
        if not self._is_local:
            return Path(tempfile.mkdtemp(prefix="cpt-"))
        folder = Path(self._root, STAGING_FOLDER, _owner_tag())
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise StoreError(self._write_failure(STAGING_FOLDER, error)) from error
        return folder

    def _link_durably(self, staged: Path, final: Path) -> bool:
        """fsync, link without replacing, fsync the folder: True when the name is new."""
        _fsync(staged)
        if not final.parent.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            _fsync(final.parent.parent)
        try:
            os.link(staged, final)
        except FileExistsError:
            return False
        _fsync(final.parent)
        return True

    def _write_failure(self, name: str, error: OSError) -> str:
        free = ""
        if self._is_local and Path(self._root).is_dir():
            free = f"; {shutil.disk_usage(self._root).free:,} bytes are free"
        return f"{self.uri(name)}: cannot be written: {_reason(error)}{free}; free space or fix access, then run again"


def sha256_of(stream: IO[bytes]) -> str:
    """sha256 of the rest of a stream, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _walk(root: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files below a local folder. What cannot be looked into is an error, because skipping it would lose text."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        if links:
            raise InputError(
                f"{Path(folder, links[0])}: is a symbolic link to a folder, which is not followed because links can "
                "make loops; name its target among the uris, or remove it"
            )
        found += [f"{folder}/{name}" for name in names if name.endswith(suffixes)]
    return found


def _find(system: Any, root: str, suffixes: tuple[str, ...]) -> list[str]:
    return [name for name in system.find(root) if name.endswith(suffixes)]


def _is_local(system: Any) -> bool:
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def _filesystem(uri: str) -> tuple[Any, str]:
    if not uri or "\0" in uri:
        raise StoreError(f"{uri!r}: is no path; expected a local path or a URI that fsspec knows, such as s3://")
    try:
        system, path = fsspec.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StoreError(f"{uri}: {error}; expected a local path or a URI that fsspec knows, such as s3://") from error
    return system, path


def _file_stat(system: Any, path: str) -> FileStat:
    """Describe one file; a link stands for what it points to."""
    if not _is_local(system):
        info = system.info(path)
        version = next((str(info[name]) for name in _VERSION_FIELDS if info.get(name)), "")
        return FileStat(uri=system.unstrip_protocol(info["name"]), size_bytes=info["size"], version=version)
    seen = _stat_of_target(path) if Path(path).is_symlink() else Path(path).stat()
    if not stat.S_ISREG(seen.st_mode):
        raise InputError(f"{path}: is no regular file; expected a file, a directory or a glob")
    return FileStat(uri=path, size_bytes=seen.st_size, version=f"{seen.st_mtime_ns}-{seen.st_ctime_ns}-{seen.st_ino}")


def _stat_of_target(link: str) -> os.stat_result:
    try:
        return Path(link).stat()
    except FileNotFoundError:
        raise InputError(f"{link}: is a link to a file that does not exist; remove it, or restore its target") from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _owner_tag() -> str:
    """Names a staging folder after its process, so that what a dead process left can be told apart."""
    process = psutil.Process()
    return f"{socket.gethostname()}+{process.pid}+{process.create_time():.2f}+{uuid.uuid4().hex[:12]}"


def _owner_is_gone(tag: str) -> bool:
    host, _, rest = tag.partition("+")
    pid, _, rest = rest.partition("+")
    started, _, _ = rest.partition("+")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
