"""Files that survive: written, verified and named so that a crash leaves the old state or the new one.

In: paths of this machine's file systems.
Out: files under final names.
Promise: what gets a final name was fsynced and then read back; a name that is taken is never taken over by
``publish_new``, on file systems with hard links and on those without.
Never: trusts a file after a failed fsync, or retries one: the kernel may have dropped the data and say so only once.

A final name comes from ``link(2)``, which fails where the name is taken, on every local file system and on NFS. Where
there are no hard links (FAT, exFAT, some FUSE and SMB mounts) the name is looked at and taken by ``rename(2)`` under
an exclusive ``flock(2)`` of the store. A lock is better here than a file that claims the name: the kernel frees it
when its holder dies, so that nobody has to judge whether a claim is stale. Without locks either, the store is refused.
"""

import errno
import fcntl
import os
from pathlib import Path

from cpt_core.errors import StoreError
from cpt_core.storage.filesystem import sha256_of

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
_NO_LOCKS = {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def require_on_disk(path: Path, sha256: str) -> None:
    """Make a file durable, then read back what the disk holds instead of what memory remembers.

    Raises:
        StoreError: when it is not what was written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with open(descriptor, "rb", closefd=False) as stream:
            found = sha256_of(stream)
    finally:
        os.close(descriptor)
    if found != sha256:
        raise StoreError(
            f"{path}: was written with sha256 {sha256[:12]}, but reads back as {found[:12]}; nothing of it is used. "
            "Check this disk and this machine's memory, then run again"
        )


def holds(path: Path, sha256: str) -> bool:
    """Whether a file has this content."""
    with path.open("rb") as stream:
        return sha256_of(stream) == sha256


def publish_new(staged: Path, final: Path, lock: Path) -> bool:
    """Give a file its final name unless the name is taken: whether this call did.

    Args:
        staged: the file, in the same file system; where there are no hard links it loses this name.
        final: the name it is to have.
        lock: a file of the store to lock where there are no hard links.

    Raises:
        StoreError: when the file system has neither hard links nor locks.
    """
    try:
        os.link(staged, final)
    except FileExistsError:
        # A file server that repeats a request whose answer was lost says so of our own link.
        return os.path.samestat(staged.stat(), final.stat())
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _rename_under_lock(staged, final, lock)
    return True


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fsync_file(folder)


def fsync_file(path: Path) -> None:
    """Make the content of a file durable, whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_under_lock(staged: Path, final: Path, lock: Path) -> bool:
    with lock.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise StoreError(
                f"{final.parent}: this file system has neither hard links nor locks, so that two runs could overwrite "
                "each other's records; put store_uri on another file system or an object store"
            ) from error
        if final.exists():
            return False
        staged.rename(final)
        return True
