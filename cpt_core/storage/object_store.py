"""A store on objects (S3 and the like): files put whole, records put only where none is.

In: staged files and small contents; names relative to the root.
Out: objects under final names.
Promise: an object is visible whole or not at all; of two writers of one record one wins.
Never: renames.
"""

import shutil
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from cpt_core.errors import StoreError
from cpt_core.storage.durable import require_on_disk
from cpt_core.storage.filesystem import reason_of, sha256_of
from cpt_core.storage.owners import owner_is_gone, owner_tag

PROBE_NAME = ".conditional-put"
_STAGING_PREFIX = "cpt-staging-"
_probed: set[str] = set()
"""Roots that were seen to keep the first of two writers: each is asked once in the life of a process."""


class ObjectStore:
    """Publishes into a bucket, or any other fsspec file system."""

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root

    def new_staging_folder(self) -> Path:
        """A private folder on this machine's disk."""
        folder = Path(tempfile.gettempdir()) / f"{_STAGING_PREFIX}{owner_tag()}"
        folder.mkdir(mode=0o700)
        return folder

    def publish(self, staged: Path, name: str, sha256: str) -> None:
        """Put a staged file under its final name, unless the object there has its content.

        Raises:
            StoreError: when the staged file is no longer what was written.
        """
        require_on_disk(staged, sha256)
        if not self._holds(name, sha256):
            self._system.put_file(str(staged), f"{self._root}/{name}")

    def create(self, name: str, content: bytes) -> bool:
        """Write a small object unless the name exists: whether this call created it."""
        try:
            self._system.pipe_file(f"{self._root}/{name}", content, mode="create")
        except FileExistsError:
            return False
        return True

    def keeps_first_writer(self) -> bool:
        """Whether a second writer of one name is turned away: services exist that accept the condition and ignore it.

        The small object by which this is seen stays, so that from then on one request tells.
        """
        if self._root not in _probed:
            if self._writes_probe() and self._writes_probe():  # the first of all probes finds no object
                return False
            _probed.add(self._root)
        return True

    def replace(self, name: str, content: bytes) -> None:
        """Write a small object, over an older one."""
        self._system.pipe_file(f"{self._root}/{name}", content)

    def note(self, name: str, content: bytes) -> bool:
        """As ``create``: there is no cheaper way to write an object."""
        return self.create(name, content)

    def forget(self, name: str) -> None:
        """Remove a small object, if there is one."""
        with suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{name}")

    def move(self, name: str, new_name: str) -> None:
        """Copy an object to another name and remove it under the first."""
        self._system.mv(f"{self._root}/{name}", f"{self._root}/{new_name}")

    def collect_garbage(self) -> int:
        """Remove the staging folders of processes that are gone from this machine; returns how many."""
        staged = Path(tempfile.gettempdir()).glob(f"{_STAGING_PREFIX}*")
        left_over = [folder for folder in staged if owner_is_gone(folder.name.removeprefix(_STAGING_PREFIX))]
        for folder in left_over:
            shutil.rmtree(folder, ignore_errors=True)
        return len(left_over)

    def failure(self, uri: str, error: OSError, needed_bytes: int | None = None) -> StoreError:
        """A failed write in one line."""
        return StoreError(f"{uri}: cannot be written: {reason_of(error)}; check the network and access, then run again")

    def is_write_error(self, error: OSError) -> bool:
        """Whether an error under staging is the disk's and not our own mistake."""
        return error.errno is not None

    def _writes_probe(self) -> bool:
        return self.create(PROBE_NAME, f"shows that the first of two writers wins; {uuid.uuid4().hex}\n".encode())

    def _holds(self, name: str, sha256: str) -> bool:
        try:
            with self._system.open(f"{self._root}/{name}", "rb") as stream:
                return sha256_of(stream) == sha256
        except FileNotFoundError:
            return False
