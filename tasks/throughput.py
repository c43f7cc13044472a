"""What discovery has read, and what the shards of tokenization have read and written so far, and how fast.

In: how far discovery is; the counts of each shard, whenever it has new ones.
Out: one line, and the fraction of the work that is done.
Promise: files that are remembered and shards that the store had count as done, and not as speed.
Never: knows Prefect.
"""

import threading
import time
from collections.abc import Iterable

from cpt_core.artifacts import Artifact
from cpt_core.discovery import DiscoveryProgress
from cpt_core.manifest import Shard
from cpt_core.tokenization import ShardProgress


class Reading:
    """The speed of discovery, from the first time that it is told of."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def line(self, seen: DiscoveryProgress) -> str:
        """Such as ``1,234.5 of 5,678.9 MB, 12.3 MB/s``."""
        if self._first is None:
            self._first = (seen.size_bytes, time.monotonic())
        before, since = self._first
        speed = (seen.size_bytes - before) / 1e6 / max(1e-3, time.monotonic() - since)
        return f"{seen.size_bytes / 1e6:,.1f} of {seen.all_bytes / 1e6:,.1f} MB, {speed:,.1f} MB/s"


class Throughput:
    """Counts of many shards; may be told from several threads."""

    def __init__(self, to_compute: Iterable[Shard]) -> None:
        self._work_bytes = {shard.name: shard.size_bytes for shard in to_compute}
        self._total_bytes = sum(self._work_bytes.values())
        self._lock = threading.Lock()
        self._running: dict[str, ShardProgress] = {}
        self._finished: set[str] = set()
        self._documents = self._tokens = self._text_bytes = self._done_bytes = 0
        self._started = time.monotonic()

    def note(self, shard: Shard, progress: ShardProgress) -> None:
        """So far is a shard that is being computed; late news of one that is in the store is no news."""
        with self._lock:
            if shard.name not in self._finished:
                self._running[shard.name] = progress

    def finish(self, shard: Shard, tokens: Artifact) -> None:
        """A shard is in the store."""
        with self._lock:
            self._finished.add(shard.name)
            seen = self._running.pop(shard.name, None)
            unseen_bytes = 0 if tokens.is_cached else shard.size_bytes  # computed elsewhere, too fast to be told of
            self._text_bytes += seen.size_bytes if seen else unseen_bytes
            self._done_bytes += self._work_bytes.get(shard.name, 0)
            self._documents += tokens.counts["documents_out"]
            self._tokens += tokens.counts["tokens"]

    def line(self) -> str:
        """Such as ``1,234 documents, 2,345,678 tokens, 12.3 MB/s``."""
        with self._lock:
            running = list(self._running.values())
            documents = self._documents + sum(progress.documents for progress in running)
            tokens = self._tokens + sum(progress.tokens for progress in running)
            text_bytes = self._text_bytes + sum(progress.size_bytes for progress in running)
        speed = text_bytes / 1e6 / max(1e-3, time.monotonic() - self._started)
        return f"{documents:,} documents, {tokens:,} tokens, {speed:,.1f} MB/s"

    def fraction(self) -> float:
        """Of the bytes that had to be read; of a compressed shard, which grows while it is read, at most its size."""
        with self._lock:
            if not self._total_bytes:
                return 1.0
            running = (min(seen.size_bytes, self._work_bytes.get(name, 0)) for name, seen in self._running.items())
            return min(1.0, (self._done_bytes + sum(running)) / self._total_bytes)
