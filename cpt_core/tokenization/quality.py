"""Whether too much of a corpus was rejected: decided once, at the end, with the complete list."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice

from cpt_core.artifacts import Artifact
from cpt_core.errors import InputError
from cpt_core.manifest import Shard

FILES_NAMED = 20
_NOTICED = ("maybe_truncated", "byte_order_marks", "documents_with_nul", "documents_with_special_tokens")


def require_few_bad_lines(shards: tuple[Shard, ...], tokens: list[Artifact], max_bad_fraction: float) -> None:
    """Raise when more than ``max_bad_fraction`` of all documents was quarantined.

    Args:
        shards: of the run.
        tokens: their token shards, in the same order.
        max_bad_fraction: what is tolerated, 0.0 to 1.0.

    Raises:
        InputError: naming the first files with rejected lines, how many for which reason, and what shows them all.
    """
    documents_in = sum(artifact.counts["documents_in"] for artifact in tokens)
    quarantined = sum(artifact.counts["documents_quarantined"] for artifact in tokens)
    if quarantined <= max_bad_fraction * documents_in:
        return
    raise InputError(
        f"tokenization: {quarantined:,} of {documents_in:,} documents are quarantined, more than "
        f"tokenization.max_bad_fraction = {max_bad_fraction} allows. {_files(shards, tokens)}; `cpt quarantine list "
        "CONFIG` shows all. Repair the lines (`cpt quarantine show CONFIG --write FILE`), or raise max_bad_fraction"
    )


def quarantined_by_reason(tokens: list[Artifact]) -> dict[str, int]:
    """Rejected lines of all shards by reason, most frequent first."""
    total: Counter[str] = Counter()
    for artifact in tokens:
        total.update(artifact.counts["quarantined_by_reason"])
    return dict(total.most_common())


def noticed(tokens: list[Artifact]) -> dict[str, int]:
    """What is no fault of a line and yet worth a look, by name of the count; without what was not seen.

    Beside the counts of the token shards: ``files_without_documents``.
    """
    total: Counter[str] = Counter()
    for artifact in tokens:
        total.update({name: artifact.counts[name] for name in _NOTICED})
        total["files_without_documents"] += artifact.counts["documents_in"] == 0
    return {name: count for name, count in total.items() if count}


def quarantined_by_file(shards: Iterable[Shard], tokens: Iterable[Artifact]) -> dict[str, dict[str, int]]:
    """Rejected lines by reason of every file that has some, in the order of the manifest.

    Args:
        shards: of the run.
        tokens: their token shards, in the same order.
    """
    by_file: dict[str, Counter[str]] = defaultdict(Counter)
    for shard, artifact in zip(shards, tokens, strict=True):
        by_file[shard.uri].update(artifact.counts["quarantined_by_reason"])
    return {file: dict(sorted(reasons.items())) for file, reasons in by_file.items() if reasons}


def describe_reasons(reasons: dict[str, int]) -> str:
    """Such as ``1 json_syntax, 2 not_object``; empty for none."""
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def _files(shards: Iterable[Shard], tokens: Iterable[Artifact]) -> str:
    """The first files with rejected lines, in the order of the manifest."""
    bad = quarantined_by_file(shards, tokens)
    named = [f"{file}: {describe_reasons(reasons)}" for file, reasons in islice(bad.items(), FILES_NAMED)]
    return "; ".join(named) + (f"; and {len(bad) - FILES_NAMED:,} more files" if len(bad) > FILES_NAMED else "")
