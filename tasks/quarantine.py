"""The quarantine of a configuration: what is in it, and the repair of single lines. Runs outside a graph.

In: a configuration.
Out: its shards with their rejected lines, as the store has them; for a retry, what became of each repaired line.
Promise: looking computes nothing; a retry computes the shards that hold repaired lines, and no other.
Never: writes to an input file.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.config import PipelineConfig
from cpt_core.errors import ConfigError, CptError, ShardsFailedError
from cpt_core.manifest import Shard
from cpt_core.storage import Store
from cpt_core.tokenization import (
    RejectedLine,
    TextTokenizer,
    find_tokens,
    load_tokenizer,
    noticed,
    read_rejected_lines,
)
from tasks.computing import Tell, computing_shards, num_workers
from tasks.shards import find_shards


@dataclass(frozen=True)
class ShardQuarantine:
    """One shard and its token shard.

    Attributes:
        shard: of the manifest.
        tokens: what the store has of it; None when it is not tokenized yet.
        repairs_wait: its repairs are not computed yet, and ``tokens`` is what it was before them.
    """

    shard: Shard
    tokens: Artifact | None
    repairs_wait: bool = False

    def reasons(self, only: str | None = None) -> dict[str, int]:
        """Rejected lines by reason."""
        counted = self.tokens.counts["quarantined_by_reason"] if self.tokens else {}
        return {reason: count for reason, count in counted.items() if only in (None, reason)}


@dataclass(frozen=True)
class RetriedShard:
    """What a retry made of one shard.

    Attributes:
        shard: of the manifest, with its repairs.
        tokens: its token shard now.
        still_rejected: lines with a repair that did not help; their detail says why.
    """

    shard: Shard
    tokens: Artifact
    still_rejected: list[RejectedLine]

    @property
    def repaired(self) -> int:
        """Lines that are documents now."""
        return int(self.tokens.counts["documents_repaired"])

    @property
    def unmatched(self) -> int:
        """Repairs at whose place no line is rejected."""
        return len(self.shard.repairs) - self.repaired - len(self.still_rejected)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "shard": self.shard.name,
            "file": self.shard.uri,
            "is_cached": self.tokens.is_cached,
            "uri": self.tokens.uri,
            "repaired": self.repaired,
            "still_rejected": [line.shown() for line in self.still_rejected],
            "unmatched": self.unmatched,
        }


def find_quarantine(config: PipelineConfig, source: str | None = None) -> list[ShardQuarantine]:
    """All shards of a configuration, or of one source, in order of the manifest.

    Raises:
        ConfigError: when there is no such source.
    """
    names = [named.name for named in config.discovery.sources]
    if source is not None and source not in names:
        raise ConfigError(f"--source {source}: no such source; the sources are {', '.join(names)}")
    store = Store(config.store_uri, config.verify)
    tokenizer = load_tokenizer(config.tokenization)
    shards = [shard for shard in find_shards(config, store).shards if source in (None, shard.source)]
    return [_look_up(shard, config, tokenizer, store) for shard in shards]


def rejected_lines(found: list[ShardQuarantine], store: Store, reason: str | None = None) -> Iterator[RejectedLine]:
    """Their rejected lines, or those of one reason, in order."""
    for each in found:
        if each.tokens is not None and each.reasons(reason):
            for line in read_rejected_lines(each.shard, each.tokens, store):
                if reason in (None, line.reason):
                    yield line


def summarise(found: list[ShardQuarantine]) -> dict[str, Any]:
    """Counts by source and reason, and by shard, as plain values."""
    tokenized = [each.tokens for each in found if each.tokens is not None]
    totals = {
        name: sum(tokens.counts[name] for tokens in tokenized)
        for name in ("documents_in", "documents_out", "documents_quarantined", "documents_repaired")
    }
    return {
        **totals,
        "noticed": noticed(tokenized),
        "reasons": _by_source_and_reason(found),
        "shards": [
            {"shard": each.shard.name, "file": each.shard.uri, "lines": sum(reasons.values()), "reasons": reasons}
            for each in found
            if (reasons := each.reasons())
        ],
        "repairs_wait": [each.shard.name for each in found if each.repairs_wait],
        "not_tokenized": [each.shard.name for each in found if each.tokens is None],
    }


def retry_repairs(config: PipelineConfig, tell: Tell) -> list[RetriedShard]:
    """Tokenize the shards that hold repaired lines.

    Args:
        config: of the run.
        tell: told which engine of the tokenizer was chosen, and why; not when the store has the shards.

    Raises:
        ConfigError: when the configuration names no repairs file, or one that cannot be used.
        ShardsFailedError: when some shards failed; the others are committed.
    """
    if config.tokenization.repairs is None:
        raise ConfigError(
            "tokenization.repairs is missing; name the file that `cpt quarantine show CONFIG --write FILE` made and "
            "you completed, in the configuration or with --set tokenization.repairs=FILE"
        )
    store = Store(config.store_uri, config.verify)
    shards = [shard for shard in find_shards(config, store).shards if shard.repairs]
    computed, failures = _compute_all(shards, store, config, tell)
    if failures:
        raise ShardsFailedError("tokenization", failures, "Mend the cause, then retry")
    return [RetriedShard(shard, tokens, _still_rejected(shard, tokens, store)) for shard, tokens in computed]


def _compute_all(
    shards: list[Shard], store: Store, config: PipelineConfig, tell: Tell
) -> tuple[list[tuple[Shard, Artifact]], dict[str, str]]:
    """Token shards in this order, and the failures by name of the shard."""
    computed, failures = [], {}
    tokenizer = load_tokenizer(config.tokenization)
    with (
        computing_shards(shards, tokenizer, store, config, tell) as compute,
        ThreadPoolExecutor(num_workers(config)) as threads,
    ):
        futures = [(shard, threads.submit(compute, shard)) for shard in shards]
        for shard, future in futures:
            try:
                computed.append((shard, future.result()))
            except CptError as error:
                failures[shard.name] = str(error)
    return computed, failures


def _look_up(shard: Shard, config: PipelineConfig, tokenizer: TextTokenizer, store: Store) -> ShardQuarantine:
    tokens = find_tokens(shard, config.tokenization, tokenizer=tokenizer, store=store)
    if tokens is not None or not shard.repairs:
        return ShardQuarantine(shard, tokens)
    before = find_tokens(replace(shard, repairs=()), config.tokenization, tokenizer=tokenizer, store=store)
    return ShardQuarantine(shard, before, repairs_wait=before is not None)


def _by_source_and_reason(found: list[ShardQuarantine]) -> list[dict[str, Any]]:
    documents_in: Counter[str] = Counter()
    lines: dict[str, Counter[str]] = {}
    for each in found:
        documents_in[each.shard.source] += each.tokens.counts["documents_in"] if each.tokens else 0
        lines.setdefault(each.shard.source, Counter()).update(each.reasons())
    return [
        {"source": source, "reason": reason, "lines": count, "fraction": count / documents_in[source]}
        for source, reasons in lines.items()
        for reason, count in reasons.most_common()
    ]


def _still_rejected(shard: Shard, tokens: Artifact, store: Store) -> list[RejectedLine]:
    places = {repair.place for repair in shard.repairs}
    return [line for line in read_rejected_lines(shard, tokens, store) if line.place in places]
