"""What a stage has done, as the rows of a table for people.

In: artifacts, the manifest, failures.
Out: rows; cells are text, some of a kind of their own (``tasks.cells``), with units in the column's name.
Promise: every source stands in it, with a last row for all where they can be added up.
Never: knows Prefect, or holds text of a document.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.manifest import Manifest, Shard
from cpt_core.tokenization import describe_reasons, quarantined_by_file, quarantined_by_reason
from tasks.cells import Emphasis, Place
from tasks.prepared import Prepared
from tasks.stage_lines import counted
from tasks.trained import Trained

Row = dict[str, Any]
MAX_OUTPUTS_OF_STAGE = 100
"""Artifacts of one stage that are named one by one; the table is kept in the server's database."""
MAX_FILES_WITH_REJECTED_LINES = 1000
"""Files that are named one by one; `cpt quarantine list` has all."""


def discovered_sources(manifest: Manifest) -> list[Row]:
    """Files and shards of each source."""
    return [
        {
            "source": source,
            "files": f"{len({shard.uri for shard in shards}):,}",
            "shards": f"{len(shards):,}",
            "bytes": f"{sum(shard.size_bytes for shard in shards):,}",
            "cannot be used": f"{sum(shard.problem is not None for shard in shards):,}",
        }
        for source, shards in _by_source(manifest.shards)
    ]


def tokenized_sources(manifest: Manifest, tokens: dict[str, Artifact], failures: dict[str, str]) -> list[Row]:
    """Documents, tokens and the fate of the shards of each source.

    Args:
        manifest: the shards.
        tokens: token shards by name of the shard, as far as there are any.
        failures: of the others, by name.
    """
    return [_tokenized(source, shards, tokens, failures) for source, shards in _by_source(manifest.shards)]


def failed_shards(failures: dict[str, str]) -> list[Row]:
    """One row a failed shard."""
    return [{"shard": name, "reason": reason} for name, reason in sorted(failures.items())]


def rejected_lines(manifest: Manifest, tokens: dict[str, Artifact]) -> list[Row]:
    """One row a file with rejected lines, and one for those that are too many to be named.

    Args:
        manifest: the shards.
        tokens: token shards by name of the shard, as far as there are any.
    """
    done = [shard for shard in manifest.shards if shard.name in tokens]
    bad = quarantined_by_file(done, [tokens[shard.name] for shard in done])
    rows: list[Row] = [
        {"file": Place(file), "rejected": f"{sum(reasons.values()):,}", "by reason": describe_reasons(reasons)}
        for file, reasons in islice(bad.items(), MAX_FILES_WITH_REJECTED_LINES)
    ]
    rest = list(bad.values())[MAX_FILES_WITH_REJECTED_LINES:]
    if rest:
        rejected = sum(sum(reasons.values()) for reasons in rest)
        rows.append({"file": Emphasis(f"{len(rest):,} more files"), "rejected": f"{rejected:,}", "by reason": ""})
    return rows


def indexed_splits(index: Artifact) -> list[Row]:
    """Documents and tokens of each source and split."""
    return [
        {
            "source": split["source"],
            "split": split["split"],
            "documents": f"{split['documents']:,}",
            "tokens": f"{split['tokens']:,}",
            "tokens a document": f"{split['tokens'] / split['documents']:,.1f}",
            "longest, tokens": f"{split['max_tokens']:,}",
        }
        for split in index.counts["sources"]
    ]


def packed_splits(packed: list[Artifact]) -> list[Row]:
    """Rows of each source and split."""
    places = dict.fromkeys((artifact.counts["source"], artifact.counts["split"]) for artifact in packed)
    return [
        _packed([artifact for artifact in packed if (artifact.counts["source"], artifact.counts["split"]) == place])
        for place in places
    ]


def training_facts(trained: Artifact) -> list[Row]:
    """One row a fact."""
    counts = trained.counts
    mfu = "not measured" if counts["mfu"] is None else f"{counts['mfu']:.1%}"
    facts = {
        "steps": f"{counts['steps']:,}",
        "processes": f"{counts['world_size']:,} on {counted(counts['num_nodes'], 'node')}",
        "tokens": f"{counts['tokens_seen']:,}",
        "tokens a second": f"{counts['tokens_per_second'] or 0:,.0f}",
        "model FLOPs utilisation": mfu,
        "loss of the first step": f"{counts['first_loss']:.4f}",
        "loss of the last step": f"{counts['final_loss']:.4f}",
        "resumed from step": str(counts["resumed_from_step"] or "not resumed"),
        "taken from the store": "yes" if trained.is_cached else "no",
    }
    return [{"fact": fact, "value": value} for fact, value in facts.items()]


