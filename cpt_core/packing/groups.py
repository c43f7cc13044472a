"""Which shards are packed together.

In: the shards of one source and split with their tokens.
Out: groups, each a task and a cache unit.
Promise: a group depends only on the shards in it; a file added at the end leaves all groups but the last as they
are, one added elsewhere changes the groups around it and no others.
Never: mixes sources or splits, so that mixture weights survive packing.

Method: content-defined chunking (as in Muthitacharoen et al. 2001), with the key of a shard as its rolling hash.
"""

from dataclasses import dataclass

from cpt_core.artifacts import Artifact
from cpt_core.schemas import HELD_OUT, SHARD_TOTALS, TRAIN, require_columns
from cpt_core.storage import Store


@dataclass(frozen=True)
class PackGroup:
    """Shards of one source and split that are packed together.

    Attributes:
        source: name of the source.
        split: ``train`` or ``held_out``.
        ordinal: position among the groups of this source and split.
        shards: (ordinal of the shard, its token artifact), ascending.
        held_out_fraction: of the source; settles with the seed which documents are in the split.
    """

    source: str
    split: str
    ordinal: int
    shards: tuple[tuple[int, Artifact], ...]
    held_out_fraction: float

    @property
    def name(self) -> str:
        """Readable name, such as ``gsm8k-00000``, or ``gsm8k+held-out-00000`` for a part that is held out.

        The plus sign is no character of source names, so that no two groups of a run share a name.
        """
        is_part = self.split == HELD_OUT and self.held_out_fraction < 1.0
        return f"{self.source}{'+held-out' if is_part else ''}-{self.ordinal:05d}"


def plan_pack_groups(
    index: Artifact,
    tokens: dict[tuple[str, int], Artifact],
    held_out_fractions: dict[str, float],
    group_size_tokens: int,
    *,
    store: Store,
) -> list[PackGroup]:
    """All groups of a run, in order of split, source and ordinal.

    Args:
        index: the document index.
        tokens: token artifact of each (source, ordinal).
        held_out_fractions: of each source, in configured order.
        group_size_tokens: wanted size of a group.
        store: where the index lies.
    """
    totals = store.read_table(index.path("shards"))
    require_columns(totals.schema, SHARD_TOTALS, index.uri)
    rows = totals.to_pylist()
    groups = []
    for split in (TRAIN, HELD_OUT):
        for source, fraction in held_out_fractions.items():
            members = [row for row in rows if row["source"] == source and row[f"{split}_documents"]]
            sizes = [row[f"{split}_tokens"] for row in members]
            ends = group_ends([row["tokens_key"] for row in members], sizes, group_size_tokens)
            for ordinal, (first, end) in enumerate(zip([0, *ends[:-1]], ends, strict=False)):
                shards = tuple((row["shard"], tokens[source, row["shard"]]) for row in members[first:end])
                groups.append(PackGroup(source, split, ordinal, shards, fraction))
    return groups


def group_ends(keys: list[str], sizes_tokens: list[int], group_size_tokens: int) -> list[int]:
    """Where each group ends: positions after its last shard.

    A group of at least half the wanted size ends after a shard with a probability, drawn from the shard's own
    key, that makes groups of the wanted size on average; it never grows beyond twice the wanted size unless one
    shard does.

    Args:
        keys: hexadecimal keys of the shards, in order.
        sizes_tokens: their sizes.
        group_size_tokens: wanted size of a group.
    """
    ends: list[int] = []
    size = 0
    for position, (key, tokens) in enumerate(zip(keys, sizes_tokens, strict=True)):
        if size and size + tokens > 2 * group_size_tokens:
            ends.append(position)
            size = 0
        size += tokens
        drawn = int(key[:12], 16) / 16**12
        if 2 * size >= group_size_tokens and drawn < 2 * tokens / group_size_tokens:
            ends.append(position + 1)
            size = 0
    if size:
        ends.append(len(keys))
    return ends
