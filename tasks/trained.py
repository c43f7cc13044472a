"""What training has made, and its summary: the contract of ``cpt train --json``."""

from dataclasses import dataclass
from typing import Any

from cpt_core.artifacts import Artifact

_FIELDS = (
    "steps",
    "tokens_seen",
    "world_size",
    "num_nodes",
    "first_loss",
    "final_loss",
    "tokens_per_second",
    "mfu",
    "resumed_from_step",
    "checkpoint_uri",
    "hf_model_uri",
)


@dataclass(frozen=True)
class Trained:
    """A trained model with its scores.

    Attributes:
        model: the training artifact.
        base_losses: held-out losses of the base model; None when nothing is held out.
        trained_losses: held-out losses of the trained model; None when nothing is held out.
    """

    model: Artifact
    base_losses: Artifact | None
    trained_losses: Artifact | None

    def summary(self) -> dict[str, Any]:
        """Plain values, see DESIGN of the command."""
        return {
            **{field: self.model.counts[field] for field in _FIELDS},
            "is_cached": self.model.is_cached,
            "held_out_loss": self.held_out_loss(),
        }

    def held_out_loss(self) -> dict[str, dict[str, float]]:
        """Mean loss in nats a token, by source, before and after training."""
        if self.base_losses is None or self.trained_losses is None:
            return {}
        before, after = self.base_losses.counts["sources"], self.trained_losses.counts["sources"]
        return {source: {"before": before[source]["loss"], "after": after[source]["loss"]} for source in sorted(before)}
