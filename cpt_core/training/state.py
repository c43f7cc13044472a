"""Where a run stands.

In: what each step measured.
Out: steps, tokens and losses so far: all that a resumed run needs beside the checkpoint.
Promise: a value; equal after the same steps, whatever happened in between.
Never: holds times, which a resumed run measures anew.
"""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True)
class TrainingState:
    """The loop's own state."""

    steps: int = 0
    """Optimizer steps done."""
    tokens_seen: int = 0
    """Trained tokens of all steps and ranks."""
    first_loss: float | None = None
    final_loss: float | None = None

    def after_step(self, loss: float, tokens: int) -> Self:
        """The state one step later."""
        return replace(
            self,
            steps=self.steps + 1,
            tokens_seen=self.tokens_seen + tokens,
            first_loss=loss if self.first_loss is None else self.first_loss,
            final_loss=loss,
        )
