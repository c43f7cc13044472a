"""What the data stages have made, and its summary: the contract of ``cpt prepare --json``."""

from dataclasses import dataclass
from typing import Any

from cpt_core.artifacts import Artifact
from cpt_core.manifest import Manifest
from cpt_core.schemas import HELD_OUT, TRAIN
from cpt_core.tokenization import TextTokenizer


@dataclass(frozen=True)
class Prepared:
    """Everything up to the packed rows.

    Attributes:
        manifest: the shards.
        tokenizer: the tokenizer that encoded them.
        tokens: token shards, in the order of the manifest.
        index: the document index.
        packed: packed shards, in order of split, source and group.
        seconds: wall time of each stage in this run.
    """

    manifest: Manifest
    tokenizer: TextTokenizer
    tokens: list[Artifact]
    index: Artifact
    packed: list[Artifact]
    seconds: dict[str, float]

    @property
    def train_rows(self) -> list[Artifact]:
        """Packed shards to train on."""
        return [artifact for artifact in self.packed if artifact.counts["split"] == TRAIN]

    @property
    def held_out_rows(self) -> list[Artifact]:
        """Packed shards to evaluate on."""
        return [artifact for artifact in self.packed if artifact.counts["split"] == HELD_OUT]

    def summary(self) -> dict[str, Any]:
        """Plain values, see DESIGN of the command."""
        rows, padding = _total(self.packed, "rows"), _total(self.packed, "padding_tokens")
        tokens = _total(self.packed, "num_tokens")
        cached = sum(artifact.is_cached for artifact in self.tokens)
        return {
            "documents_in": _total(self.tokens, "documents_in"),
            "documents_out": _total(self.tokens, "documents_out"),
            "documents_quarantined": _total(self.tokens, "documents_quarantined"),
            "documents_repaired": _total(self.tokens, "documents_repaired"),
            "tokens": _total(self.tokens, "tokens"),
            "files": self.manifest.files,
            "repeated_files": self.manifest.repeated_files(),
            "shards_total": len(self.tokens),
            "shards_cached": cached,
            "shards_computed": len(self.tokens) - cached,
            "shards_failed": [],
            "rows": rows,
            "row_len_tokens": self.packed[0].counts["row_len_tokens"] if self.packed else 0,
            "padding_fraction": padding / (padding + tokens) if rows else 0.0,
            "documents_split": _total(self.packed, "documents_split"),
            "documents_dropped": _total(self.packed, "documents_dropped"),
            "tokens_dropped": _total(self.packed, "tokens_dropped"),
            "tokenizer_backend": "+".join(sorted({artifact.counts["tokenizer_backend"] for artifact in self.tokens})),
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "artifacts": {
                "tokens": [artifact.uri for artifact in self.tokens],
                "index": self.index.uri,
                "packed": [artifact.uri for artifact in self.packed],
            },
        }


def _total(artifacts: list[Artifact], count: str) -> int:
    return sum(artifact.counts[count] for artifact in artifacts)
