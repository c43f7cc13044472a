"""Whether too much of a corpus was rejected: decided once, at the end, with the complete list."""

from collections import Counter

from cpt_core.artifacts import Artifact
from cpt_core.errors import InputError
from cpt_core.manifest import Shard


def require_few_bad_lines(shards: tuple[Shard, ...], tokens: list[Artifact], max_bad_fraction: float) -> None:
    """Raise when more than ``max_bad_fraction`` of all documents was quarantined.

    Args:
        shards: of the run.
        tokens: their token shards, in the same order.
        max_bad_fraction: what is tolerated, 0.0 to 1.0.

    Raises:
        InputError: naming every file with rejected lines, how many for which reason, and where they are kept.
    """
    documents_in = sum(artifact.counts["documents_in"] for artifact in tokens)
    quarantined = sum(artifact.counts["documents_quarantined"] for artifact in tokens)
    if quarantined <= max_bad_fraction * documents_in:
        return
    listed = "; ".join(
        f"{shard.uri}: {', '.join(f'{count} {reason}' for reason, count in reasons.items())} in {artifact.uri}"
        for shard, artifact in zip(shards, tokens, strict=True)
        if (reasons := artifact.counts["quarantined_by_reason"])
    )
    raise InputError(
        f"tokenization: {quarantined:,} of {documents_in:,} documents are quarantined, more than "
        f"tokenization.max_bad_fraction = {max_bad_fraction} allows. {listed}. See them with `cpt inspect` and the "
        "folder; repair the lines, or raise max_bad_fraction"
    )


def quarantined_by_reason(tokens: list[Artifact]) -> dict[str, int]:
    """Rejected lines of all shards by reason, most frequent first."""
    total: Counter[str] = Counter()
    for artifact in tokens:
        total.update(artifact.counts["quarantined_by_reason"])
    return dict(total.most_common())
