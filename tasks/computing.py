"""How shards become token shards: from the store, in this process, or in worker processes where that pays.

In: shards, their tokenizer, the store; the number of workers.
Out: a function that computes one shard, to be called from several threads.
Promise: what the store has is not computed, and what another run computes is waited for; a process that dies costs its
own shard one more attempt.
Never: knows who asks: a graph, or a command without one.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cpt_core.artifacts import Artifact, key_of
from cpt_core.claims import Claims
from cpt_core.config import PipelineConfig, TokenizationConfig
from cpt_core.manifest import Shard
from cpt_core.storage import Store
from cpt_core.tokenization import (
    ShardProgress,
    TextTokenizer,
    choose_backend,
    find_tokens,
    token_key_parts,
    tokenize_shard,
)
from cpt_core.workers import WorkerPool
from tasks.reports import Heard, Report
from tasks.throughput import Throughput

PROCESSES_PAY_FROM_BYTES = 64_000_000
"""Starting worker processes takes as long as tokenizing about this much."""

Tell = Callable[[str], object]
Moved = Callable[[int, str, float], object]
"""Told how many more shards are finished, what has been done so far in words, and its fraction of the work."""


def num_workers(config: PipelineConfig) -> int:
    """How many shards are computed at the same time."""
    return config.orchestration.workers or os.cpu_count() or 1


@contextmanager
def computing_shards(
    shards: list[Shard],
    tokenizer: TextTokenizer,
    store: Store,
    config: PipelineConfig,
    tell: Tell,
    moved: Moved = lambda finished, line, fraction: None,
    report: Report | None = None,
) -> Iterator["ShardComputer"]:
    """A function that computes any of these shards, in the ``with`` block.

    Args:
        shards: all that will be asked for.
        tokenizer: its engine is chosen here.
        store: has some of them already.
        config: of the run.
        tell: told which engine was chosen, and why.
        moved: told how far the work is, often and from several threads.
        report: on a worker, told how far each shard is; said with the signs of life.
    """
    options = config.tokenization
    found = {shard.name: find_tokens(shard, options, tokenizer=tokenizer, store=store) for shard in shards}
    missing = [shard for shard in shards if found[shard.name] is None]
    size_bytes = sum(shard.size_bytes for shard in missing)
    if size_bytes:
        tokenizer = choose_backend(tokenizer, options, size_bytes, store=store)
        tell(f"tokenizer backend {tokenizer.backend}: {tokenizer.backend_reason}")
    with (
        Claims(store, report.words if report else str) as claims,
        WorkerPool(num_workers(config), silence_seconds=config.orchestration.shard_timeout_seconds) as pool,
    ):
        used_pool = pool if size_bytes >= PROCESSES_PAY_FROM_BYTES else None
        yield ShardComputer(found, options, tokenizer, store, claims, used_pool, Throughput(missing), report, moved)


class ShardComputer:
    """Computes one shard when it is called."""

    def __init__(
        self,
        found: dict[str, Artifact | None],
        options: TokenizationConfig,
        tokenizer: TextTokenizer,
        store: Store,
        claims: Claims,
        pool: WorkerPool | None,
        seen: Throughput,
        report: Report | None,
        moved: Moved,
    ) -> None:
        self._found, self._options, self._tokenizer, self._store = found, options, tokenizer, store
        self._claims, self._pool, self._seen, self._report, self._moved = claims, pool, seen, report, moved

    @property
    def tokenizer(self) -> TextTokenizer:
        """With its engine chosen."""
        return self._tokenizer

    def arrived(self, shard: Shard, artifact: Artifact) -> None:
        """It is in the store: computed here or elsewhere, or found."""
        self._seen.finish(shard, artifact)
        self._moved(1, self._seen.line(), self._seen.fraction())

    def heard(self, news: Heard) -> None:
        """So far are shards that are being computed elsewhere."""
        for shard, progress in news:
            self._seen.note(shard, progress)
        self._moved(0, self._seen.line(), self._seen.fraction())

    def key(self, shard: Shard) -> str:
        """Of its token shard."""
        return key_of(token_key_parts(shard, self._options, self._tokenizer))

    def has(self, shard: Shard) -> bool:
        """Whether the store had it at the start."""
        return self._found[shard.name] is not None

    def __call__(self, shard: Shard) -> Artifact:
        """Its token shard."""
        artifact = self._found[shard.name]
        if artifact is None:
            key = self.key(shard)
            artifact = self._claims.compute_once(
                key, shard.name, lambda: self._find(shard), lambda: self._tokenize(shard, key)
            )
        self.arrived(shard, artifact)
        return artifact

    def _find(self, shard: Shard) -> Artifact | None:
        return find_tokens(shard, self._options, tokenizer=self._tokenizer, store=self._store)

    def _tokenize(self, shard: Shard, key: str) -> Artifact:
        def note(progress: ShardProgress) -> None:
            if self._report:
                self._report.note(key, progress)
            self._seen.note(shard, progress)
            self._moved(0, self._seen.line(), self._seen.fraction())

        arguments: dict[str, Any] = {
            "shard": shard,
            "config": self._options,
            "tokenizer": self._tokenizer,
            "store": self._store,
        }
        if self._pool is None:
            return tokenize_shard(**arguments, on_progress=note)
        return self._pool.call(tokenize_shard, arguments, on_progress=note)
