"""A store in a folder of this machine's file systems: durable files, published by link.

In: staged files and small contents; names relative to the root.
Out: files under final names.
Promise: what has a final name has been fsynced and read back, and its folders up to the root are durable; a name is
never replaced by another content.
Never: trusts a file after a failed fsync.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cpt_core.errors import StoreError
from cpt_core.storage.durable import fsync_folder, holds, publish_new, require_on_disk, write_new
from cpt_core.storage.failures import failed_write, is_of_the_file_system
from cpt_core.storage.owners import owner_is_gone, owner_tag

STAGING_FOLDER = ".tmp"
LOCK_NAME = ".lock"


class LocalFolder:
    """Publishes into a folder."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._durable: set[Path] = set()

    def path(self, name: str) -> Path:
        """The name as a path of this machine."""
        return self._root / name

    def new_staging_folder(self) -> Path:
        """A private folder in the store's own file system, so that publishing is a link and not a copy."""
        folder = self._new_staged_name()
        folder.mkdir()
        return folder

    def publish(self, staged: Path, name: str, sha256: str) -> None:
        """Link a staged file under its final name."""
        require_on_disk(staged, sha256)
        final = self.path(name)
        self._make_durable_folder(final.parent)
        if not publish_new(staged, final, self.path(LOCK_NAME)) and not holds(final, sha256):
            staged.replace(final)  # what a crash or a bad disk left under the name is not its content
        fsync_folder(final.parent)

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file unless the name exists: whether this call created it."""
        final = self.path(name)
        with self._staged(final, content) as staged:
            is_new = publish_new(staged, final, self.path(LOCK_NAME))
            try:
                fsync_folder(final.parent)
            except OSError:
                if is_new:
                    final.unlink(missing_ok=True)  # a name that may not survive is no commit
                raise
            return is_new

    def keeps_first_writer(self) -> bool:
        """Yes: ``publish_new`` refuses a file system that cannot."""
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a small file whole, over an older one."""
        final = self.path(name)
        with self._staged(final, content) as staged:
            staged.replace(final)

    def note(self, name: str, content: bytes) -> bool:
        """Write a small file that need not survive a crash, unless the name exists: whether this call did."""
        path = self.path(name)
        self._make_durable_folder(path.parent)
        try:
            write_new(path, content)
        except FileExistsError:
            return False
        return True

    def forget(self, name: str) -> None:
        """Remove a small file, if there is one."""
        self.path(name).unlink(missing_ok=True)

    def move(self, name: str, new_name: str) -> None:
        """Rename a file within the store."""
        target = self.path(new_name)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path(name).rename(target)

    def collect_garbage(self) -> int:
        """Remove what processes staged that are gone from this machine; returns how many entries."""
        removed = 0
        with suppress(FileNotFoundError):
            for staged in (self._root / STAGING_FOLDER).iterdir():
                if owner_is_gone(staged.name):
                    _remove(staged)
                    removed += 1
        return removed

    def failure(self, uri: str, error: OSError, needed_bytes: int | None = None) -> StoreError:
        """A failed write in one line."""
        return failed_write(uri, error, self._root, needed_bytes)

    def is_write_error(self, error: OSError) -> bool:
        """Whether an error under staging is the disk's and not our own mistake."""
        return is_of_the_file_system(error)

    @contextmanager
    def _staged(self, final: Path, content: bytes) -> Iterator[Path]:
        """The content under a staged name, durable, and so is the folder that it is meant for."""
        staged = self._new_staged_name()
        try:
            write_new(staged, content)
            require_on_disk(staged, hashlib.sha256(content).hexdigest())
            self._make_durable_folder(final.parent)
            yield staged
        finally:
            _remove(staged)

    def _new_staged_name(self) -> Path:
        folder = self._root / STAGING_FOLDER
        self._make_durable_folder(folder)
        return folder / owner_tag()

    def _make_durable_folder(self, folder: Path) -> None:
        """Make a folder and its parents; another process may have made them and not fsynced them yet."""
        if folder in self._durable and folder.exists():
            return
        is_inside, is_new = self._root in folder.parents, not folder.exists()
        if is_inside or not folder.parent.exists():
            self._make_durable_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        if is_inside or is_new:
            fsync_folder(folder.parent)
        self._durable.add(folder)


def _remove(staged: Path) -> None:
    """Remove a staged file or folder; what resists is garbage for the next run to collect."""
    with suppress(OSError):
        if staged.is_dir():
            shutil.rmtree(staged, ignore_errors=True)
        else:
            staged.unlink(missing_ok=True)
