"""Whether too much of a corpus was rejected: decided once, at the end, with the complete list."""

from collections import Counter

from cpt_core.artifacts import Artifact
from cpt_core.errors import InputError


def require_few_bad_lines(tokens: list[Artifact], max_bad_fraction: float) -> None:
    """Raise when more than ``max_bad_fraction`` of all documents was quarantined.

    Raises:
        InputError: naming every shard with rejected lines, and how many for which reason.
    """
    documents_in = sum(artifact.counts["documents_in"] for artifact in tokens)
    quarantined = sum(artifact.counts["documents_quarantined"] for artifact in tokens)
    if quarantined <= max_bad_fraction * documents_in:
        return
    listed = "; ".join(
        f"{artifact.name}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        for artifact in tokens
        if (reasons := artifact.counts["quarantined_by_reason"])
    )
    raise InputError(
        f"tokenization: {quarantined:,} of {documents_in:,} documents are quarantined, more than "
        f"tokenization.max_bad_fraction = {max_bad_fraction} allows. {listed}. See them with `cpt inspect URI` of the "
        "token shard; repair the lines, or raise max_bad_fraction"
    )


def quarantined_by_reason(tokens: list[Artifact]) -> dict[str, int]:
    """Rejected lines of all shards by reason, most frequent first."""
    total: Counter[str] = Counter()
    for artifact in tokens:
        total.update(artifact.counts["quarantined_by_reason"])
    return dict(total.most_common())