def held_out_losses(scores: dict[str, Artifact]) -> list[Row]:
    """Mean loss in nats a token of each source; ``scores`` by name of the model, the base first."""
    sources = sorted({source for losses in scores.values() for source in losses.counts["sources"]})
    return [
        {
            "source": source,
            **{f"{which} model": f"{losses.counts['sources'][source]['loss']:.4f}" for which, losses in scores.items()},
        }
        for source in sources
    ]


def outputs(prepared: Prepared, trained: Trained | None) -> list[Row]:
    """Where everything lies that the run has made or used."""
    rows = [
        *_artifacts("tokenization", prepared.tokens),
        *_artifacts("indexing", [prepared.index]),
        *_artifacts("packing", prepared.packed),
    ]
    if trained is not None:
        model = trained.model.counts["hf_model_uri"]
        run_folder = model.rpartition("/")[0]
        losses = [found for found in (trained.base_losses, trained.trained_losses) if found is not None]
        rows = [
            {"stage": "training", "what": "model, a transformers folder", "where": Place(model)},
            {"stage": "training", "what": "last checkpoint", "where": Place(trained.model.counts["checkpoint_uri"])},
            {"stage": "training", "what": "metrics of each step", "where": Place(f"{run_folder}/metrics.jsonl")},
            {"stage": "training", "what": "logs of the processes", "where": Place(f"{run_folder}/attempts")},
            *_artifacts("training", [trained.model]),
            *_artifacts("evaluation", losses),
            *rows,
        ]
    return rows


def _artifacts(stage: str, artifacts: list[Artifact]) -> Iterator[Row]:
    for artifact in artifacts[:MAX_OUTPUTS_OF_STAGE]:
        what = f"{artifact.name}{', cached' if artifact.is_cached else ''}"
        yield {"stage": stage, "what": what, "where": Place(artifact.uri)}
    if rest := artifacts[MAX_OUTPUTS_OF_STAGE:]:
        folder = rest[0].uri.rpartition("/")[0]
        yield {"stage": stage, "what": f"{len(rest):,} more", "where": Place(folder)}


def _by_source(shards: Iterable[Shard]) -> list[tuple[str, list[Shard]]]:
    """The shards of each source, and of all together when there are several."""
    by_source: dict[str, list[Shard]] = {}
    for shard in shards:
        by_source.setdefault(shard.source, []).append(shard)
    everything = [shard for found in by_source.values() for shard in found]
    return [*by_source.items(), *([(Emphasis("all"), everything)] if len(by_source) > 1 else [])]


def _tokenized(source: str, shards: list[Shard], tokens: dict[str, Artifact], failures: dict[str, str]) -> Row:
    found = [tokens[shard.name] for shard in shards if shard.name in tokens]
    cached = sum(artifact.is_cached for artifact in found)
    reasons = quarantined_by_reason(found)
    return {
        "source": source,
        "files": f"{len({shard.uri for shard in shards}):,}",
        "shards": f"{len(shards):,}",
        "computed": f"{len(found) - cached:,}",
        "cached": f"{cached:,}",
        "failed": f"{sum(shard.name in failures for shard in shards):,}",
        "documents": f"{sum(artifact.counts['documents_out'] for artifact in found):,}",
        "quarantined": describe_reasons(reasons) or "none",
        "tokens": f"{sum(artifact.counts['tokens'] for artifact in found):,}",
    }


def _packed(packed: list[Artifact]) -> Row:
    def total(name: str) -> int:
        return sum(artifact.counts[name] for artifact in packed)

    first, cached = packed[0].counts, sum(artifact.is_cached for artifact in packed)
    slots = total("rows") * first["row_len_tokens"]
    return {
        "source": first["source"],
        "split": first["split"],
        "computed": f"{len(packed) - cached:,}",
        "cached": f"{cached:,}",
        "rows": f"{total('rows'):,}",
        "padding": f"{total('padding_tokens') / slots if slots else 0:.2%}",
        "tokens": f"{total('num_tokens'):,}",
        "dropped": f"{total('tokens_dropped'):,}",
        "documents": f"{total('documents'):,}",
        "cut": f"{total('documents_split'):,}",
    }
