"""How far discovery is.

In: the files that were listed; what is read of each of them.
Out: counts of all of them, told whenever they move.
Promise: a file counts with its size once, however much of it could be read; at the end everything is counted.
Never: reads.
"""

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cpt_core.storage import FileStat


@dataclass(frozen=True, slots=True)
class DiscoveryProgress:
    """Files and bytes that are identified, of all. What is remembered from before is identified at once."""

    files: int
    all_files: int
    size_bytes: int
    all_bytes: int


OnProgress = Callable[[DiscoveryProgress], None]


class Count:
    """Adds up what is identified, and tells it; may be told from several threads."""

    def __init__(self, files: Collection[FileStat], unknown: Collection[FileStat], on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._all_files, self._all_bytes = len(files), _bytes_of(files)
        self._files, self._bytes = len(files) - len(unknown), self._all_bytes - _bytes_of(unknown)
        self._read: dict[str, int] = {}
        self._tell()

    def read(self, stat: FileStat, size_bytes: int) -> None:
        """So many more bytes of a file are read."""
        with self._lock:
            self._bytes += size_bytes
            self._read[stat.uri] = self._read.get(stat.uri, 0) + size_bytes
        self._tell()

    def finish(self, stat: FileStat) -> None:
        """A file is identified, or cannot be."""
        with self._lock:
            self._files += 1
            self._bytes += stat.size_bytes - self._read.pop(stat.uri, 0)
        self._tell()

    def _tell(self) -> None:
        """Without the lock: whoever listens may take a while."""
        self._on_progress(DiscoveryProgress(self._files, self._all_files, self._bytes, self._all_bytes))


def _bytes_of(files: Collection[FileStat]) -> int:
    return sum(file.size_bytes for file in files)
