"""Input files: listed, described and opened, never written.

In: URIs of files, directories and globs.
Out: descriptions sorted bytewise; binary streams.
Promise: what cannot be looked into is an error, because skipping it would lose text.
Never: follows a link to a folder, or opens what is no regular file.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cpt_core.errors import InputError
from cpt_core.storage.filesystem import filesystem_of, is_local, passes_by_itself, reason_of
from cpt_core.storage.local_inputs import GLOB_CHARACTERS, files_in_folder, files_of_glob

_VERSION_FIELDS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")


@dataclass(frozen=True, slots=True)
class FileStat:
    """An input file as its file system describes it."""

    uri: str
    size_bytes: int
    version: str
    """Changes whenever the file does: modification and change time and inode, or the object's ETag; empty when
    the file system tells nothing of the kind."""


def expand(uri: str, suffixes: tuple[str, ...], *, follow_links: bool = False) -> list[FileStat]:
    """All files that a directory, file or glob stands for, sorted bytewise by URI.

    Args:
        uri: a file (any name), a directory (searched at every depth for ``suffixes``) or a glob.
        suffixes: endings that a file must have to be found in a directory.
        follow_links: local links inside a directory or glob may lead out of it.

    Raises:
        InputError: when the file system refuses to answer.
    """
    system, path = filesystem_of(uri, InputError)
    try:
        if not is_local(system):
            return sorted(_remote_files(system, path, suffixes), key=lambda file: file.uri.encode())
        if any(character in path for character in GLOB_CHARACTERS) and not system.exists(path):
            paths = files_of_glob(path, follow_links=follow_links)
        elif Path(path).is_dir():  # unlike fsspec's, it does not take a disk that fails for another kind of file
            paths = files_in_folder(path, suffixes, follow_links=follow_links)
        else:
            return [_file_stat(system, os.path.normpath(path))]
        stats = [_stat_of_listed(system, os.path.normpath(name)) for name in paths]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            f"{uri}: cannot be listed: {error}; check the path and its permissions",
            is_transient=passes_by_itself(error),
        ) from error
    return sorted(stats, key=lambda file: os.fsencode(file.uri))


def stat_input(uri: str) -> FileStat:
    """The current description of one input file.

    Raises:
        InputError: when it cannot be reached.
    """
    system, path = filesystem_of(uri, InputError)
    try:
        return _file_stat(system, path)
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {reason_of(error)}", is_transient=passes_by_itself(error)) from error


@contextmanager
def open_input(uri: str, start_byte: int = 0) -> Iterator[IO[bytes]]:
    """A binary stream of an input file, positioned at ``start_byte``.

    Raises:
        InputError: when it cannot be opened or read, or is no regular file by now.
    """
    system, path = filesystem_of(uri, InputError)
    try:
        with open(path, "rb", opener=_open_regular) if is_local(system) else system.open(path, "rb") as stream:
            stream.seek(start_byte)
            yield stream
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {reason_of(error)}", is_transient=passes_by_itself(error)) from error


def require_utf8(head: bytes, uri: str) -> None:
    """Refuse what would otherwise be read as thousands of broken lines.

    Args:
        head: the first bytes of a text.
        uri: of its file, for the message.

    Raises:
        InputError: when it begins as UTF-16 or UTF-32 does: with a mark, or with a NUL among its first two bytes.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:2]:
        raise InputError(f"{uri}: is UTF-16 or UTF-32, expected UTF-8; convert it, for instance with iconv")


def _open_regular(path: str, flags: int) -> int:
    """Open what was listed as a file and may be something else by now: a FIFO would block for ever."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # that it is a directory is said where the file is made of it
        return descriptor
    os.close(descriptor)
    raise _no_regular_file(path)


def _no_regular_file(path: str) -> InputError:
    return InputError(f"{path}: is no regular file; expected a file, a directory or a glob")


def _remote_files(system: Any, path: str, suffixes: tuple[str, ...]) -> list[FileStat]:
    """As the listing describes them, because a question for each of many objects would take hours."""
    is_glob = any(character in path for character in GLOB_CHARACTERS) and not system.exists(path)
    found = system.glob(path, detail=True) if is_glob else system.find(path, detail=True)
    return [
        _described(system, info or system.info(name))
        for name, info in found.items()
        if info.get("type") != "directory" and (is_glob or name == path or name.endswith(suffixes))
    ]


def _described(system: Any, info: dict[str, Any]) -> FileStat:
    version = next((str(info[name]) for name in _VERSION_FIELDS if info.get(name)), "")
    return FileStat(uri=system.unstrip_protocol(info["name"]), size_bytes=info["size"], version=version)


def _stat_of_listed(system: Any, path: str) -> FileStat:
    try:
        return _file_stat(system, path)
    except FileNotFoundError:  # under another name it may be a file of the corpus, which was not listed
        raise InputError(
            f"{path}: is gone since its folder was listed; run again when nobody renames or removes files there",
            is_transient=True,
        ) from None


def _file_stat(system: Any, path: str) -> FileStat:
    """Describe one file; a link stands for what it points to."""
    if not is_local(system):
        return _described(system, system.info(path))
    seen = _stat_of_target(path) if Path(path).is_symlink() else Path(path).stat()
    if not stat.S_ISREG(seen.st_mode):
        raise _no_regular_file(path)
    return FileStat(uri=path, size_bytes=seen.st_size, version=f"{seen.st_mtime_ns}-{seen.st_ctime_ns}-{seen.st_ino}")


def _stat_of_target(link: str) -> os.stat_result:
    try:
        return Path(link).stat()
    except FileNotFoundError:
        raise InputError(f"{link}: is a link to a file that does not exist; remove it, or restore its target") from None
