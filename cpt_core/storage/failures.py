"""What a failed read or write means, in one line with what to do.

In: an ``OSError``, where it happened, how many bytes were to be written.
Out: a ``StoreError``.
Promise: a full disk, a used-up quota, no inodes, too many open files, a name too long, a file system that is read-only
and a failing device each have their own words; a full disk says how many bytes were needed and how many are free.
Never: hides an error that is our own mistake (see ``is_of_the_file_system``).
"""

import errno
import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path

from cpt_core.errors import StoreError
from cpt_core.storage.filesystem import passes_by_itself, reason_of

_INTACT = "What is committed is intact and the unfinished file is removed"
_MEANINGS = {
    errno.EROFS: ("the file system is read-only", "mount it writable, or choose another store_uri"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "shorten `name`, the source's name or store_uri"),
    errno.EIO: ("the device reports an input/output error", "look into the system log, replace the disk if it fails"),
    errno.EACCES: ("permission denied", "give this user write access to store_uri"),
    errno.EPERM: ("operation not permitted", "give this user write access to store_uri"),
    errno.EFBIG: ("the file is larger than the file system or `ulimit -f` allows", "raise the limit"),
    errno.ESTALE: ("the file server has lost the file", "check the mount"),
    errno.EINTR: ("the call was interrupted", "nothing is wrong with the disk"),
}
_IN_THE_WAY = ("a file is where a folder must be", "move it away, or choose another store_uri")
_SPACE = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_FEW_INODES = 8
"""As many as the temporary files of the failed attempt may have given back."""
_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


def is_of_the_file_system(error: OSError) -> bool:
    """Whether an error is the file system's, and not a mistake of ours such as a wrong path."""
    return error.errno in {*_MEANINGS, *_SPACE, *_DESCRIPTORS}


def failed_write(uri: str, error: OSError, folder: Path, needed_bytes: int | None) -> StoreError:
    """A failed write.

    Args:
        uri: what was being written.
        error: what the system said.
        folder: the root of the store, or what is to become it.
        needed_bytes: size of what was to be written, as far as it is known.
    """
    if error.errno in _SPACE:
        return StoreError(f"{uri}: cannot be written: {_space(error, folder, needed_bytes)}. {_INTACT}")
    if error.errno in _DESCRIPTORS:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        what, remedy = f"too many open files, the limit is {limit:,}", "raise it with `ulimit -n`, or use fewer workers"
    else:
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        unknown = _IN_THE_WAY if in_the_way else (reason_of(error), "fix access")
        what, remedy = _MEANINGS.get(error.errno or 0, unknown)
    return StoreError(
        f"{uri}: cannot be written: {what}; {remedy}, then run again. {_INTACT}", is_transient=passes_by_itself(error)
    )


def failed_read(uri: str, error: Exception) -> StoreError:
    """A failed read: the system's word, or that of a reader who finds the content damaged."""
    if isinstance(error, OSError) and error.errno is not None:
        reason, remedy = reason_of(error), "check the disk and its permissions"
    else:
        reason, remedy = " ".join(str(error).split()), "it is damaged: set it aside with `cpt verify CONFIG --repair`"
    return StoreError(
        f"{uri}: cannot be read: {reason}; {remedy}, then run again", is_transient=passes_by_itself(error)
    )


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder; what cannot be looked at counts nothing."""
    size_bytes = 0
    with suppress(OSError):
        for file in path.iterdir() if path.is_dir() else [path]:
            size_bytes += file.stat().st_size
    return size_bytes


def _space(error: OSError, folder: Path, needed_bytes: int | None) -> str:
    existing = next((parent for parent in (folder, *folder.absolute().parents) if parent.is_dir()), Path("/"))
    free_bytes, free_inodes = shutil.disk_usage(existing).free, _free_inodes(existing)
    needed = f"about {needed_bytes:,} bytes are needed, " if needed_bytes else ""
    free = f"{needed}{free_bytes:,} bytes are free at {existing}"
    if free_inodes < _FEW_INODES and free_bytes > (needed_bytes or 0):
        return f"no inodes are left: {free_inodes} are free now; {free}; remove files or add inodes, then run again"
    return f"{_SPACE[error.errno or 0]}; {free}; free space, then run again"


def _free_inodes(folder: Path) -> float:
    seen = os.statvfs(folder)
    return seen.f_favail if seen.f_files else float("inf")  # file systems without a fixed number say 0 of 0
